"""Measure a model on turned or partly covered test images, and plot how its figures fall.

    mmvit robustness rotation CONFIG CHECKPOINT --out results
    mmvit robustness rotation CONFIG CHECKPOINT --compare OTHER_CONFIG OTHER_CHECKPOINT --out results
    mmvit robustness rotation CONFIG CHECKPOINT --angles 0 30 60 90 --out results
    mmvit robustness occlusion CONFIG CHECKPOINT --areas 0 0.1 0.3 --images 500 --out results

Works with segmentation and classification configs. Writes `rotation.json` (`occlusion.json`), the plot `rotation.png`
and, of models with superpixels, `rotation_MODEL.png`: the first images with their superpixels. Labels under the
occluder and outside the turned image do not count.
"""

from pathlib import Path
from typing import Any

from mmvit_ext.cli.arguments import MODEL_ARGUMENTS, Namespace, Parser, add_shared, keywords
from mmvit_ext.errors import say
from mmvit_ext.evaluation.robustness import KINDS, curves_table, measure_robustness

VALUES = {'rotation': '--angles', 'occlusion': '--areas'}


def add_arguments(parser: Parser) -> None:
    kinds = parser.add_subparsers(dest='kind', required=True)
    for name, kind in KINDS.items():
        sub = kinds.add_parser(name, help=kind.label)
        add_shared(sub, 'config', help='config file, or NAME=FILE')
        add_shared(sub, 'checkpoint', '--out')
        shown = f'{kind.label} (default: {" ".join(f"{value:g}" for value in kind.default)})'
        sub.add_argument(VALUES[name], dest='values', nargs='+', type=float, help=shown)
        other: Any = dict(nargs=2, default=[], metavar=('CONFIG', 'CHECKPOINT'))
        sub.add_argument('--compare', action='append', help='another model for the same plot; may be repeated', **other)
        sub.add_argument('--metric', help='which metric is drawn (default: mIoU or accuracy/top1)')
        sub.add_argument('--images', type=int, metavar='N', help='only N test images, evenly spread')
        drawn = 'images whose superpixels are drawn (default: 4)'
        sub.add_argument('--pictures', type=int, default=4, metavar='N', help=drawn)
        add_shared(sub, '--force', *MODEL_ARGUMENTS)


def _named(config: str) -> tuple[str, str]:
    name, separator, path = config.partition('=')
    return (name, path) if separator and not Path(config).is_file() else (Path(config).stem, config)


def run(args: Namespace) -> None:
    models = [(*_named(config), checkpoint) for config, checkpoint in [(args.config, args.checkpoint), *args.compare]]
    curves = measure_robustness(models=models, **keywords(args, 'config', 'checkpoint', 'compare'))
    for line in [*curves_table(curves).splitlines(), f'results in {args.out}']:
        say(line)
