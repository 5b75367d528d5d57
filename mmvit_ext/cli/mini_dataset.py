"""Draw a small dataset from photographs inside scikit-image; the command line of ``tools/make_mini_dataset.py``.

It needs neither torch nor an OpenMMLab library, and so imports nothing that does.
"""

import argparse
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from mmvit_ext.datasets.mini import DATA_ROOTS, MiniDatasetError, make_mini_dataset
from mmvit_ext.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED
from mmvit_ext.machine import progress_bar

__all__ = ['main']


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f'error: {message}; run `{self.prog} --help` for what may be given.\n')


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)[xX](\d+)', text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no size: write height and width in pixels like '150x200'")
    return int(match[1]), int(match[2])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog='make_mini_dataset.py',
        description='Draw a small dataset from photographs inside scikit-image and write it in the folder layouts of '
        'ADE20K, COCO-Stuff-10K, PASCAL-Context, COCO and ImageNet. Nothing is downloaded.',
    )
    add = parser.add_argument
    add('out', type=Path, metavar='OUT', help='folder to write')
    pictures = 'training pictures; a quarter more for validation (%(default)s)'
    add('--images', type=int, default=240, metavar='N', help=pictures)
    size = 'middle size of the pictures in pixels (150x200)'
    add('--size', type=_size, default=(150, 200), metavar='HxW', help=size)
    add('--seed', type=int, default=0, metavar='S', help='seed of everything random (%(default)s)')
    add('--force', action='store_true', help='replace an older mini dataset in OUT')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; it ends with 0, 2 after a wrong argument or an unwritable folder, 130 after an interrupt."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        with ExitStack() as stack:
            bar = progress_bar('Drawing')
            task = bar.add_task('', total=None)

            def show(done: int, total: int) -> None:
                if done == 1:  # no bar before the first picture, so that a refusal stands alone
                    stack.enter_context(bar)
                bar.update(task, completed=done, total=total)

            out = make_mini_dataset(**{**vars(arguments), 'progress': show})
    except MiniDatasetError as error:
        parser.exit(EXIT_BAD_INPUT, f'error: {error}\n')
    except KeyboardInterrupt:
        parser.exit(EXIT_INTERRUPTED, f'Interrupted; {arguments.out} is as it was before.\n')
    print(f'Mini dataset written to {out}. The data_root of each dataset:')
    for dataset, root in DATA_ROOTS.items():
        print(f'  {dataset:<15} {out / root}')
    return 0
