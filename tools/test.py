#!/usr/bin/env python
"""Evaluate a checkpoint: the command `mmvit test`; `--help` explains it."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('test')
