#!/usr/bin/env python
"""List the models that have a name: the command `mmvit models`; `--help` explains it."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('models')
