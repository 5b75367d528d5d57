"""Arguments that several commands share, and what the package's functions call them."""

from __future__ import annotations

import argparse
from typing import Any

from mmengine.config import DictAction

from mmvit_ext.errors.user_error import UserError

__all__ = [
    'ConfigOptions',
    'add_common_arguments',
    'add_image_arguments',
    'add_model_arguments',
    'model_options',
]

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


# Arguments
def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what training and testing have in common.

    Args:
        parser: The command's parser.
    """
    parser.add_argument('--work-dir', help='folder of logs and checkpoints (default: work_dirs/<name of the config>)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='override entries of the config, for example train_dataloader.batch_size=4; data_root=PATH is set in '
        'every dataset that uses it; a list is written key=a,b or key="[a,b]"',
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='how distributed processes were started')
    parser.add_argument(
        '--allow-partial-weights',
        action='store_true',
        help='go on when a checkpoint does not fit the model; only report',
    )
    parser.add_argument(
        '--trust',
        action='store_true',
        help='read checkpoints that hold more than tensors and plain values; this runs code from the files',
    )
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')
    # Old launchers hand the rank over as an argument.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=None, help=argparse.SUPPRESS)


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


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how a trained model is read and run.

    Args:
        parser: The command's parser; it gets ``--device``, ``--cfg-options``, ``--allow-partial-weights``,
            ``--trust`` and ``--traceback``.
    """
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config'
    )
    parser.add_argument(
        '--allow-partial-weights', action='store_true', help='go on when the checkpoint does not fit the model'
    )
    parser.add_argument(
        '--trust',
        action='store_true',
        help='read a checkpoint that holds more than tensors; this runs code from the file',
    )
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')


def add_image_arguments(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add a config, a checkpoint, images and a folder for the results.

    Args:
        parser: The command's parser; it gets ``config``, ``checkpoint``, ``images`` and ``--out``.
        purpose: What is done with the images, for the help text.
    """
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file (.pth)')
    parser.add_argument('images', nargs='+', metavar='IMAGE|FOLDER|GLOB', help=purpose)
    parser.add_argument('--out', required=True, help='folder for the results')


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of :func:`add_model_arguments` under the names that the package's functions have for them.

    Args:
        args: The parsed arguments.

    Returns:
        ``device``, ``cfg_options``, ``allow_partial`` and ``trust``.
    """
    return {
        'device': args.device,
        'cfg_options': args.cfg_options,
        'allow_partial': args.allow_partial_weights,
        'trust': args.trust,
    }
