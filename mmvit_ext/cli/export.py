"""Export a trained segmentor or classifier as a graph.

    mmvit export CONFIG CHECKPOINT model.onnx --size 512 512
    mmvit export CONFIG CHECKPOINT model.onnx --dynamic

The graph takes normalised images (1, C, H, W) with the channels of the model. It gives the class scores (1, N, H, W) of
a segmentor or the logits (1, N) of a classifier. With --dynamic it takes any number of images of any size.
"""

from mmvit_ext.checkpoints.reading import extract_state_dict, read_checkpoint
from mmvit_ext.checkpoints.report import check_report, load_weights
from mmvit_ext.checks.before_run import check_types
from mmvit_ext.cli.arguments import Namespace, Parser, add_shared
from mmvit_ext.config.building import build_model
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.errors import UserError, say
from mmvit_ext.files import kept_files
from mmvit_ext.inference.export import SUFFIXES, export_model, write_exported
from mmvit_ext.models.backbones.base import image_channels


def add_arguments(parser: Parser) -> None:
    add_shared(parser, 'config', 'checkpoint')
    parser.add_argument('out', help='file to write: .pt2 (torch.export) or .onnx')
    size = "pixels (default: the config's crop or its img_size)"
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help=size)
    parser.add_argument('--dynamic', action='store_true', help='for any number of images of any height and width')
    add_shared(parser, '--force', '--trust', '--traceback')


def run(args: Namespace) -> None:
    if not args.out.endswith(SUFFIXES):
        raise UserError(f'{args.out}: name a file that ends in .pt2 (torch.export) or .onnx')
    cfg = load_config(args.config)
    scope = prepare_scope(cfg)
    check_types(cfg, scope)
    if scope not in ('mmseg', 'mmpretrain'):
        raise UserError(f'{args.config} is a {scope} config: only segmentors and classifiers can be exported')
    trained = cfg.get('crop_size') or cfg.model.backbone.get('img_size') or (0, 0)
    height, width = size = tuple(args.size or ((trained, trained) if isinstance(trained, int) else trained))
    if min(size) < 1:
        raise UserError('--size must name height and width in pixels, for example --size 512 512')
    model = build_model(cfg)
    state = extract_state_dict(read_checkpoint(args.checkpoint, trust=args.trust), args.checkpoint)
    check_report(load_weights(model, state), args.checkpoint, 'the model', strict=True)
    with kept_files([args.config, args.checkpoint], [args.out], force=args.force):
        write_exported(export_model(model, (height, width), dynamic=args.dynamic), args.out)
    images = ('B', 'H', 'W') if args.dynamic else (1, height, width)
    shape = f'({images[0]}, {image_channels(model)}, {images[1]}, {images[2]})'
    say(f'{args.out}: images {shape} to {"class scores of each pixel" if scope == "mmseg" else "logits of each image"}')
