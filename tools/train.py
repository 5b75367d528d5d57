#!/usr/bin/env python
"""Train a model: the command `mmvit train`; `--help` explains it."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('train')
