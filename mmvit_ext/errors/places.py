"""What a failure has to do with the user's input, found by where it happened.

Broken input makes the libraries fail with any kind of error: a polygon of three numbers raises in pycocotools, a width
of -1 in PyTorch. The error says little, but the call stack shows which file or which entry of the config was at work.
"""

import re
import traceback
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

__all__ = ['describe_place', 'written_file']

_SAMPLE_IN_A_WORKER = re.compile(r'mmengine[\\/]dataset[\\/]base_dataset\.py", line \d+, in __call__')
_NOT_THE_CONFIG = re.compile(r'^Dist\w*Error|NCCL|gloo|ProcessGroup|[Cc]onnection|CUDA error')
_LONGEST = 300


def describe_place(error: BaseException) -> str | None:
    """The sentence for an error while something was built, a sample prepared or the first iteration run."""
    if _SAMPLE_IN_A_WORKER.search(str(error)):
        final = [line for line in str(error).splitlines() if line.strip()][-1]
        return (
            f'a sample cannot be prepared by the pipeline ({_shorten(final)}): num_workers=0 or '
            'tools/check_dataset.py names its file'
        )
    reason = _shorten(f'{type(error).__name__}: {error}').removesuffix(':')
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]  # from the command to where it was raised
    for places in (_PLACES, _OUTER_PLACES):
        for frame in frames:
            for name, file, describe in places:
                here = frame.f_code.co_name == name and frame.f_code.co_filename.replace('\\', '/').endswith(file)
                if here and (sentence := describe(frame.f_locals, reason)):
                    return f'{sentence}; --traceback shows where it comes from'
    return None


def written_file(error: BaseException) -> str | None:
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
    label = data.get('seg_map_path')
    label = f' with the label map {label}' if isinstance(label, str) else ''
    return (
        f'the sample of the image {data["img_path"]}{label} cannot be prepared by {type(step).__name__} ({reason}): '
        'check the file, its annotation and the pipeline'
    )


def _building(places: Mapping[str, Any], reason: str) -> str:
    config = places.get('cfg')
    kind = config.get('type') if isinstance(config, Mapping) else None
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', None)
    if name is None:
        return f'an entry of the config cannot be built ({reason}): check its type'
    return f'{name} cannot be built from the config ({reason}): check its arguments'


def _first_iteration(places: Mapping[str, Any], reason: str) -> str | None:
    loop = places.get('self')
    # What has worked before, or what another process or the device did, has a reason that is still to be found.
    if getattr(loop, '_iter', None) != 0 or _NOT_THE_CONFIG.search(reason):
        return None
    name = getattr(getattr(getattr(loop, 'runner', None), 'cfg', None), 'filename', None) or 'the config'
    return (
        f'training fails in its first iteration ({reason}): check that what {name} says goes together, and the options '
        'that change it'
    )


def _hook(places: Mapping[str, Any], reason: str) -> str | None:
    kind = type(places.get('hook'))
    ours = kind.__module__.startswith('mmvit_ext')  # a bug, which keeps its traceback
    if ours or kind.__name__ == 'ParamSchedulerHook' or _NOT_THE_CONFIG.search(reason):  # the schedule says more
        return None
    stage = places.get('fn_name')
    return f'the hook {kind.__name__} fails in {stage} ({reason}): check its entry in default_hooks or custom_hooks'


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
