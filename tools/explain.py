#!/usr/bin/env python
"""Look inside a trained model: pictures and numbers of what it computes for images, and a page that shows them.

    python tools/explain.py gradcat CONFIG CHECKPOINT image.jpg --out results --classes dog
    python tools/explain.py cam CONFIG CHECKPOINT folder --out results
    python tools/explain.py tokens CONFIG CHECKPOINT folder --out results --beside OTHER_CONFIG OTHER_CHECKPOINT
    python tools/explain.py superpixels CONFIG CHECKPOINT "photos/**/*.jpg" --out results --size 600
    python tools/explain.py atm CONFIG CHECKPOINT image.jpg --out results --classes sky "swivel chair"

Writes `METHOD.html`, a page that any browser shows without a network, pictures and arrays into `METHOD/`, and the facts
about each image into `METHOD/NAME.json`. An image that cannot be read is reported at the end; the others are done, the
exit code is 2.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmvit_ext.cli.arguments import add_image_arguments, add_model_arguments, model_options
from mmvit_ext.cli.command import run_command
from mmvit_ext.config.loading import load_config
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.images import report_failures
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.interpret.explain import Explainer, explain_images
from mmvit_ext.interpret.tsne import COLOURINGS

Make = Callable[[Predictor, Path, int], Explainer]

# Methods are imported where they run: each needs one of the libraries only, and not everybody has all of them.


def _given(**options: Any) -> dict[str, Any]:
    """Options without those that were left out, so that the methods' own defaults hold."""
    return {name: value for name, value in options.items() if value is not None}


def _region(words: Sequence[str] | None) -> str | list[float] | None:
    """A mask file, or the four edges of a box."""
    if words is None or len(words) == 1:
        return words[0] if words else None
    try:
        box = [float(word) for word in words]
    except ValueError:
        box = []
    if len(box) != 4:
        raise UserError(
            f'--region {" ".join(words)} is no region: expected left, top, right and bottom in pixels, or a mask file'
        )
    return box


def _gradcat(args: argparse.Namespace) -> Make:
    from mmvit_ext.interpret.gradcat_pictures import explain_gradcat

    region = _region(args.region)
    return lambda predictor, folder, count: explain_gradcat(
        predictor,
        folder,
        args.config,
        classes=args.classes,
        top=args.top,
        region=region,
        **_given(sign=args.sign, rivals=args.rivals, edge=args.size),
    )


def _cam(args: argparse.Namespace) -> Make:
    from mmvit_ext.interpret.cam import explain_cam

    return lambda predictor, folder, count: explain_cam(
        predictor,
        folder,
        args.config,
        classes=args.classes,
        top=args.top,
        save_maps=args.save_maps,
        **_given(threshold=args.threshold, rivals=args.rivals, edge=args.size),
    )


def _atm(args: argparse.Namespace) -> Make:
    from mmvit_ext.interpret.atm_masks import explain_masks

    return lambda predictor, folder, count: explain_masks(
        predictor,
        folder,
        args.config,
        classes=args.classes,
        top=args.top,
        save_masks=args.save_masks,
        **_given(opacity=args.opacity, edge=args.size),
    )


def _superpixels(args: argparse.Namespace) -> Make:
    from mmvit_ext.interpret.superpixels import explain_superpixels

    return lambda predictor, folder, count: explain_superpixels(
        predictor, folder, args.config, montage_only=args.montage_only, **_given(edge=args.size)
    )


def _tokens(args: argparse.Namespace) -> Make:
    from mmvit_ext.interpret.tokens import explain_tokens

    def make(predictor: Predictor, folder: Path, count: int) -> Explainer:
        beside = None
        if args.beside:
            config, checkpoint = args.beside
            shared = {name: model_options(args)[name] for name in ('allow_partial', 'trust')}
            beside = Predictor(load_config(config), checkpoint, predictor.device, **shared), config
        return explain_tokens(
            predictor,
            folder,
            args.config,
            count,
            blocks=args.blocks,
            beside=beside,
            save_maps=args.save_maps,
            tsne=not args.no_tsne,
            colouring=args.colours,
            **_given(channels=args.channels, edge=args.size, points=args.points, seed=args.seed),
        )

    return make


METHODS: dict[str, tuple[str, Callable[[argparse.Namespace], Make]]] = {
    'gradcat': ('the path through the levels of a NesT to the block that speaks most for a class', _gradcat),
    'cam': ('where the last map of a classifier speaks for a class, and the box around it', _cam),
    'tokens': ('maps of the tokens after chosen blocks, and t-SNE of the patches', _tokens),
    'superpixels': ('the superpixels that an SPFormer sees', _superpixels),
    'atm': ('the masks of each stage of an Attention-to-Mask head', _atm),
}


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description='Look inside a trained model.')
    methods = parser.add_subparsers(dest='method', required=True)
    subs = {}
    for name, (text, _) in METHODS.items():
        subs[name] = sub = methods.add_parser(name, help=text, description=f'Show {text}.')
        add_image_arguments(sub, 'what to explain')
        sub.add_argument('--size', type=int, metavar='PIXELS', help='longer edge of each picture of a sheet')
        add_model_arguments(sub)
    for name, whole in (
        ('gradcat', 'classes with the highest logits, of a segmentor the largest predicted areas (default: 3)'),
        ('cam', 'most probable classes (default: 3)'),
        ('atm', 'classes with the largest predicted area (default: 4)'),
    ):
        known = 'names, in quotes where they have spaces' + ('' if name == 'atm' else ', or numbers from 0')
        subs[name].add_argument('--classes', nargs='+', metavar='CLASS', help=f'classes to show: {known}')
        subs[name].add_argument('--top', type=int, metavar='K', help=f'show the K {whole}')
    for name in ('gradcat', 'cam'):
        subs[name].add_argument(
            '--rivals', type=int, metavar='N', help='strongest other classes that are subtracted as a mean (default: 3)'
        )
    sub = subs['gradcat']
    sub.add_argument('--sign', choices=('positive', 'negative'), help='of the gradient (default: positive)')
    sub.add_argument(
        '--region',
        nargs='+',
        metavar='EDGE|FILE',
        help='where the scores of a segmentor are averaged: left top right bottom in pixels, or a mask file',
    )
    sub = subs['cam']
    sub.add_argument('--threshold', type=float, help='share of the range of a map above which the object lies')
    sub.add_argument('--save-maps', action='store_true', help='write the maps as arrays, too')
    sub = subs['tokens']
    sub.add_argument(
        '--blocks', nargs='+', type=int, metavar='N', help='blocks, from 1 (default: the first, the middle, the last)'
    )
    sub.add_argument('--beside', nargs=2, metavar=('CONFIG', 'CHECKPOINT'), help='another model to draw beside')
    sub.add_argument('--channels', type=int, metavar='K', help='draw the K channels that vary most (default: 6)')
    sub.add_argument('--save-maps', action='store_true', help='write the maps as arrays, too')
    sub.add_argument('--no-tsne', action='store_true', help='leave out t-SNE')
    sub.add_argument('--points', type=int, metavar='N', help='patches in t-SNE (default: 1000)')
    sub.add_argument('--colours', choices=COLOURINGS, help='of t-SNE (default: image, for a single image place)')
    sub.add_argument('--seed', type=int, help='of t-SNE (default: 0)')
    subs['superpixels'].add_argument('--montage-only', action='store_true', help='no single pictures and no arrays')
    sub = subs['atm']
    sub.add_argument('--save-masks', action='store_true', help='write the arrays, too')
    sub.add_argument('--opacity', type=float, help='of the colours over the grey image, 0 to 1 (default: 1)')
    return parser


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    make = METHODS[args.method][1](args)
    outcome = explain_images(
        args.method, args.config, args.checkpoint, args.images, args.out, make, **model_options(args)
    )
    if outcome.written:
        print(f'{len(outcome.written)} images explained, open {Path(args.out) / args.method}.html')
    return report_failures(outcome, 'explain')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, argv, name='explain')


if __name__ == '__main__':
    sys.exit(main())
