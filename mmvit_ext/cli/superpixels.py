"""Measure how well the superpixels of an SPFormer follow label maps, beside plain patches and SLIC.

    mmvit superpixels CONFIG CHECKPOINT
    mmvit superpixels CONFIG CHECKPOINT --images 200 --out quality.json

CONFIG is a `configs/spformer/superpixel-quality_*.py`, which takes the checkpoint of a classifier, too, or a
segmentation config with an SPFormer, whose test data is used then. Every region takes the label that most of its pixels
have; the mIoU of that is the best that a classifier of these regions could reach.
"""

import json

from mmvit_ext.cli.arguments import MODEL_ARGUMENTS, Namespace, Parser, add_shared, keywords
from mmvit_ext.errors import UserError
from mmvit_ext.evaluation.quality_table import quality_table, superpixel_quality
from mmvit_ext.files import atomic_path, kept_files

KEYS = ('regions', 'best mIoU', 'regions per image')


def add_arguments(parser: Parser) -> None:
    add_shared(parser, 'config', 'checkpoint')
    parser.add_argument('--images', type=int, metavar='N', help='only N test images, evenly spread')
    parser.add_argument('--out', metavar='FILE.json', help='write the figures, too')
    add_shared(parser, '--force', *MODEL_ARGUMENTS)


def run(args: Namespace) -> None:
    if args.out and not args.out.endswith('.json'):
        raise UserError(f'--out {args.out}: expected a file name that ends in .json')
    with kept_files([args.config, args.checkpoint], [args.out], force=args.force):
        rows = superpixel_quality(**keywords(args, 'out', 'force'))
        print(quality_table(rows))
        if args.out:
            with atomic_path(args.out) as file:
                file.write_text(json.dumps([dict(zip(KEYS, row, strict=True)) for row in rows], indent=2) + '\n')
