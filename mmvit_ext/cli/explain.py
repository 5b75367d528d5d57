"""Show what a trained model computes for images: pictures, numbers, and a page with them.

    mmvit explain gradcat CONFIG CHECKPOINT image.jpg --out results --classes dog
    mmvit explain cam CONFIG CHECKPOINT folder --out results
    mmvit explain tokens CONFIG CHECKPOINT folder --out results --beside OTHER_CONFIG OTHER_CHECKPOINT
    mmvit explain superpixels CONFIG CHECKPOINT "photos/**/*.jpg" --out results --size 600
    mmvit explain atm CONFIG CHECKPOINT image.jpg --out results --classes sky "swivel chair"

Writes `METHOD.html`, a page that any browser shows without a network, pictures and arrays into `METHOD/`, and the facts
about each image into `METHOD/NAME.json`. An image that cannot be read is reported at the end; the others are done, the
exit code is 2.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmvit_ext.cli.arguments import MODEL_ARGUMENTS, Namespace, Parser, add_shared
from mmvit_ext.config.loading import load_config
from mmvit_ext.errors import UserError, say
from mmvit_ext.inference.images import report_failures
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.interpret.explain import Explainer, explain_images
from mmvit_ext.interpret.tsne import COLOURINGS

METHODS = {
    'gradcat': (
        'gradcat_pictures.explain_gradcat',
        'the path through the levels of a NesT to the block with the largest share in a class',
        ('--classes', '--top', '--rivals', '--sign', '--region'),
    ),
    'cam': (
        'cam.explain_cam',
        'the regions of the last map of a classifier that support a class, and the box around them',
        ('--classes', '--top', '--rivals', '--threshold', '--save-maps'),
    ),
    'tokens': (
        'tokens.explain_tokens',
        'maps of the tokens after chosen blocks, and t-SNE of the patches',
        ('--blocks', '--beside', '--channels', '--save-maps', '--no-tsne', '--points', '--colours', '--seed'),
    ),
    'superpixels': ('superpixels.explain_superpixels', 'the superpixels that an SPFormer sees', ('--montage-only',)),
    'atm': (
        'atm_masks.explain_masks',
        'the masks of each stage of an Attention-to-Mask head, or of the queries of an EoMT',
        ('--classes', '--top', '--save-masks', '--opacity'),
    ),
}
"""The function of each method, imported when it runs as it may need a library, what it shows, and its options."""

NAMES = 'classes to show: names, in quotes where they have spaces, or numbers from 0 (atm: names only)'
REGION = 'where the scores of a segmentor are averaged: left top right bottom in pixels, or a mask file'
TOP = {
    'gradcat': 'classes with the highest logits, of a segmentor the largest predicted areas (default: 3)',
    'cam': 'most probable classes (default: 3)',
    'atm': 'classes with the largest predicted area (default: 4)',
}

OPTIONS: dict[str, dict[str, Any]] = {
    '--size': dict(dest='edge', type=int, metavar='PIXELS', help='longer edge of each picture of a sheet'),
    '--classes': dict(nargs='+', metavar='CLASS', help=NAMES),
    '--top': dict(type=int, metavar='K', help='show the K'),
    '--rivals': dict(type=int, metavar='N', help='strongest other classes that are subtracted as a mean (default: 3)'),
    '--sign': dict(choices=('positive', 'negative'), help='of the gradient (default: positive)'),
    '--region': dict(nargs='+', metavar='EDGE|FILE', help=REGION),
    '--threshold': dict(type=float, help='share of the range of a map above which the object lies'),
    '--save-maps': dict(action='store_true', help='write the maps as arrays, too'),
    '--blocks': dict(nargs='+', type=int, metavar='N', help='from 1 (default: the first, the middle, the last)'),
    '--beside': dict(nargs=2, metavar=('CONFIG', 'CHECKPOINT'), help='another model to draw beside'),
    '--channels': dict(type=int, metavar='K', help='draw the K channels that vary most (default: 6)'),
    '--no-tsne': dict(dest='tsne', action='store_false', help='leave out t-SNE'),
    '--points': dict(type=int, metavar='N', help='patches in t-SNE (default: 1000)'),
    '--colours': dict(dest='colouring', choices=COLOURINGS, help='of t-SNE (default: image, for a single image place)'),
    '--seed': dict(type=int, help='of t-SNE (default: 0)'),
    '--montage-only': dict(action='store_true', help='no single pictures and no arrays'),
    '--save-masks': dict(action='store_true', help='write the arrays, too'),
    '--opacity': dict(type=float, help='of the colours over the grey image, 0 to 1 (default: 1)'),
}
"""Stored under the names that the methods' functions have for them; what is left out has the functions' defaults."""


def add_arguments(parser: Parser) -> None:
    methods = parser.add_subparsers(dest='method', required=True)
    for name, (_, text, options) in METHODS.items():
        sub = methods.add_parser(name, help=text, description=f'Show {text}.')
        add_shared(sub, 'config', 'checkpoint', 'images', '--out')
        for option in ('--size', *options):
            added = sub.add_argument(option, default=None, **OPTIONS[option])
            if option == '--top':
                added.help = f'{added.help} {TOP[name]}'
        add_shared(sub, '--force', *MODEL_ARGUMENTS)


def _region(words: Sequence[str]) -> str | list[float]:
    """A mask file, or the four edges of a box."""
    if len(words) == 1:
        return words[0]
    try:
        box = [float(word) for word in words]
    except ValueError:
        box = []
    if len(box) != 4:
        wanted = 'expected left, top, right and bottom in pixels, or a mask file'
        raise UserError(f'--region {" ".join(words)} is no region: {wanted}')
    return box


def run(args: Namespace) -> int:
    path, _, names = METHODS[args.method]
    settings = [OPTIONS[name].get('dest', name[2:].replace('-', '_')) for name in ('--size', *names)]
    options = {name: getattr(args, name) for name in settings if getattr(args, name) is not None}
    if 'region' in options:
        options['region'] = _region(options['region'])
    module, _, function = path.partition('.')
    explain = getattr(importlib.import_module(f'mmvit_ext.interpret.{module}'), function)
    model = {name: getattr(args, name) for name in ('device', 'cfg_options', 'allow_partial', 'trust', 'force')}

    def make(predictor: Predictor, folder: Path, count: int) -> Explainer:
        if 'beside' in options:
            config, checkpoint = options['beside']
            trusted = {name: model[name] for name in ('allow_partial', 'trust')}
            options['beside'] = Predictor(load_config(config), checkpoint, predictor.device, **trusted), config
        counted = {'count': count} if args.method == 'tokens' else {}
        return explain(predictor, folder, args.config, **counted, **options)

    outcome = explain_images(args.method, args.config, args.checkpoint, args.images, args.out, make, **model)
    if outcome.written:
        say(f'{len(outcome.written)} images explained, open {Path(args.out) / args.method}.html')
    return report_failures(outcome, 'explain')
