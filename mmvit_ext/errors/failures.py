"""The sentence for a failure that the user can repair.

Everything that the package finds wrong in its input is raised as :class:`UserError`. Failures that the libraries raise
for bad input, without naming the file or the remedy, are translated here. What is not known keeps its traceback,
because hiding an unknown failure would only make it harder to report.

Broken input makes the libraries fail with any kind of error: a polygon of three numbers raises in pycocotools, a width
of -1 in PyTorch. Then the call stack shows which file or which entry of the config was at work.
"""

import errno
import linecache
import os
import re
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

from . import DISK_FULL
from .type_names import unknown_type_message
from .user_error import UserError, worker_message

__all__ = ['describe_failure', 'describe_outage']

_PACKAGE_DIR = str(Path(__file__).resolve().parents[1]) + os.sep
_NOT_REGISTERED = re.compile(r'(?P<name>\S+) is not in the (?P<scope>\w+)::(?P<registry>[\w ]+?) registry')

_OUTAGES = {
    r'.*DataLoader worker.*(killed by signal|exited unexpectedly)': 'a data loader worker was killed, most often for '
    'lack of memory or of shared memory (/dev/shm, docker run --shm-size=8g): lower num_workers or the batch size',
    r'.*DataLoader timed out after (?P<seconds>\d+)': 'the data loader workers gave no batch for {seconds} seconds: a '
    'worker was stopped or hangs, most often on a file system that does not answer, or too many files are open '
    '(ulimit -n); look at the disk of the data, or raise the timeout of the data loader',
    r'Dist\w*Error: |RuntimeError: .*([Gg]loo|NCCL|ProcessGroup|Connection (closed|reset) by peer)': 'the connection '
    'to another process of this run is lost ({message}): it has ended, or its machine or the network is gone or hangs; '
    'see the output of the other processes, then start all of them again with --resume',
}
"""What another process, another machine or the network did: another try may succeed with the same input."""
_KNOWN = {
    r'UnidentifiedImageError|.*image file is truncated|.*broken data stream|error: OpenCV.*(imgcodecs|empty\(\))': 'an '
    'image or label file could not be decoded ({message}); use mmvit_ext.LoadImageFromFile and '
    'mmvit_ext.LoadSegAnnotations in the pipeline, which name the file',
    r'AssertionError: failed to load image: (?P<path>.*)': '{path} is not an image that can be read: replace '
    'or remove it',
    r"TypeError: .*?(?P<owner>\w+)[\w.]*\(\) got an unexpected keyword argument '(?P<name>\w+)'": '{owner} takes no '
    "argument '{name}': check its name in the config against the class's arguments",
    r'AssertionError: (?P<prefix>.*?) ?is not in the pretrained model$': 'the pretrained checkpoint has no parameter '
    "whose name begins with '{prefix}': check init_cfg.prefix against the names in the file",
    r'OutOfMemoryError: |.*CUDA out of memory': 'the GPU ran out of memory: lower train_dataloader.batch_size (raise '
    'optim_wrapper.accumulative_counts by the same factor), lower the crop size, set backbone.with_cp=True or --amp',
    r'.*([Tt]oo many open files|received \d+ items of ancdata)': 'too many files are open at once: raise the limit '
    '(ulimit -n 4096), or lower num_workers',
    r'RuntimeError: .*(PytorchStreamWriter failed writing|unexpected pos \d+ vs)': 'a file could not be written, most '
    'often because the disk is full: free some space and run the command again',
    r'.*(EADDRINUSE|[Aa]ddress already in use)': 'the port of the distributed run is taken: set PORT to a free one, '
    'for example PORT=29511',
    r'(ImportError|ModuleNotFoundError): .*mmcv\._ext': 'mmcv has no working compiled operators ({message}): build it '
    'for the installed torch; `python -m mmvit_ext.doctor` says what is wrong',
}
"""Pattern of ``TYPE: MESSAGE`` and the sentence, with the pattern's groups and the message in it."""


def _raised_on_purpose(error: BaseException) -> bool:
    """Whether the error comes from a ``raise`` statement of this package, as opposed to a failing expression."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not os.path.abspath(frames[-1].filename).startswith(_PACKAGE_DIR):
        return False
    return linecache.getline(frames[-1].filename, frames[-1].lineno or 0).lstrip().startswith('raise ')


def _look_up(table: dict[str, str], name: str, message: str) -> str | None:
    found = ((re.match(pattern, f'{name}: {message}'), sentence) for pattern, sentence in table.items())
    return next((sentence.format(message=message, **match.groupdict()) for match, sentence in found if match), None)


def _name_and_message(error: BaseException) -> tuple[str, str]:
    # str() of a KeyError is the repr of its argument.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    name, message = worker_message(text) or (type(error).__name__, text)
    return name, ' '.join(message.split())


def describe_outage(error: BaseException | None) -> str | None:
    """The sentence for a failure of another process or the network, which another error may hide."""
    if error is None or isinstance(error, UserError):
        return None
    name, message = _name_and_message(error)
    if _look_up(_KNOWN, name, message):
        return None
    return _look_up(_OUTAGES, name, message) or describe_outage(error.__cause__ or error.__context__)


def describe_failure(error: BaseException) -> str | None:
    """The sentence for what a command raised, ``None`` for a failure that is not known and needs its traceback."""
    if told := [candidate for candidate in (error, error.__cause__) if isinstance(candidate, UserError)]:
        return str(told[0])
    if outage := describe_outage(error):
        return outage
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        file = error.filename or _written_file(error) or 'unknown file; data loader workers need /dev/shm'
        return f'the disk is full ({file}): free some space and run the command again'
    if isinstance(error, OSError) and error.filename and error.errno not in (None, errno.EMFILE, errno.ENFILE):
        reason = (error.strerror or str(error)).lower()
        return f'cannot open {error.filename}: {reason}; check the path and its permissions'
    name, message = _name_and_message(error)
    if name == 'UserError' or (isinstance(error, ValueError | TypeError) and _raised_on_purpose(error)):
        return message
    if match := _NOT_REGISTERED.search(message):
        return unknown_type_message(match['name'].strip('\'"'), match['registry'], scope=match['scope'])
    if name == 'RuntimeError' and message.startswith('Failed to get '):
        return unknown_type_message(message.removeprefix('Failed to get ').strip(), None)
    return _look_up(_KNOWN, name, message) or _describe_place(error)


_SAMPLE_IN_A_WORKER = re.compile(r'mmengine[\\/]dataset[\\/]base_dataset\.py", line \d+, in __call__')
_NOT_THE_CONFIG = re.compile(r'^Dist\w*Error|NCCL|gloo|ProcessGroup|[Cc]onnection|CUDA error')
_LONGEST = 300


def _describe_place(error: BaseException) -> str | None:
    """The sentence for an error while something was built, a sample prepared or the first iteration run."""
    if _SAMPLE_IN_A_WORKER.search(str(error)):
        reason = _shorten(str(error).rstrip().rpartition('\n')[2])
        return f'a sample cannot be prepared ({reason}): num_workers=0 or tools/check_dataset.py names its file'
    reason = _shorten(f'{type(error).__name__}: {error}').removesuffix(':')
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]  # from the command to where it was raised
    for places in (_PLACES, _OUTER_PLACES):
        for frame in frames:
            for name, file, describe in places:
                here = frame.f_code.co_name == name and frame.f_code.co_filename.replace('\\', '/').endswith(file)
                if here and (sentence := describe(frame.f_locals, reason)):
                    return f'{sentence}; --traceback shows where it comes from'
    return None


def _written_file(error: BaseException) -> str | None:
    """The file that a library was writing when an error without a file name came."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for name in ('file_path', 'filepath', 'path', 'file'):
            if isinstance(value := frame.f_locals.get(name), str | PurePath):
                return str(value)
    return None


def _shorten(text: str) -> str:
    text = ' '.join(text.split())
    return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...'


def _sample(places: Mapping[str, Any], reason: str) -> str | None:
    data, step = places.get('data'), places.get('t')
    if not isinstance(data, Mapping) or not isinstance(data.get('img_path'), str):
        return None
    label = f' with the label map {data["seg_map_path"]}' if isinstance(data.get('seg_map_path'), str) else ''
    sample = f'the sample of the image {data["img_path"]}{label} cannot be prepared by {type(step).__name__}'
    return f'{sample} ({reason}): check the file, its annotation and the pipeline'


def _building(places: Mapping[str, Any], reason: str) -> str:
    config = places.get('cfg')
    kind = config.get('type') if isinstance(config, Mapping) else None
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', 'an entry without a type')
    return f'{name} cannot be built from the config ({reason}): check its type and arguments'


def _first_iteration(places: Mapping[str, Any], reason: str) -> str | None:
    loop = places.get('self')
    # What has worked before, or what another process or the device did, has a reason that is still to be found.
    if getattr(loop, '_iter', None) != 0 or _NOT_THE_CONFIG.search(reason):
        return None
    name = getattr(getattr(getattr(loop, 'runner', None), 'cfg', None), 'filename', None) or 'the config'
    return f'training fails in its first iteration ({reason}): check what {name} says, and the options that change it'


def _hook(places: Mapping[str, Any], reason: str) -> str | None:
    kind = type(places.get('hook'))
    ours = kind.__module__.startswith('mmvit_ext')  # a bug, which keeps its traceback
    if ours or kind.__name__ == 'ParamSchedulerHook' or _NOT_THE_CONFIG.search(reason):  # the schedule says more
        return None
    where = f'the hook {kind.__name__} fails in {places.get("fn_name")}'
    return f'{where} ({reason}): check its entry in default_hooks or custom_hooks'


def _schedule(places: Mapping[str, Any], reason: str) -> str:
    name = type(places.get('self')).__name__
    return f'the schedule {name} fails in its step ({reason}): check its entry in param_scheduler'


def _runner(places: Mapping[str, Any], reason: str) -> str:
    name = getattr(places.get('cfg'), 'filename', None) or 'the config'
    return f'no runner can be built from {name} ({reason}): check it and the options that change it'


def _optimizer(places: Mapping[str, Any], reason: str) -> str:
    remedy = 'check its constructor, paramwise_cfg and optimizer'
    if reason.startswith('NotImplementedError'):  # of constructors that know some models only, as for rates by layer
        remedy = "constructor='mmvit_ext.LayerDecayConstructor' has layer-wise rates for our backbones"
    return f'no optimizer can be built from optim_wrapper ({reason}): {remedy}'


_Places = tuple[tuple[str, str, Callable[[Mapping[str, Any], str], str | None]], ...]
# A stack is read from its beginning: what is found first is what the user has written, not a part that it consists of.
_PLACES: _Places = (
    ('__call__', 'mmengine/dataset/base_dataset.py', _sample),
    ('build_from_cfg', 'mmengine/registry/build_functions.py', _building),
    ('build_model_from_cfg', 'mmengine/registry/build_functions.py', _building),
    ('run_iter', 'mmengine/runner/loops.py', _first_iteration),
    ('call_hook', 'mmengine/runner/runner.py', _hook),
    ('step', 'mmengine/optim/scheduler/param_scheduler.py', _schedule),
)
# Within these there may be one of the others, which says more.
_OUTER_PLACES: _Places = (
    ('from_cfg', 'mmengine/runner/runner.py', _runner),
    ('build_optim_wrapper', 'mmengine/runner/runner.py', _optimizer),
)
