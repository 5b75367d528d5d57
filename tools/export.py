#!/usr/bin/env python
"""Export a trained segmentor for one image size.

    python tools/export.py CONFIG CHECKPOINT model.onnx --size 512 512

The graph takes normalised images (1, 3, H, W) and gives class scores (1, N, H, W).
"""

import argparse
import sys
from collections.abc import Sequence

from mmengine.registry import MODELS, init_default_scope

from mmvit_ext.checkpoints.reading import extract_state_dict, read_checkpoint
from mmvit_ext.checkpoints.report import check_report, load_weights
from mmvit_ext.checks.types import check_types
from mmvit_ext.cli.command import run_command
from mmvit_ext.config.building import discard_pretrained
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.export import SUFFIXES, export_segmentor, write_exported


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description='Export a trained segmentor for one image size.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file (.pth)')
    parser.add_argument('out', help='file to write: .pt2 (torch.export) or .onnx')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help="pixels (default: the config's crop)")
    parser.add_argument(
        '--trust', action='store_true', help='read a checkpoint that holds more than tensors; this runs code from it'
    )
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')
    return parser


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    if not args.out.endswith(SUFFIXES):
        raise UserError(f'{args.out}: name a file that ends in .pt2 (torch.export) or .onnx')
    cfg = load_config(args.config)
    scope = prepare_scope(cfg)
    init_default_scope(scope)
    check_types(cfg, scope)
    if scope != 'mmseg':
        raise UserError(f'{args.config} is a {scope} config: only segmentation models can be exported')
    size = tuple(args.size or cfg.get('crop_size') or ())
    if len(size) != 2 or min(size) < 1:
        raise UserError('--size must name height and width in pixels, for example --size 512 512')
    discard_pretrained(cfg.model)
    model = MODELS.build(cfg.model)
    state = extract_state_dict(read_checkpoint(args.checkpoint, trust=args.trust), args.checkpoint)
    check_report(load_weights(model, state), args.checkpoint, 'the model', strict=True)
    write_exported(export_segmentor(model, (size[0], size[1])), args.out)
    print(f'{args.out}: images (1, 3, {size[0]}, {size[1]}) to scores (1, {model.out_channels}, {size[0]}, {size[1]})')
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, argv, name='export')


if __name__ == '__main__':
    sys.exit(main())
