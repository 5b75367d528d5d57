"""Reading and writing checkpoint files: bad files named in one sentence, results written whole or not at all.

A pickle can run any code while it is read, so a file is read with ``weights_only=True`` and a short list of harmless
types that mmengine stores besides tensors. What needs more than these is refused unless the user says that the file is
trusted.
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

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import SHA256_DIGITS, is_remote, verify_hash

__all__ = [
    'check_checkpoint_file',
    'extract_state_dict',
    'load_without_code',
    'metafile_hash',
    'read_checkpoint',
]

_LEGACY_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # how torch.save began before PyTorch 1.6

_ZIP_MAGIC = b'PK\x03\x04'


def check_checkpoint_file(path: str | Path, role: str = 'checkpoint', remedy: str = 'check the path') -> None:
    """Find a missing, cut off or foreign file without reading it.

    Args:
        path: The file; an address is not checked.
        role: What the file is to the caller, for the message.
        remedy: What to do when it is missing.

    Raises:
        UserError: The file is missing, cut off or no PyTorch checkpoint.
    """
    if is_remote(str(path)):
        return
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f'the {role} {path} is a folder: expected a .pth file')
    if not path.is_file():
        raise UserError(f'there is no {role} {path}: {remedy}')
    try:
        with path.open('rb') as file:
            head = file.read(len(_LEGACY_MAGIC))
    except OSError as error:
        raise UserError(f'the {role} {path} cannot be opened: {error.strerror}') from error
    if head.startswith(_ZIP_MAGIC):
        # The archive's directory stands at its end, so a cut off download fails here.
        if not zipfile.is_zipfile(path):
            raise UserError(_cut_off(path, role))
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except Exception as error:  # damaged bytes fail in every way that a parser has
            raise UserError(_damaged(path, role, error)) from error
        if not any(name.endswith('/data.pkl') or name == 'data.pkl' for name in names):
            raise UserError(f'the {role} {path} is a zip archive but no PyTorch checkpoint: expected a .pth file')
        if any(name.rpartition('/')[2] == 'constants.pkl' for name in names):
            raise UserError(f'the {role} {path} is a TorchScript program: expected parameters written by torch.save')
    elif head[:1] != b'\x80':
        kind = 'is empty' if not head else 'is no PyTorch checkpoint'
        raise UserError(f'the {role} {path} {kind}: expected a file written by torch.save; download or copy it again')


def _cut_off(path: Path, role: str) -> str:
    size = path.stat().st_size
    return f'the {role} {path} is cut off ({size} bytes, the end of the archive is missing): download or copy it again'


def read_checkpoint(
    path: str | Path,
    role: str = 'checkpoint',
    *,
    trust: bool = False,
    expected_hash: str | None = None,
    map_location: Any = 'cpu',
) -> dict[str, Any]:
    """Read a checkpoint without running code from it.

    Args:
        path: The file.
        role: What the file is to the caller, for the message.
        trust: Read it with pickle if that is the only way. Pickle runs code from the file.
        expected_hash: First digits of the file's SHA-256, where something else than its name tells them.
        map_location: Where the tensors go, as in :func:`torch.load`.

    Returns:
        The dictionary in it.

    Raises:
        UserError: The file is missing, cut off, no checkpoint, has another hash than its name says, or only pickle
            could read it.
    """
    check_checkpoint_file(path, role)
    path = Path(path).expanduser()
    verify_hash(path, expected_hash, role)
    try:
        content = load_without_code(path, map_location)
    except pickle.UnpicklingError as error:
        if not trust:
            reason = ' '.join(str(error).split())[:160]
            raise UserError(
                f'the {role} {path} holds more than tensors and plain values ({reason}): pass --trust if you '
                'trust where it comes from, reading it then runs code from the file'
            ) from error
        content = _load_with_pickle(path, role, map_location)
    except Exception as error:  # damaged bytes fail in every way that a parser has
        raise UserError(_damaged(path, role, error)) from error
    if not isinstance(content, dict):
        raise UserError(f'the {role} {path} holds a {type(content).__name__}: expected a dictionary of parameters')
    return content


def _load_with_pickle(path: Path, role: str, map_location: Any) -> Any:
    try:
        return torch.load(path, map_location=map_location, weights_only=False)
    except Exception as error:
        raise UserError(_damaged(path, role, error)) from error


def _damaged(path: Path, role: str, error: Exception) -> str:
    reason = ' '.join(str(error).split())[:160] or type(error).__name__
    return f'the {role} {path} is damaged ({reason}): download or copy it again'


# Reading without running code
def load_without_code(file: str | Path | IO[bytes], map_location: Any = 'cpu') -> Any:
    """``torch.load(weights_only=True)`` that knows what mmengine stores besides tensors.

    Args:
        file: A file, or one that is opened for reading.
        map_location: Where the tensors go.

    Returns:
        What is in the file.

    Raises:
        pickle.UnpicklingError: Something in it is neither a tensor nor a harmless value.
    """
    if hasattr(torch.serialization, 'safe_globals'):  # PyTorch 2.5 and later
        with torch.serialization.safe_globals(_safe_globals()):
            return torch.load(file, map_location=map_location, weights_only=True)
    return _load_restricted(file, map_location)


def _load_restricted(file: str | Path | IO[bytes], map_location: Any) -> Any:
    """The same for older PyTorch, whose list of types cannot be extended: a pickle that looks up the same names."""
    module: Any = types.ModuleType('mmvit_ext_restricted_pickle')
    module.Unpickler = _RestrictedUnpickler
    module.load = lambda stream, **kwargs: _RestrictedUnpickler(stream, **kwargs).load()
    module.UnpicklingError = pickle.UnpicklingError
    return torch.load(file, map_location=map_location, pickle_module=module, weights_only=False)


class _RestrictedUnpickler(pickle.Unpickler):
    """Looks up nothing but the names of a list, as the standard library's documentation of pickle advises."""

    def find_class(self, module: str, name: str) -> Any:
        """A type or function by name, from the list only."""
        allowed = _restricted_names()
        module = 'builtins' if module == '__builtin__' else module  # as PyTorch's protocol writes it
        try:
            return allowed[f'{module}.{name}']
        except KeyError:
            raise pickle.UnpicklingError(f'{module}.{name} is none of the harmless types') from None


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
    codes = ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', '?')
    kinds = {type(np.dtype(code)) for code in codes}
    return names | {f'{kind.__module__}.{kind.__qualname__}': kind for kind in kinds}


@lru_cache(maxsize=1)
def _safe_globals() -> list[Any]:
    names = _harmless()
    if digit_version(torch.__version__) < digit_version('2.6.0'):
        return list(dict.fromkeys(names.values()))  # each under its own name only
    return [(value, name) for name, value in names.items()]


@lru_cache(maxsize=1)
def _restricted_names() -> dict[str, Any]:
    names = _harmless()
    names['collections.OrderedDict'] = OrderedDict
    names['_codecs.encode'] = _encode
    names['builtins.set'] = set
    names['torch.Size'], names['torch.device'] = torch.Size, torch.device
    names['torch.Tensor'] = torch.Tensor
    names['torch.nn.parameter.Parameter'] = torch.nn.Parameter
    for function in ('_rebuild_parameter', '_rebuild_tensor', '_rebuild_tensor_v2'):
        names[f'torch._utils.{function}'] = getattr(torch._utils, function)
    names['torch.serialization._get_layout'] = torch.serialization._get_layout
    names |= {f'torch.{name}': value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    storages = [name for name in vars(torch) if name.endswith('Storage')]
    names |= {f'torch.{name}': getattr(torch, name) for name in storages}
    names |= {f'torch.storage.{name}': getattr(torch.storage, name) for name in ('TypedStorage', 'UntypedStorage')}
    return names


def _encode(text: str, encoding: str = 'latin1') -> bytes:
    # Protocol 2 writes bytes so; other codecs are not needed, and some of them decompress.
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'the codec {encoding!r} is not needed in a checkpoint')
    return text.encode('latin1')


def metafile_hash(config: str | Path | None, path: str | Path) -> str | None:
    """The SHA-256 that the ``metafile.yml`` beside a config has for a checkpoint of this name.

    Args:
        config: The config file, whose folder is looked into.
        path: The checkpoint.

    Returns:
        The value of ``SHA256`` of the model whose ``Weights`` ends in that name, ``None`` where there is none.

    Raises:
        UserError: The metafile has something else than hexadecimal digits there.
    """
    metafile = Path(config).parent / 'metafile.yml' if config else None
    if metafile is None or not metafile.is_file():
        return None
    import yaml

    try:
        content = yaml.safe_load(metafile.read_text(encoding='utf-8'))
    except (OSError, ValueError, yaml.YAMLError):
        return None  # a broken table of results is no reason to keep a model from being used
    models = content.get('Models') if isinstance(content, dict) else content
    for model in models if isinstance(models, list) else []:
        weights = model.get('Weights') if isinstance(model, dict) else None
        if not isinstance(weights, str) or weights.rpartition('/')[2] != Path(path).name or 'SHA256' not in model:
            continue
        digits = str(model['SHA256']).lower()
        if not SHA256_DIGITS.match(digits):
            raise UserError(
                f'{metafile} has the SHA256 {digits!r} for {weights}: expected 8 to 64 hexadecimal digits in quotes'
            )
        return digits
    return None


# Contents and writing
def extract_state_dict(content: Mapping[str, Any], path: str | Path) -> dict[str, torch.Tensor]:
    """The parameters in a checkpoint, whatever they are wrapped in.

    Args:
        content: What :func:`read_checkpoint` returned.
        path: The file, for the message.

    Returns:
        Tensors by name, without the ``module.`` of a distributed wrapper.

    Raises:
        UserError: There are no parameters in it.
    """
    state = content
    for key in ('state_dict', 'model'):
        if isinstance(content.get(key), Mapping):
            state = content[key]
            break
    nameless = [name for name, value in state.items() if torch.is_tensor(value) and not isinstance(name, str)]
    if nameless:
        raise UserError(f'{path} has a parameter named {nameless[0]!r}: expected text, as a model has it')
    tensors = {name.removeprefix('module.'): value for name, value in state.items() if torch.is_tensor(value)}
    if not tensors:
        shown = ', '.join(map(str, list(content)[:5]))
        raise UserError(
            f'{path} holds no parameters (its keys: {shown}): expected a state_dict or a checkpoint with one'
        )
    return tensors
