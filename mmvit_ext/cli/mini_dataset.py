"""Draw a small dataset from photographs inside scikit-image, in the layouts of five others; nothing is downloaded.

    python tools/make_mini_dataset.py data/mini

The layouts are those of ADE20K, COCO-Stuff-10K, PASCAL-Context, COCO and ImageNet. It needs neither torch nor an
OpenMMLab library.
"""

import argparse
import re
from contextlib import ExitStack
from pathlib import Path

from mmvit_ext.datasets.mini import DATA_ROOTS, make_mini_dataset
from mmvit_ext.errors import say
from mmvit_ext.machine import progress_bar


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)[xX](\d+)', text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no size: write height and width in pixels like '150x200'")
    return int(match[1]), int(match[2])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('out', type=Path, metavar='OUT', help='folder to write')
    pictures = 'training pictures; a quarter more for validation (%(default)s)'
    add('--images', type=int, default=240, metavar='N', help=pictures)
    size = 'middle size of the pictures in pixels (150x200)'
    add('--size', type=_size, default=(150, 200), metavar='HxW', help=size)
    add('--seed', type=int, default=0, metavar='S', help='seed of everything random (%(default)s)')
    add('--force', action='store_true', help='replace an older mini dataset in OUT')


def run(args: argparse.Namespace) -> None:
    options = {name: getattr(args, name) for name in ('out', 'images', 'size', 'seed', 'force')}
    with ExitStack() as stack:
        bar = progress_bar('Drawing')
        task = bar.add_task('', total=None)

        def show(done: int, total: int) -> None:
            if done == 1:  # no bar before the first picture, so that a refusal stands alone
                stack.enter_context(bar)
            bar.update(task, completed=done, total=total)

        out = make_mini_dataset(**options, progress=show)
    say(f'Mini dataset written to {out}. The data_root of each dataset:')
    for dataset, root in DATA_ROOTS.items():
        say(f'  {dataset:<15} {out / root}')
