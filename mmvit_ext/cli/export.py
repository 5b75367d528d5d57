"""Export a trained segmentor, classifier or detector as a graph.

    mmvit export CONFIG CHECKPOINT model.onnx --size 512 512
    mmvit export CONFIG CHECKPOINT model.onnx --dynamic
    mmvit export CONFIG CHECKPOINT model.onnx --dynamic --int8

The graph takes normalised images (1, C, H, W) with the channels of the model. It gives the class scores (1, N, H, W) of
a segmentor, the logits (1, N) of a classifier, or the boxes, scores, labels and masks of a detector. With --dynamic it
takes any number of images of any size. With --int8 a second graph, model_int8.onnx, multiplies integers of 8 bit, and
both are measured on the config's test data.
"""

from pathlib import Path

from mmengine import Config

from mmvit_ext.checkpoints.reading import extract_state_dict, read_checkpoint
from mmvit_ext.checkpoints.report import check_report, load_weights
from mmvit_ext.checks.before_run import check_before_run, check_types
from mmvit_ext.cli.arguments import Namespace, Parser, add_shared
from mmvit_ext.config.building import build_model, discard_pretrained
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.errors import UserError, say
from mmvit_ext.evaluation.exported import compare
from mmvit_ext.files import kept_files
from mmvit_ext.inference.export import SUFFIXES, export_model, write_exported
from mmvit_ext.inference.quantise import check_installed, quantise
from mmvit_ext.machine import progress_bar
from mmvit_ext.models.backbones.base import image_channels

OUTPUTS = {
    'mmseg': 'class scores of each pixel',
    'mmpretrain': 'logits of each image',
    'mmdet': 'boxes, scores and labels of each image, best first',
}


def trained_size(cfg: Config) -> tuple[int, int] | None:
    """Height and width in pixels of the images that a config trains with, ``None`` where it does not say."""
    model = cfg.model
    crops = [step.get('crop_size') for key in ('test_pipeline', 'train_pipeline') for step in cfg.get(key, ())]
    stated = (
        cfg.get('crop_size'),
        model.get('backbone', {}).get('img_size'),
        (model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}).get('size'),
        *(crops if cfg.get('default_scope') != 'mmdet' else ()),
    )
    size = next(filter(None, stated), None)
    return (size, size) if isinstance(size, int) else size and tuple(size)


def add_arguments(parser: Parser) -> None:
    add_shared(parser, 'config', 'checkpoint')
    parser.add_argument('out', help='file to write: .pt2 (torch.export) or .onnx')
    size = "pixels (default: those of the config's training)"
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help=size)
    parser.add_argument('--dynamic', action='store_true', help='for any number of images of any height and width')
    int8 = 'also write OUT_int8.onnx for a CPU and measure both; the config has to find its data'
    parser.add_argument('--int8', action='store_true', help=int8)
    limit = 'test images, evenly spread, that --int8 measures (default: all)'
    parser.add_argument('--limit', type=int, metavar='N', help=limit)
    add_shared(parser, '--cfg-options', '--allow-partial-weights', '--force', '--trust', '--traceback')


def run(args: Namespace) -> None:
    if not args.out.endswith(SUFFIXES):
        raise UserError(f'{args.out}: name a file that ends in .pt2 (torch.export) or .onnx')
    if args.int8 and not (args.dynamic and args.out.endswith('.onnx')):
        raise UserError('--int8 measures images of several sizes: give it a file that ends in .onnx and --dynamic')
    if args.limit is not None and not (args.int8 and args.limit > 0):
        raise UserError(f'--limit {args.limit}: expected 1 or more images, and --int8, which measures them')
    cfg = load_config(args.config, args.cfg_options)
    scope = prepare_scope(cfg)
    check_types(cfg, scope)
    if args.int8 and scope == 'mmdet':
        raise UserError('--int8 measures segmentors and classifiers only: leave it out for a detector')
    if args.int8:
        check_installed()
    # For a detector any size would do, and checks of a small one are quick.
    size = args.size or ((256, 256) if scope == 'mmdet' and args.dynamic else trained_size(cfg))
    if size is None:
        raise UserError(f'{args.config} states no size of images: give one, for example --size 512 512')
    height, width = size
    if min(size) < 1:
        raise UserError('--size must name height and width in pixels, for example --size 512 512')
    if args.int8:
        discard_pretrained(cfg.model)
        check_before_run(cfg, scope, ['test'])
    model = build_model(cfg)
    state = extract_state_dict(read_checkpoint(args.checkpoint, trust=args.trust), args.checkpoint)
    report = load_weights(model, state)
    check_report(report, args.checkpoint, 'the model', strict=True, allow_partial=args.allow_partial)
    model.eval()
    small = str(Path(args.out).with_name(f'{Path(args.out).stem}_int8.onnx'))
    with kept_files([args.config, args.checkpoint], [args.out, *([small] if args.int8 else [])], force=args.force):
        with progress_bar('exporting') as bar:
            task = bar.add_task('', total=2)
            program = export_model(model, (height, width), dynamic=args.dynamic)
            bar.advance(task)
            write_exported(program, args.out, model)
            bar.advance(task)
        images = ('B', 'H', 'W') if args.dynamic else (1, height, width)
        shape = f'({images[0]}, {image_channels(model)}, {images[1]}, {images[2]})'
        say(f'{args.out}: images {shape} to {OUTPUTS[scope]}')
        if args.int8:
            quantise(args.out, small)
            for path, metrics in compare(cfg, model, [args.out, small], args.limit).items():
                measured = ', '.join(f'{name} {value:.2f}' for name, value in metrics.items())
                say(f'{path}: {Path(path).stat().st_size / 2**20:.1f} MiB, {measured}')
