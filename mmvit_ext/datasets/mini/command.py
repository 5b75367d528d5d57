"""The command line of ``tools/make_mini_dataset.py``."""

import argparse
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from mmvit_ext.machine import progress_bar

from .catalog import MiniDatasetError
from .writer import DATA_ROOTS, make_mini_dataset

__all__ = ['main']

WRONG_USE = 2
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USE, f'error: {message}; run `{self.prog} --help` for what may be given.\n')


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
    parser.add_argument('out', type=Path, metavar='OUT', help='folder to write')
    parser.add_argument(
        '--images',
        type=int,
        default=240,
        metavar='N',
        help='training pictures; a quarter more for validation (%(default)s)',
    )
    parser.add_argument(
        '--size', type=_size, default=(150, 200), metavar='HxW', help='middle size of the pictures in pixels (150x200)'
    )
    parser.add_argument('--seed', type=int, default=0, metavar='S', help='seed of everything random (%(default)s)')
    parser.add_argument('--force', action='store_true', help='replace an older mini dataset in OUT')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 2 after a wrong argument or an unwritable folder, 130 after an interrupt."""
    arguments = _parser().parse_args(argv)
    with ExitStack() as stack:
        bar = progress_bar('Drawing')
        task = bar.add_task('', total=None)

        def show(done: int, total: int) -> None:
            # The bar appears with the first picture, so that a refusal stands alone.
            if done == 1:
                stack.enter_context(bar)
            bar.update(task, completed=done, total=total)

        try:
            out = make_mini_dataset(
                arguments.out,
                images=arguments.images,
                size=arguments.size,
                seed=arguments.seed,
                force=arguments.force,
                progress=show,
            )
        except MiniDatasetError as error:
            stack.close()
            print(f'error: {error}', file=sys.stderr)
            return WRONG_USE
        except KeyboardInterrupt:
            stack.close()
            print(f'Interrupted; {arguments.out} is as it was before.', file=sys.stderr)
            return INTERRUPTED
    print(f'Mini dataset written to {out}. The data_root of each dataset:')
    for dataset, root in DATA_ROOTS.items():
        print(f'  {dataset:<15} {out / root}')
    return 0
