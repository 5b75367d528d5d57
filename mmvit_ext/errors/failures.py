"""The sentence for a failure that the user can repair.

Everything that the package finds wrong in its input is raised as :class:`UserError`. Failures that the libraries raise
for bad input, without naming the file or the remedy, are translated here. What is not known keeps its traceback,
because hiding an unknown failure would only make it harder to report.
"""

import errno
import linecache
import os
import re
import traceback
from pathlib import Path

from . import DISK_FULL
from .places import describe_place, written_file
from .type_names import unknown_type_message
from .user_error import UserError, worker_message

__all__ = ['describe_failure', 'describe_outage']

_PACKAGE_DIR = str(Path(__file__).resolve().parents[1]) + os.sep

_NOT_REGISTERED = re.compile(r'(?P<name>\S+) is not in the (?P<scope>\w+)::(?P<registry>[\w ]+?) registry')

_UNDECODED = (
    'an image or label file could not be decoded ({message}); use mmvit_ext.LoadImageFromFile and '
    'mmvit_ext.LoadSegAnnotations in the pipeline, which name the file'
)

_OUT_OF_MEMORY = (
    'the GPU ran out of memory: lower train_dataloader.batch_size (raise optim_wrapper.accumulative_counts by the same '
    'factor), lower the crop size, set backbone.with_cp=True or pass --amp'
)

_Table = tuple[tuple[str, str], ...]

_OUTAGES: _Table = (
    (
        r'.*DataLoader worker.*(killed by signal|exited unexpectedly)',
        'a data loader worker was killed, most often for lack of memory or of shared memory (/dev/shm, docker run '
        '--shm-size=8g): lower num_workers or the batch size',
    ),
    (
        r'.*DataLoader timed out after (?P<seconds>\d+)',
        'the data loader workers gave no batch for {seconds} seconds: a worker was stopped or hangs, most often on a '
        'file system that does not answer, or too many files are open (ulimit -n); look at the disk of the data, or '
        'raise the timeout of the data loader',
    ),
    (
        r'Dist\w*Error: |RuntimeError: .*([Gg]loo|NCCL|ProcessGroup|Connection (closed|reset) by peer)',
        'the connection to another process of this run is lost ({message}): it has ended, or its machine or the '
        'network is gone or hangs; see the output of the other processes, then start all of them again with --resume',
    ),
)
"""What another process, another machine or the network did: another try may succeed with the same input."""

_KNOWN: _Table = (
    (
        r'UnidentifiedImageError: |.*image file is truncated|.*broken data stream|error: OpenCV.*(imgcodecs|empty\(\))',
        _UNDECODED,
    ),
    (
        r'AssertionError: failed to load image: (?P<path>.*)',
        '{path} is not an image that can be read: replace or remove it',
    ),
    (
        r"TypeError: .*?(?P<owner>\w+)[\w.]*\(\) got an unexpected keyword argument '(?P<name>\w+)'",
        "{owner} takes no argument '{name}': check its name in the config against the class's arguments",
    ),
    (
        r'AssertionError: (?P<prefix>.*?) ?is not in the pretrained model$',
        "the pretrained checkpoint has no parameter whose name begins with '{prefix}': check init_cfg.prefix against "
        'the names in the file',
    ),
    (r'OutOfMemoryError: |.*CUDA out of memory', _OUT_OF_MEMORY),
    (
        r'.*([Tt]oo many open files|received \d+ items of ancdata)',
        'too many files are open at once: raise the limit (ulimit -n 4096), or lower num_workers',
    ),
    (
        r'RuntimeError: .*(PytorchStreamWriter failed writing|unexpected pos \d+ vs)',
        'a file could not be written, most often because the disk is full: free some space and run the command again',
    ),
    (
        r'.*(EADDRINUSE|[Aa]ddress already in use)',
        'the port of the distributed run is taken: set PORT to a free one, for example PORT=29511',
    ),
    (
        r'(ImportError|ModuleNotFoundError): .*mmcv\._ext',
        'mmcv has no working compiled operators ({message}): build it for the installed torch; `python -m '
        'mmvit_ext.doctor` says what is wrong',
    ),
)
"""Pattern of ``TYPE: MESSAGE`` and the sentence, with the pattern's groups and the message in it."""


def _raised_on_purpose(error: BaseException) -> bool:
    """Whether the error comes from a ``raise`` statement of this package, as opposed to a failing expression."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not os.path.abspath(frames[-1].filename).startswith(_PACKAGE_DIR):
        return False
    return linecache.getline(frames[-1].filename, frames[-1].lineno or 0).lstrip().startswith('raise ')


def _describe_by_text(name: str, message: str) -> str | None:
    if match := _NOT_REGISTERED.search(message):
        return unknown_type_message(match['name'].strip('\'"'), match['registry'], scope=match['scope'])
    if name == 'RuntimeError' and message.startswith('Failed to get '):
        return unknown_type_message(message.removeprefix('Failed to get ').strip(), None)
    return _look_up(_KNOWN, name, message)


def _look_up(table: _Table, name: str, message: str) -> str | None:
    for pattern, sentence in table:
        if match := re.match(pattern, f'{name}: {message}'):
            return sentence.format(message=message, **match.groupdict())
    return None


def _name_and_message(error: BaseException) -> tuple[str, str]:
    # str() of a KeyError is the repr of its argument.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    name, message = worker_message(text) or (type(error).__name__, text)
    return name, ' '.join(message.split())


def describe_outage(error: BaseException | None) -> str | None:
    """The sentence for a failure of another process or the network, after which the same command may succeed.

    PyTorch tells of a killed worker wherever the main process is, also within a block whose own error then hides it.
    """
    if error is None or isinstance(error, UserError):
        return None
    name, message = _name_and_message(error)
    if _look_up(_KNOWN, name, message):
        return None
    return _look_up(_OUTAGES, name, message) or describe_outage(error.__cause__ or error.__context__)


def describe_failure(error: BaseException) -> str | None:
    """The sentence for what a command raised, ``None`` for a failure that is not known and needs its traceback."""
    for candidate in (error, error.__cause__):
        if isinstance(candidate, UserError):
            return str(candidate)
    if outage := describe_outage(error):
        return outage
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        name = error.filename or written_file(error) or 'unknown file; data loader workers need /dev/shm'
        return f'the disk is full ({name}): free some space and run the command again'
    many = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
    if isinstance(error, OSError) and error.errno is not None and error.filename and not many:
        reason = (error.strerror or str(error)).lower()
        return f'cannot open {error.filename}: {reason}; check the path and its permissions'
    name, message = _name_and_message(error)
    if name == 'UserError':
        return message
    if sentence := _describe_by_text(name, message):
        return sentence
    if isinstance(error, ValueError | TypeError) and _raised_on_purpose(error):
        return message
    return describe_place(error)
