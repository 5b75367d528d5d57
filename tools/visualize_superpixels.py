#!/usr/bin/env python
"""Show the superpixels that an SPFormer sees in images.

    python tools/visualize_superpixels.py CONFIG CHECKPOINT image.jpg --out results
    python tools/visualize_superpixels.py CONFIG CHECKPOINT folder --out results --montage-only
    python tools/visualize_superpixels.py CONFIG CHECKPOINT "photos/**/*.jpg" --out results --size 600

Writes `montages/NAME.png`, a row per head and one for all heads merged, a column per superpixel cross attention (SCA)
and iteration; `superpixels/NAME/sca1-iteration1-head1_boundaries.png` and `..._labels.png` for each of them; and
`arrays/NAME.npy`, the index of the superpixel of each pixel (modules, iterations, heads + 1, height, width), merged
heads last. An image that cannot be read is reported at the end; the others are done, the exit code is 2.
"""

import argparse
import sys
from collections.abc import Sequence

from mmvit_ext.engine.arguments import add_image_arguments, add_model_arguments, model_options
from mmvit_ext.engine.errors import run_command
from mmvit_ext.engine.inference import report_failures
from mmvit_ext.interpret.superpixels import CELL, visualize_superpixels


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description='Show the superpixels that an SPFormer sees in images.')
    add_image_arguments(parser, 'what to show')
    parser.add_argument('--montage-only', action='store_true', help='no single pictures and no arrays')
    parser.add_argument(
        '--size', type=int, default=CELL, help=f'longer edge of each picture of a montage in pixels (default: {CELL})'
    )
    add_model_arguments(parser)
    return parser


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    outcome = visualize_superpixels(
        args.config,
        args.checkpoint,
        args.images,
        args.out,
        montage_only=args.montage_only,
        edge=args.size,
        **model_options(args),
    )
    print(f'superpixels of {len(outcome.written)} images drawn, results in {args.out}')
    return report_failures(outcome, 'visualize_superpixels')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, argv, name='visualize_superpixels')


if __name__ == '__main__':
    sys.exit(main())
