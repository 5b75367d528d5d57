"""Export a trained segmentor for one image size.

    mmvit export CONFIG CHECKPOINT model.onnx --size 512 512

The graph takes normalised images (1, 3, H, W) and gives class scores (1, N, H, W).
"""

import argparse

from mmvit_ext.checkpoints.reading import extract_state_dict, read_checkpoint
from mmvit_ext.checkpoints.report import check_report, load_weights
from mmvit_ext.checks.types import check_types
from mmvit_ext.cli.arguments import add_shared
from mmvit_ext.config.building import build_model
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.errors import UserError, say
from mmvit_ext.files import kept_files
from mmvit_ext.inference.export import SUFFIXES, export_segmentor, write_exported


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared(parser, 'config', 'checkpoint')
    parser.add_argument('out', help='file to write: .pt2 (torch.export) or .onnx')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help="pixels (default: the config's crop)")
    add_shared(parser, '--force', '--trust', '--traceback')


def run(args: argparse.Namespace) -> None:
    if not args.out.endswith(SUFFIXES):
        raise UserError(f'{args.out}: name a file that ends in .pt2 (torch.export) or .onnx')
    cfg = load_config(args.config)
    scope = prepare_scope(cfg)
    check_types(cfg, scope)
    if scope != 'mmseg':
        raise UserError(f'{args.config} is a {scope} config: only segmentation models can be exported')
    height, width = size = tuple(args.size or cfg.get('crop_size') or (0, 0))
    if min(size) < 1:
        raise UserError('--size must name height and width in pixels, for example --size 512 512')
    model = build_model(cfg)
    state = extract_state_dict(read_checkpoint(args.checkpoint, trust=args.trust), args.checkpoint)
    check_report(load_weights(model, state), args.checkpoint, 'the model', strict=True)
    with kept_files([args.config, args.checkpoint], [args.out], force=args.force):
        write_exported(export_segmentor(model, (height, width)), args.out)
    say(f'{args.out}: images (1, 3, {height}, {width}) to scores (1, {model.out_channels}, {height}, {width})')
