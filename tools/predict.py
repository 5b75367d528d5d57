#!/usr/bin/env python
"""Predict images: the command `mmvit predict`; `--help` explains it."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('predict')
