#!/usr/bin/env python3
"""Write the mini dataset: ``make_mini_dataset.py OUT [--images N --size HxW --seed S --force]``."""

from mmvit_ext.cli.main import run_tool

if __name__ == '__main__':
    run_tool('mini_dataset')
