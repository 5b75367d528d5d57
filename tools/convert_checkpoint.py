#!/usr/bin/env python
"""Convert a released checkpoint: the command `mmvit convert`; `--help` explains it."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('convert')
