#!/usr/bin/env python
"""Show which pixels the class queries of a SegViT attend to, stage by stage.

    python tools/show_masks.py CONFIG CHECKPOINT image.jpg --out results
    python tools/show_masks.py CONFIG CHECKPOINT folder --out results --top 6 --save-masks
    python tools/show_masks.py CONFIG CHECKPOINT "photos/**/*.jpg" --out results --classes sky "swivel chair"

Writes `masks/NAME.png`: a row per class with the image, the mask of each stage and the prediction, in which
the other classes are pale; and, with --save-masks, `arrays/NAME.npz` with the arrays. An image that cannot be read is
reported at the end; the others are done, the exit code is 2.
"""

import argparse
import sys
from collections.abc import Sequence

from mmvit_ext.engine.arguments import add_image_arguments, add_model_arguments, model_options
from mmvit_ext.engine.errors import run_command
from mmvit_ext.engine.inference import report_failures
from mmvit_ext.interpret.atm_masks import CELL, TOP, show_masks


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description='Show the masks of each stage of an Attention-to-Mask head.')
    add_image_arguments(parser, 'what to show')
    parser.add_argument(
        '--classes', nargs='+', metavar='NAME', help='classes to show, in quotes where they have spaces'
    )
    parser.add_argument(
        '--top', type=int, metavar='K', help=f'show the K classes with the largest predicted area (default: {TOP})'
    )
    parser.add_argument('--save-masks', action='store_true', help='write the arrays, too')
    parser.add_argument(
        '--opacity', type=float, default=1.0, help='of the colours over the grey image, 0 to 1 (default: 1)'
    )
    parser.add_argument(
        '--size', type=int, default=CELL, help=f'longer edge of each picture in pixels (default: {CELL})'
    )
    add_model_arguments(parser)
    return parser


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    outcome = show_masks(
        args.config,
        args.checkpoint,
        args.images,
        args.out,
        classes=args.classes,
        top=args.top,
        save_masks=args.save_masks,
        opacity=args.opacity,
        edge=args.size,
        **model_options(args),
    )
    print(f'masks of {len(outcome.written)} images drawn, results in {args.out}')
    return report_failures(outcome, 'show_masks')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, argv, name='show_masks')


if __name__ == '__main__':
    sys.exit(main())
