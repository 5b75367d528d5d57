#!/usr/bin/env python
"""Generate images: the command `mmvit generate`; `--help` explains it."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('generate')
