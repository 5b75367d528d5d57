#!/usr/bin/env python
"""Measure a model on turned or partly covered test images, and plot how its figures fall.

    python tools/robustness.py rotation CONFIG CHECKPOINT --out results
    python tools/robustness.py rotation CONFIG CHECKPOINT --compare OTHER_CONFIG OTHER_CHECKPOINT --out results
    python tools/robustness.py rotation CONFIG CHECKPOINT --angles 0 30 60 90 --out results
    python tools/robustness.py occlusion CONFIG CHECKPOINT --areas 0 0.1 0.3 --images 500 --out results

Works with segmentation and classification configs. Writes `rotation.json` (`occlusion.json`), the plot `rotation.png`
and, of models with superpixels, `rotation_MODEL.png`: the first images with their superpixels. Labels under the
occluder and outside the turned image do not count.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmvit_ext.cli.arguments import add_model_arguments, model_options
from mmvit_ext.cli.command import run_command
from mmvit_ext.evaluation.robustness import KINDS, curves_table, measure_robustness


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description='Measure a model on turned or partly covered test images.')
    kinds = parser.add_subparsers(dest='kind', required=True)
    for kind, option, text in (
        ('rotation', '--angles', 'degrees, clockwise'),
        ('occlusion', '--areas', 'shares of the image that are covered, 0 to 0.75'),
    ):
        sub = kinds.add_parser(kind, help=text)
        sub.add_argument('config', help='config file, or NAME=FILE')
        sub.add_argument('checkpoint', help='checkpoint file (.pth)')
        shown = ' '.join(f'{value:g}' for value in KINDS[kind].default)
        sub.add_argument(option, dest='values', nargs='+', type=float, help=f'{text} (default: {shown})')
        sub.add_argument(
            '--compare',
            nargs=2,
            action='append',
            default=[],
            metavar=('CONFIG', 'CHECKPOINT'),
            help='another model for the same plot; may be repeated',
        )
        sub.add_argument('--out', required=True, help='folder for the results')
        sub.add_argument('--metric', help='which metric is drawn (default: mIoU or accuracy/top1)')
        sub.add_argument('--images', type=int, metavar='N', help='only the first N test images')
        sub.add_argument(
            '--pictures', type=int, default=4, metavar='N', help='draw the superpixels of N images (default: 4)'
        )
        add_model_arguments(sub)
    return parser


def _named(config: str) -> tuple[str, str]:
    name, separator, path = config.partition('=')
    return (name, path) if separator else (Path(config).stem, config)


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    models = [(*_named(config), checkpoint) for config, checkpoint in [(args.config, args.checkpoint), *args.compare]]
    curves = measure_robustness(
        args.kind,
        models,
        args.out,
        values=args.values,
        metric=args.metric,
        images=args.images,
        pictures=args.pictures,
        **model_options(args),
    )
    print(curves_table(curves))
    print(f'results in {args.out}')
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, argv, name='robustness')


if __name__ == '__main__':
    sys.exit(main())
