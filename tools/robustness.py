#!/usr/bin/env python
"""Measure a model on changed images: the command `mmvit robustness`; `--help` explains it."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('robustness')
