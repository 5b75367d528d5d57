#!/usr/bin/env python
"""Export a trained segmentor: the command `mmvit export`; `--help` explains it."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('export')
