#!/usr/bin/env python
"""Measure superpixels against label maps: the command `mmvit superpixels`; `--help` explains it."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('superpixels')
