#!/usr/bin/env python3
"""Write the mini dataset: ``make_mini_dataset.py OUT [--images N --size HxW --seed S --force]``."""

import sys

from mmvit_ext.cli.mini_dataset import main

if __name__ == '__main__':
    sys.exit(main())
