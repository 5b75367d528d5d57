"""Unpickling without running code: PyTorch's own way, one for older versions, and one that reads the outline only.

A pickle can run any code while it is read, so only tensors and a short list of harmless types that mmengine stores
besides them are allowed.
"""

import pickle
import types
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import torch
from mmengine.utils import digit_version

__all__ = ['load_restricted', 'load_without_code', 'read_outline']


def load_without_code(file: str | Path | IO[bytes], map_location: Any = 'cpu') -> Any:
    """``torch.load(weights_only=True)`` that knows what mmengine stores besides tensors."""
    if hasattr(torch.serialization, 'safe_globals'):  # PyTorch 2.5 and later
        with torch.serialization.safe_globals(_safe_globals()):
            return torch.load(file, map_location=map_location, weights_only=True)
    return load_restricted(file, map_location)


def load_restricted(file: str | Path | IO[bytes], map_location: Any) -> Any:
    """As :func:`load_without_code`, for older PyTorch, whose list of types cannot be extended."""
    module: Any = types.ModuleType('mmvit_ext_restricted_pickle')
    module.Unpickler = _RestrictedUnpickler
    module.load = lambda stream, **kwargs: _RestrictedUnpickler(stream, **kwargs).load()
    module.UnpicklingError = pickle.UnpicklingError
    return torch.load(file, map_location=map_location, pickle_module=module, weights_only=False)


class _RestrictedUnpickler(pickle.Unpickler):
    """Looks up nothing but the names of a list, as the standard library's documentation of pickle advises."""

    def find_class(self, module: str, name: str) -> Any:
        """A type or function by name, from the list only."""
        module = 'builtins' if module == '__builtin__' else module  # as PyTorch's protocol writes it
        if (found := _restricted_names().get(f'{module}.{name}')) is None:
            raise pickle.UnpicklingError(f'{module}.{name} is none of the harmless types')
        return found


def _statistics_method(owner: Any, name: str) -> Any:
    """What ``getattr`` is allowed to do in a checkpoint: find a method of mmengine's log buffers."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('current', 'max', 'mean', 'min'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is none of the harmless functions')
    return getattr(HistoryBuffer, name)


# PyTorch compares the names that functions claim with those in the file.
_statistics_method.__module__, _statistics_method.__qualname__ = 'builtins', 'getattr'


def _harmless() -> dict[str, Any]:
    """Types and functions by the name under which a checkpoint refers to them."""
    import numpy as np
    from mmengine.logging import HistoryBuffer

    # numpy 1.26 has a `numpy._core`, too, with nothing in it.
    package: Any = np
    core = package.core if digit_version(np.__version__) < digit_version('2.0.0') else package._core
    names = {
        'builtins.getattr': _statistics_method,
        'builtins.slice': slice,
        'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
        'numpy.dtype': np.dtype,
        'numpy.ndarray': np.ndarray,
    }
    for written in ('numpy.core', 'numpy._core'):  # numpy 1 wrote the first, numpy 2 writes the second
        names[f'{written}.multiarray._reconstruct'] = core.multiarray._reconstruct
        names[f'{written}.multiarray.scalar'] = core.multiarray.scalar
    kinds = {type(np.dtype(code)) for code in ['f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', '?']}
    return names | {f'{kind.__module__}.{kind.__qualname__}': kind for kind in kinds}


@lru_cache(maxsize=1)
def _safe_globals() -> list[Any]:
    names = _harmless()
    if digit_version(torch.__version__) < digit_version('2.6.0'):
        return list(dict.fromkeys(names.values()))  # each under its own name only
    return [(value, name) for name, value in names.items()]


# Tensors of odd kinds are read as well, so that they are refused by their kind.
_REBUILD = {f'_rebuild_{kind}' for kind in ('parameter', 'tensor', 'tensor_v2', 'sparse_tensor', 'qtensor')}
_REBUILD |= {'_rebuild_meta_tensor_no_storage'}


@lru_cache(maxsize=1)
def _restricted_names() -> dict[str, Any]:
    names = _harmless() | {
        'collections.OrderedDict': OrderedDict,
        '_codecs.encode': _encode,
        'builtins.set': set,
        'torch.nn.parameter.Parameter': torch.nn.Parameter,
        'torch.serialization._get_layout': torch.serialization._get_layout,
    }
    own = ('Size', 'device', 'Tensor', 'per_tensor_affine', 'per_channel_affine')
    storages = [name for name in vars(torch) if name.endswith('Storage')]
    rebuilding = [name for name in vars(torch._utils) if name in _REBUILD]
    listed = {torch: [*own, *storages], torch._utils: rebuilding, torch.storage: ['TypedStorage', 'UntypedStorage']}
    for module, attributes in listed.items():
        names |= {f'{module.__name__}.{attribute}': getattr(module, attribute) for attribute in attributes}
    return names | {f'torch.{name}': value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


def _encode(text: str, encoding: str = 'latin1') -> bytes:
    # Protocol 2 writes bytes so; other codecs are not needed, and some of them decompress.
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'the codec {encoding!r} is not needed in a checkpoint')
    return text.encode('latin1')


class _Inert:
    """Stands in for every object of a pickle, so that reading it runs nothing of what the file names."""

    def __new__(cls, *_args: Any, **_options: Any) -> '_Inert':
        return super().__new__(cls)

    def _ignore(self, *_args: Any, **_options: Any) -> None:
        pass

    def __call__(self, *_args: Any, **_options: Any) -> '_Inert':
        return self

    # What pickles call to fill objects, lists and sets.
    __init__ = __setstate__ = __setitem__ = append = extend = add = _ignore


class _Outline(pickle.Unpickler):
    """Reads dictionaries, lists, numbers and texts of a pickle and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ('collections', 'OrderedDict') else _Inert

    def persistent_load(self, pid: Any) -> Any:
        return _Inert()


def read_outline(path: Path) -> Mapping[str, Any]:
    """Read the dictionary of a ``torch.save`` file with stand-ins for objects and tensors; empty for other content."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith('/data.pkl') or name == 'data.pkl')
        with archive.open(name) as file:
            content = _Outline(file).load()
    return content if isinstance(content, Mapping) else {}
