#!/usr/bin/env python
"""Generate images with a trained generator.

    python tools/generate.py CONFIG CHECKPOINT --num 64 --seed 0 --out results

Writes `samples/00000.png` and so on, and `grid.png` with the first 64. The same seed gives the same images, whatever
their number.
"""

import argparse
import sys
from collections.abc import Sequence

from mmvit_ext.cli.arguments import add_model_arguments, model_options
from mmvit_ext.cli.command import run_command
from mmvit_ext.inference.generate import generate_images
from mmvit_ext.inference.images import report_failures


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description='Generate images with a trained generator.')
    parser.add_argument('config', help='config file of the training')
    parser.add_argument('checkpoint', help='checkpoint file (.pth)')
    parser.add_argument('--num', type=int, default=64, help='number of images (default: 64)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the noise (default: 0)')
    parser.add_argument('--columns', type=int, default=8, help='images of a row of the grid (default: 8)')
    parser.add_argument('--out', required=True, help='folder for the results')
    add_model_arguments(parser)
    return parser


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    outcome = generate_images(
        args.config,
        args.checkpoint,
        args.out,
        num=args.num,
        seed=args.seed,
        columns=args.columns,
        **model_options(args),
    )
    print(f'{len(outcome.written)} images generated, results in {args.out}')
    return report_failures(outcome, 'generate')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, argv, name='generate')


if __name__ == '__main__':
    sys.exit(main())
