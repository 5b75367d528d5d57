"""The formats of checkpoint files: safetensors, and pickles, which are read without running code from them.

A pickle can run any code while it is read, so only tensors and a short list of harmless types that mmengine stores
besides them are allowed: in PyTorch's own way, in one for older versions, and in one that reads the outline only.
"""

import json
import pickle
import types
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version
from safetensors import safe_open
from safetensors.torch import save_file

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path
from mmvit_ext.models.layers.position_embedding import told_grids

__all__ = ['is_safetensors', 'load_restricted', 'load_without_code', 'read_outline', 'read_safetensors']
__all__ += ['write_safetensors']

KEY = 'mmvit_ext'  # the metadata of safetensors that holds ``meta`` and the grids of position embeddings, in JSON


def load_without_code(file: str | Path | IO[bytes], map_location: Any = 'cpu') -> Any:
    """``torch.load(weights_only=True)`` that knows what mmengine stores besides tensors."""
    if digit_version(torch.__version__) < digit_version('2.6.0'):  # which cannot list a type by the name in the file
        return load_restricted(file, map_location)
    with torch.serialization.safe_globals([(value, name) for name, value in _harmless().items()]):
        return torch.load(file, map_location=map_location, weights_only=True)


def load_restricted(file: str | Path | IO[bytes], map_location: Any) -> Any:
    """As :func:`load_without_code`, for older PyTorch."""
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
    if owner is not HistoryBuffer or name not in ('current', 'max', 'mean', 'min'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is none of the harmless functions')
    return getattr(HistoryBuffer, name)


# PyTorch compares the names that functions claim with those in the file.
_statistics_method.__module__, _statistics_method.__qualname__ = 'builtins', 'getattr'


@lru_cache(maxsize=1)
def _harmless() -> dict[str, Any]:
    """Types and functions by the name under which a checkpoint refers to them."""
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


# Tensors of odd kinds are read as well, so that they are refused by their kind.
_REBUILD = {f'_rebuild_{kind}' for kind in ('parameter', 'tensor', 'tensor_v2', 'sparse_tensor', 'qtensor')}
_REBUILD |= {'_rebuild_meta_tensor_no_storage'}


@lru_cache(maxsize=1)
def _restricted_names() -> dict[str, Any]:
    names = _harmless() | {
        'collections.OrderedDict': OrderedDict,
        'collections.Counter': Counter,
        'torch._tensor._rebuild_from_type_v2': torch._tensor._rebuild_from_type_v2,
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


def is_safetensors(path: Path, head: bytes) -> bool:
    """Whether a file is of the safetensors format: the length of a JSON header, then the header."""
    return path.suffix == '.safetensors' or (head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < 100 * 2**20)


def read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors of a file; of one that :func:`write_safetensors` wrote, a checkpoint with ``meta`` and grids."""
    with safe_open(path, 'pt') as file:
        text = (file.metadata() or {}).get(KEY)
        state = OrderedDict((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
    if text is None:
        return state
    told = json.loads(text)
    vars(state)['_metadata'] = {prefix: {'grids': dict(grids)} for prefix, grids in dict(told['grids']).items()}
    vars(state)['_metadata'] = {prefix: {'grids': grids} for prefix, grids in told_grids(state).items()}
    return {'state_dict': state, 'meta': dict(told['meta'])}


def write_safetensors(path: str | Path, state_dict: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
    """Write weights with ``meta`` and the grids that their metadata tell, whole or not at all."""
    # Tensors that share memory, which the format refuses, become copies.
    tensors = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state_dict.items()}
    metadata = {'format': 'pt', KEY: json.dumps({'meta': meta, 'grids': told_grids(state_dict)})}
    with atomic_path(path) as file:
        try:
            save_file(tensors, file, metadata=metadata)
        except KeyError as error:
            raise UserError(f'{path}: the safetensors format has no numbers of {error}, write a .pth file') from error
