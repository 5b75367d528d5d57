#!/usr/bin/env python
"""Measure how well the superpixels of an SPFormer follow label maps, beside plain patches and SLIC.

    python tools/superpixel_quality.py CONFIG CHECKPOINT
    python tools/superpixel_quality.py CONFIG CHECKPOINT --images 200 --out quality.json

CONFIG is a `configs/spformer/superpixel-quality_*.py`, which takes the checkpoint of a classifier, too, or a
segmentation config with an SPFormer, whose test data is used then. Every region takes the label that most of its pixels
have; the mIoU of that is the best that a classifier of these regions could reach.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from mmvit_ext.cli.arguments import add_model_arguments, model_options
from mmvit_ext.cli.command import run_command
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.evaluation.quality_table import quality_table, superpixel_quality
from mmvit_ext.files import atomic_path


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description='Measure superpixels against label maps.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file (.pth)')
    parser.add_argument('--images', type=int, metavar='N', help='only the first N test images')
    parser.add_argument('--out', metavar='FILE.json', help='write the figures, too')
    add_model_arguments(parser)
    return parser


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    if args.out and not args.out.endswith('.json'):
        raise UserError(f'--out {args.out}: expected a file name that ends in .json')
    rows = superpixel_quality(
        args.config,
        args.checkpoint,
        images=args.images,
        **model_options(args),
    )
    print(quality_table(rows))
    if args.out:
        with atomic_path(args.out) as file:
            keys = ('regions', 'best mIoU', 'regions per image')
            file.write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2) + '\n')
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, argv, name='superpixel_quality')


if __name__ == '__main__':
    sys.exit(main())
