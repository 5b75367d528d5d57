"""How a command fails: one sentence for what the user can repair, a traceback for what only we can.

Everything the package finds wrong in its input is raised as :class:`UserError`. :func:`run_command` prints its
sentence and ends with exit code 2. Failures that the libraries raise for bad input, without naming the file or the
remedy, are translated by :func:`describe_failure`; what it does not know keeps its traceback and exit code 1, because
hiding an unknown failure would only make it harder to report.
"""

import errno
import linecache
import os
import re
import traceback
from pathlib import Path

from mmvit_ext.errors.user_error import _WORKER_ERROR, UserError, _worker_message

from .places import describe_place
from .type_names import unknown_type_message

__all__ = [
    'describe_failure',
]

_PACKAGE_DIR = str(Path(__file__).resolve().parents[1]) + os.sep

_NOT_REGISTERED = re.compile(r'(?P<name>\S+) is not in the (?P<scope>\w+)::(?P<registry>[\w ]+?) registry')

_UNEXPECTED_ARGUMENT = re.compile(r"(?P<call>[\w.]+)\(\) got an unexpected keyword argument '(?P<name>\w+)'")


def _raised_on_purpose(error: BaseException) -> bool:
    """Whether the error comes from a ``raise`` statement of this package, as opposed to a failing expression."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not os.path.abspath(frames[-1].filename).startswith(_PACKAGE_DIR):
        return False
    line = linecache.getline(frames[-1].filename, frames[-1].lineno or 0)
    return line.lstrip().startswith('raise ')


def _describe_os_error(error: OSError) -> str | None:
    if error.errno == errno.ENOSPC:
        return f'the disk is full ({error.filename or "unknown file"}): free some space and run the command again'
    if error.errno is None or not error.filename:
        return None
    return f'cannot open {error.filename}: {(error.strerror or str(error)).lower()}; check the path and its permissions'


def _describe_decoding(name: str, message: str) -> str | None:
    decoding = (
        name == 'UnidentifiedImageError'
        or 'image file is truncated' in message
        or 'broken data stream' in message
        or (name == 'error' and message.startswith('OpenCV('))
    )
    if decoding:
        return (
            f'an image or label file could not be decoded ({message}); use mmvit_ext.LoadImageFromFile and '
            'mmvit_ext.LoadSegAnnotations in the pipeline, which name the file'
        )
    if name == 'AssertionError' and message.startswith('failed to load image: '):
        return (
            f'{message.removeprefix("failed to load image: ")} is not an image that can be read: replace or remove it'
        )
    return None


def _describe_by_text(name: str, message: str) -> str | None:
    match = _NOT_REGISTERED.search(message)
    if match:
        return unknown_type_message(match['name'].strip('\'"'), match['registry'], scope=match['scope'])
    if message.startswith('Failed to get ') and name == 'RuntimeError':
        return unknown_type_message(message.removeprefix('Failed to get ').strip(), None)
    match = _UNEXPECTED_ARGUMENT.search(message) if name == 'TypeError' else None
    if match:
        owner = match['call'].split('.')[0]
        return (
            f"{owner} takes no argument '{match['name']}': check its name in the config against the class's arguments"
        )
    if name == 'AssertionError' and message.endswith('is not in the pretrained model'):
        prefix = message.removesuffix('is not in the pretrained model').strip()
        return (
            f"the pretrained checkpoint has no parameter whose name begins with '{prefix}': check init_cfg.prefix "
            'against the names in the file'
        )
    if name == 'OutOfMemoryError' or 'CUDA out of memory' in message:
        return (
            'the GPU ran out of memory: lower train_dataloader.batch_size (raise optim_wrapper.accumulative_counts '
            'by the same factor), lower the crop size, set backbone.with_cp=True or pass --amp'
        )
    if 'DataLoader worker' in message and ('killed by signal' in message or 'exited unexpectedly' in message):
        return (
            'a data loader worker was killed, most often for lack of memory or of shared memory (/dev/shm): lower '
            'num_workers or the batch size'
        )
    if 'EADDRINUSE' in message or 'address already in use' in message.lower():
        return 'the port of the distributed run is taken: set PORT to a free one, for example PORT=29511'
    if name in ('ImportError', 'ModuleNotFoundError') and 'mmcv._ext' in message:
        return (
            f'mmcv has no working compiled operators ({message}): build it for the installed torch; '
            '`python -m mmvit_ext.doctor` says what is wrong'
        )
    return None


def describe_failure(error: BaseException) -> str | None:
    """The sentence for a failure that the user can repair.

    Args:
        error: What a command raised.

    Returns:
        One sentence, or ``None`` for a failure that is not known and deserves its traceback.
    """
    for candidate in (error, error.__cause__):
        if isinstance(candidate, UserError):
            return str(candidate)
    if isinstance(error, OSError):
        sentence = _describe_os_error(error)
        if sentence:
            return sentence
    name, message = type(error).__name__, str(error)
    if isinstance(error, KeyError) and error.args:
        message = str(error.args[0])  # str() of a KeyError is the repr of its argument
    if _WORKER_ERROR.match(message):
        name, message = _worker_message(message)
        if name == 'UserError':
            return message
    message = ' '.join(message.split())
    sentence = _describe_decoding(name, message) or _describe_by_text(name, message)
    if sentence:
        return sentence
    if isinstance(error, ValueError | TypeError) and _raised_on_purpose(error):
        return message
    return describe_place(error)
