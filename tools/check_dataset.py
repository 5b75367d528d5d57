#!/usr/bin/env python
"""Check the datasets of a config: the command `mmvit check`; `--help` explains it."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('check')
