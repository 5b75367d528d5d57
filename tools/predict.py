#!/usr/bin/env python
"""Predict images with a trained model and write pictures of the results.

    python tools/predict.py CONFIG CHECKPOINT image.jpg --out results
    python tools/predict.py CONFIG CHECKPOINT folder --out results --save-mask
    python tools/predict.py CONFIG CHECKPOINT "photos/**/*.jpg" --out results --opacity 0.7

Writes `overlays/NAME.png` and, with --save-mask, `labels/NAME.png` (class index of each pixel, from 0). Segmentation is
drawn as class colours over the image with a legend of the classes that are present below it, detection as boxes and
masks with names and scores, where a small image is enlarged first. Classification configs get the picture that their
library draws. An image that cannot be read is reported at the end; the others are done, the exit code is 2.
"""

import argparse
import sys
from collections.abc import Sequence

from mmengine.config import DictAction

from mmvit_ext.engine.errors import run_command
from mmvit_ext.engine.inference import predict_images, report_failures


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description='Predict images with a trained model.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file (.pth)')
    parser.add_argument('images', nargs='+', metavar='IMAGE|FOLDER|GLOB', help='what to predict')
    parser.add_argument('--out', required=True, help='folder for the results')
    parser.add_argument('--opacity', type=float, default=0.5, help='of the class colours, 0 to 1 (default: 0.5)')
    parser.add_argument('--no-legend', action='store_true', help='pictures of exactly the size of the images')
    parser.add_argument('--save-mask', action='store_true', help='write label maps, too')
    parser.add_argument(
        '--score-threshold', type=float, default=0.3, help='least score of the objects drawn, 0 to 1 (default: 0.3)'
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
    outcome = predict_images(
        args.config,
        args.checkpoint,
        args.images,
        args.out,
        opacity=args.opacity,
        legend=not args.no_legend,
        save_mask=args.save_mask,
        score_threshold=args.score_threshold,
        device=args.device,
        cfg_options=args.cfg_options,
        allow_partial=args.allow_partial_weights,
        trust=args.trust_source,
    )
    print(f'{len(outcome.written)} images predicted, results in {args.out}')
    return report_failures(outcome, 'predict')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, argv, name='predict')


if __name__ == '__main__':
    sys.exit(main())
