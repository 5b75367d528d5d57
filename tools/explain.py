#!/usr/bin/env python
"""Show what a trained model looks at: the command `mmvit explain`; `--help` explains it."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('explain')
