"""Arguments that several commands share, and what the package's functions call them."""

import argparse
import os
from argparse import Namespace
from typing import Any

from mmengine.config import DictAction

from mmvit_ext.cli.command import Parser
from mmvit_ext.errors import UserError

__all__ = [
    'MODEL_ARGUMENTS',
    'RUN_ARGUMENTS',
    'SPEED_ARGUMENTS',
    'ConfigOptions',
    'Namespace',
    'Parser',
    'add_shared',
    'keywords',
]

SPEED_ARGUMENTS = ('--amp', '--compile', '--no-tf32')
"""How quickly and how precisely a trained model is run."""
MODEL_ARGUMENTS = ('--device', '--cfg-options', '--allow-partial-weights', '--trust', '--traceback')
"""How a trained model is read and run."""
RUN_ARGUMENTS = ('--work-dir', '--cfg-options', '--launcher', '--allow-partial-weights', '--trust', '--traceback')
"""What training and testing have in common."""


class ConfigOptions(DictAction):
    """mmengine's action for ``--cfg-options KEY=VALUE ...``, with a sentence for what it cannot read."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        try:
            options = dict(getattr(namespace, self.dest, None) or {})
            for item in values:
                key, value = item.split('=', maxsplit=1)
                options[key] = _text(value) or self._parse_iterable(value)
            setattr(namespace, self.dest, options)
        except Exception as error:
            reason = ' '.join(str(error).split()) or type(error).__name__
            wanted = 'expected KEY=VALUE, a list as key=a,b or key="[a,b]"'
            raise UserError(f'{option_string} {" ".join(values)} cannot be read ({reason}): {wanted}') from error


def _text(value: str) -> str | None:
    """A value with spaces, or in quotes with commas, that is no list: mmengine would cut it into pieces."""
    text = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in '"\'' else value
    cut = ' ' in text.strip() or (',' in text and text != value)
    return text if cut and not text.startswith(('[', '(')) and (text != value or ',' not in text) else None


OVERRIDES = """override entries of the config, for example train_dataloader.batch_size=4; data_root=PATH is set in every
    dataset that uses it; a list is written key=a,b or key="[a,b]" """
BLOCKS = """compile each repeated block of the model with torch.compile: on a GPU (auto), anywhere (on), as CUDA graphs
    for crops of one size (graphs), or not (off)"""
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
PARTIAL = 'go on when a checkpoint does not fit the model; only report'
ARGUMENTS: dict[str, dict[str, Any]] = {
    'config': dict(help='config file'),
    'checkpoint': dict(help='checkpoint file (.pth or .safetensors)'),
    'images': dict(nargs='+', metavar='IMAGE|FOLDER|GLOB', help='images to read'),
    '--out': dict(required=True, help='folder for the results'),
    '--work-dir': dict(help='folder of logs and checkpoints (default: work_dirs/<name of the config>)'),
    '--device': dict(help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)'),
    '--cfg-options': dict(nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help=OVERRIDES),
    '--launcher': dict(choices=LAUNCHERS, default='none', help='how distributed processes were started'),
    '--allow-partial-weights': dict(dest='allow_partial', action='store_true', help=PARTIAL),
    '--amp': dict(action='store_true', help='backbone and neck in mixed precision (bfloat16, or float16 without it)'),
    '--compile': dict(action='store_true', help='compile the backbone with torch.compile'),
    '--no-tf32': dict(
        dest='tf32', action='store_false', help='on a GPU multiply float32 with all of its bits, several times slower'
    ),
    '--compile-blocks': dict(choices=('auto', 'on', 'graphs', 'off'), default='auto', help=BLOCKS),
    '--seed': dict(type=int, help='seed of every random generator'),
    '--tta': dict(action='store_true', help="test-time augmentation, as the config's tta_pipeline says"),
    '--trust': dict(
        action='store_true', help='read checkpoints with more than tensors and plain values; runs their code'
    ),
    '--force': dict(action='store_true', help='replace results that are there already, but never what is read'),
    '--traceback': dict(action='store_true', help='show where an error came from'),
}


def add_shared(parser: Any, *names: str, **changes: Any) -> None:
    """Add entries of :data:`ARGUMENTS` to a parser or a group of its arguments, each with these changes."""
    for name in names:
        parser.add_argument(name, **{**ARGUMENTS[name], **changes})
    if '--launcher' in names:  # old launchers pass the rank as an argument
        parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)


def keywords(args: Namespace, *without: str) -> dict[str, Any]:
    """A command's arguments as keywords of the package's function, but for those named and those of any command."""
    if getattr(args, 'local_rank', None) is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    hidden = {'traceback', 'local_rank', 'typed', *without}
    return {name: value for name, value in vars(args).items() if name not in hidden}
