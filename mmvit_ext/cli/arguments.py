"""Arguments that several commands share, and what the package's functions call them."""

from __future__ import annotations

import argparse
import os
from typing import Any

from mmengine.config import DictAction

from mmvit_ext.errors import UserError

__all__ = ['MODEL_ARGUMENTS', 'RUN_ARGUMENTS', 'ConfigOptions', 'add_arguments', 'model_options', 'run_options']

MODEL_ARGUMENTS = ('--device', '--cfg-options', '--allow-partial-weights', '--trust', '--traceback')
"""How a trained model is read and run."""

RUN_ARGUMENTS = ('--work-dir', '--cfg-options', '--launcher', '--allow-partial-weights', '--trust', '--traceback')
"""What training and testing have in common."""


class ConfigOptions(DictAction):
    """mmengine's action for ``--cfg-options KEY=VALUE ...``, with a sentence for what it cannot read.

    Raises:
        UserError: A word is no ``KEY=VALUE``, or brackets are left open.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Parse the words behind the option."""
        try:
            super().__call__(parser, namespace, values, option_string)
        except Exception as error:
            reason = ' '.join(str(error).split()) or type(error).__name__
            raise UserError(
                f'{option_string} {" ".join(values)} cannot be read ({reason}): expected KEY=VALUE, a list as key=a,b '
                'or key="[a,b]"'
            ) from error


ARGUMENTS: dict[str, dict[str, Any]] = {
    'config': dict(help='config file'),
    'checkpoint': dict(help='checkpoint file (.pth)'),
    'images': dict(nargs='+', metavar='IMAGE|FOLDER|GLOB', help='images to read'),
    '--out': dict(required=True, help='folder for the results'),
    '--work-dir': dict(help='folder of logs and checkpoints (default: work_dirs/<name of the config>)'),
    '--device': dict(help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)'),
    '--cfg-options': dict(
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='override entries of the config, for example train_dataloader.batch_size=4; data_root=PATH is set in '
        'every dataset that uses it; a list is written key=a,b or key="[a,b]"',
    ),
    '--launcher': dict(
        choices=('none', 'pytorch', 'slurm', 'mpi'), default='none', help='how distributed processes were started'
    ),
    '--allow-partial-weights': dict(
        action='store_true', help='go on when a checkpoint does not fit the model; only report'
    ),
    '--amp': dict(action='store_true', help='mixed precision (float16 on a GPU, bfloat16 on a CPU)'),
    '--seed': dict(type=int, help='seed of every random generator'),
    '--tta': dict(action='store_true', help="test-time augmentation, as the config's tta_pipeline says"),
    '--trust': dict(
        action='store_true',
        help='read checkpoints that hold more than tensors and plain values; this runs code from the files',
    ),
    '--traceback': dict(action='store_true', help='show where an error came from'),
}


def add_arguments(parser: Any, *names: str, **changes: Any) -> None:
    """Add shared arguments to a parser.

    Args:
        parser: A command's parser or a group of its arguments.
        names: Of :data:`ARGUMENTS`.
        changes: Settings of ``add_argument`` that differ from the shared ones, for each of the arguments.
    """
    for name in names:
        parser.add_argument(name, **{**ARGUMENTS[name], **changes})
    if '--launcher' in names:  # old launchers pass the rank as an argument
        parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """The values of :data:`MODEL_ARGUMENTS` under the names that the package's functions have for them."""
    return {
        'device': args.device,
        'cfg_options': args.cfg_options,
        'allow_partial': args.allow_partial_weights,
        'trust': args.trust,
    }


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """The values of :data:`RUN_ARGUMENTS` under the names that the package's functions have for them."""
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return {
        'work_dir': args.work_dir,
        'cfg_options': args.cfg_options,
        'launcher': args.launcher,
        'allow_partial': args.allow_partial_weights,
        'trust': args.trust,
    }
