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

from mmengine.config import DictAction

from mmvit_ext.engine.errors import run_command
from mmvit_ext.engine.inference import report_failures
from mmvit_ext.interpret.superpixels import CELL, visualize_superpixels


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description='Show the superpixels that an SPFormer sees in images.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file (.pth)')
    parser.add_argument('images', nargs='+', metavar='IMAGE|FOLDER|GLOB', help='what to show')
    parser.add_argument('--out', required=True, help='folder for the results')
    parser.add_argument('--montage-only', action='store_true', help='no single pictures and no arrays')
    parser.add_argument(
        '--size', type=int, default=CELL, help=f'longer edge of each picture of a montage in pixels (default: {CELL})'
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override the config')
    parser.add_argument(
        '--allow-partial-weights', action='store_true', help='go on when the checkpoint does not fit the model'
    )
    parser.add_argument(
        '--trust-source',
        action='store_true',
        help='read a checkpoint that holds more than tensors; this runs code from the file',
    )
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')
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
        device=args.device,
        cfg_options=args.cfg_options,
        allow_partial=args.allow_partial_weights,
        trust=args.trust_source,
    )
    print(f'superpixels of {len(outcome.written)} images drawn, results in {args.out}')
    return report_failures(outcome, 'visualize_superpixels')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, argv, name='visualize_superpixels')


if __name__ == '__main__':
    sys.exit(main())
