#!/usr/bin/env python
"""Predict a test set for its server: the command `mmvit submit`; `--help` explains it."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('submit')
