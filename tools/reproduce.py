#!/usr/bin/env python
"""Get a published row again: the command `mmvit reproduce`; `--help` explains it."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('reproduce')
