#!/usr/bin/env python
"""Measure the networks on a GPU: the command `mmvit bench`; `--help` explains it."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('bench')
