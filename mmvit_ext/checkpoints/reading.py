"""Read checkpoint files without running code from them, and name bad files in one sentence.

What needs more than tensors and harmless types is refused unless the user says that the file is trusted.
"""

import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import SHA256_DIGITS, is_remote, regular_file, verify_hash
from mmvit_ext.models.layers.position_embedding import note_grids, told_grids

from .formats import is_safetensors, load_without_code, read_outline, read_safetensors

__all__ = ['FORMAT', 'check_checkpoint_file', 'checkpoint_damage', 'extract_state_dict', 'metafile_hash']
__all__ += ['read_checkpoint']

FORMAT = {'mmvit_ext_format': 1}
"""Noted in ``meta`` of training checkpoints; raised when an older version could not resume from them."""

_AGAIN = 'download or copy it again'
_LEGACY_MAGIC = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # a number with which torch.save began before PyTorch 1.6

_OTHER_FILES = (
    (b'<', 'a web page: download the file itself'),
    (b'version https://git-lfs', 'a pointer of Git LFS: fetch the file itself with git lfs pull'),
    (b'\x1f\x8b', 'a gzip archive: unpack it'),
    (b'BZh', 'a bzip2 archive: unpack it'),
    (b'\xfd7zXZ', 'an xz archive: unpack it'),
    (b'\x93NUMPY', 'a NumPy array: write its values with torch.save'),
    (b'\x89HDF', 'an HDF5 file of Keras: write its values with torch.save'),
    (b'GGUF', 'a GGUF file: take the weights as .safetensors or .pth'),
)
"""How files begin that people take for checkpoints, and what they are."""


def check_checkpoint_file(path: str | Path, role: str = 'checkpoint', remedy: str = 'check the path') -> None:
    """Find a missing, cut off or foreign file without reading it; ``role`` and ``remedy`` are for the message."""
    if is_remote(str(path)):
        return
    path = regular_file(path, role, remedy)
    if what := _unlike_checkpoint(path):
        raise UserError(f'the {role} {path} {what}')


def _unlike_checkpoint(path: Path) -> str | None:
    """What a regular file is that does not look like a checkpoint, and the remedy."""
    with path.open('rb') as file:
        head = file.read(64)
    if not head:
        return f'is empty: {_AGAIN}'
    if head.startswith(b'PK\x03\x04'):
        # The archive's directory stands at its end, so a cut off download fails here.
        if not zipfile.is_zipfile(path):
            return f'is cut off ({path.stat().st_size} bytes, the end of the archive is missing): {_AGAIN}'
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name.rpartition('/')[2] for name in archive.namelist()]
        except Exception as error:  # damaged bytes fail in every way that a parser has
            return _damaged(error)
        if 'constants.pkl' in names:
            return 'is a TorchScript program: expected parameters written by torch.save'
        if 'data.pkl' not in names:
            arrays = any(name.endswith('.npy') for name in names)
            kind = 'arrays of NumPy (.npz), as JAX models have them,' if arrays else 'a zip archive'
            return f'is {kind} but no PyTorch checkpoint: expected a .pth file'
    elif not is_safetensors(path, head) and _LEGACY_MAGIC not in head:
        what = next((f', but {what}' for begin, what in _OTHER_FILES if head.startswith(begin)), f': {_AGAIN}')
        if head[:1] == b'\x80' and len(head) > 30:
            what = ', but a plain pickle: write its tensors with torch.save'
        return f'is no PyTorch checkpoint{what} (expected a file written by torch.save, or .safetensors)'
    return None


def checkpoint_damage(path: str | Path) -> str | None:
    """What is wrong with a file written by ``torch.save``, such as ``'is cut off'``, found by reading all of it."""
    try:
        if what := _unlike_checkpoint(Path(path)):
            return what.partition(':')[0]
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            return f'is damaged (wrong checksum of {damaged})'
        read_outline(Path(path))
    except OSError as error:
        return f'cannot be read ({error.strerror or error})'
    except Exception as error:
        return f'is damaged ({type(error).__name__})'
    return None


def read_checkpoint(
    path: str | Path,
    role: str = 'checkpoint',
    *,
    trust: bool = False,
    expected_hash: str | None = None,
    map_location: Any = 'cpu',
) -> dict[str, Any]:
    """Read a checkpoint, written by ``torch.save`` or as safetensors, without running code from it.

    Parameters that released files hold under ``model`` are put under ``state_dict``, where the libraries look. With
    ``trust``, pickle reads what nothing else can and runs code from it; ``expected_hash`` are first digits of the
    SHA-256 that are known from elsewhere than the file's name; ``role`` is for messages.
    """
    if is_remote(str(path)):
        raise UserError(f'the {role} {path} is an address: download it and give the file')
    check_checkpoint_file(path, role)
    path = Path(os.path.expanduser(path))
    verify_hash(path, expected_hash, role)
    try:
        content = _read(path, map_location, trust)
    except pickle.UnpicklingError as error:
        more = f'more than tensors and plain values ({_offender(error)})'
        remedy = 'pass --trust if you trust where it comes from, reading it then runs code from the file'
        raise UserError(f'the {role} {path} holds {more}: {remedy}') from error
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # damaged bytes fail in every way that a parser has
        raise UserError(f'the {role} {path} {_damaged(error)}') from error
    if not isinstance(content, dict):
        raise UserError(f'the {role} {path} holds a {type(content).__name__}: expected a dictionary of parameters')
    meta = content.get('meta')
    for key, known in FORMAT.items():
        found = meta.get(key, known) if isinstance(meta, Mapping) else known
        if not isinstance(found, int) or found > known:
            formats = f'format {found!r}, this one knows {known}'
            raise UserError(
                f'the {role} {path} was written by a newer version of mmvit_ext ({formats}): update mmvit_ext'
            )
    if 'state_dict' not in content and isinstance(content.get('model'), Mapping):
        content['state_dict'] = content.pop('model')
    state = _parameters(content)
    if fault := _first_fault(state):
        raise UserError(f'the {role} {path} cannot be used, {fault}: take another file or version of it')
    note_grids(state)
    return content


def _read(path: Path, map_location: Any, trust: bool) -> Any:
    with path.open('rb') as file:
        safetensors = is_safetensors(path, file.read(9))
    if safetensors:
        return read_safetensors(path)
    try:
        return load_without_code(path, map_location)
    except pickle.UnpicklingError:
        if not trust:
            raise
    return torch.load(path, map_location=map_location, weights_only=False)


def _offender(error: Exception) -> str:
    """What a reader without code stumbled over: the name of the type, or the end of its message."""
    text = ' '.join(str(error).split())
    match = re.search(r'GLOBAL (\S+)', text) or re.match(r'(\S+) is none of the harmless types', text)
    return f'an object of {match[1]}' if match else text.rpartition('WeightsUnpickler error: ')[2][:160]


def _damaged(error: Exception) -> str:
    reason = ' '.join(str(error).split())[:160] or type(error).__name__
    if re.search(r'unsupported pickle protocol|maximum supported version', reason):
        return f'is of a newer format than this PyTorch reads ({reason}): update PyTorch'
    return f'is damaged ({reason}): {_AGAIN}'


def _first_fault(state: Mapping[Any, Any]) -> str | None:
    """The first parameter that would be loaded wrongly or not at all, with the reason."""
    seen = set[str]()
    for name, value in state.items():
        if not torch.is_tensor(value):
            continue
        if not isinstance(name, str):
            return f'it has a parameter named {name!r}, which is no text'
        short = name.removeprefix('module.')
        if short in seen:
            return f'it has two values of {short}, one with "module." before the name'
        seen.add(short)
        if fault := _fault(value):
            return f'its parameter {name} {fault}'
    return None


def _fault(value: torch.Tensor) -> str | None:
    if value.is_meta:
        return 'has a shape but no values (it was saved from the device meta)'
    if value.is_quantized:
        return f'is quantised ({value.dtype})'
    if value.layout != torch.strided:
        return f'is sparse ({value.layout})'
    if not value.is_floating_point():
        return None
    distinct = value[tuple(slice(0, 1) if step == 0 else slice(None) for step in value.stride())]
    if distinct.element_size() == 1:
        distinct = distinct.float()  # float8 knows no comparisons
    if distinct.isfinite().all() or set(distinct.unique().tolist()) == {float('-inf'), 0.0}:  # the latter: masks
        return None
    return 'has values that are not finite (NaN or infinite), the training has diverged'


def _parameters(content: Mapping[str, Any]) -> Mapping[Any, Any]:
    state = content.get('state_dict', content.get('model'))
    return state if isinstance(state, Mapping) else content


def extract_state_dict(content: Mapping[str, Any], path: str | Path) -> dict[str, torch.Tensor]:
    """Take the tensors by name out of a checkpoint, without the ``module.`` of a distributed wrapper.

    What the metadata tell of the grids of position embeddings comes with them.
    """
    state = _parameters(content)
    tensors = OrderedDict(
        (name.removeprefix('module.'), value) for name, value in state.items() if torch.is_tensor(value)
    )
    vars(tensors)['_metadata'] = {
        prefix.removeprefix('module.'): {'grids': grids} for prefix, grids in told_grids(state).items()
    }
    if not tensors:
        nested = [(str(key), part.values()) for key, part in content.items() if isinstance(part, Mapping)]
        parts = ', '.join(key for key, values in nested if any(map(torch.is_tensor, values)))
        hint = f'; write one of its parts {parts} to a file of its own' if parts else ''
        shown = ', '.join(map(str, list(content)[:5]))
        expected = f'expected a state_dict or a checkpoint with one{hint}'
        raise UserError(f'{path} holds no parameters (its keys: {shown}): {expected}')
    return tensors


def metafile_hash(config: str | Path | None, path: str | Path) -> str | None:
    """The ``SHA256`` that the ``metafile.yml`` beside a config has for the ``Weights`` of this file name, if any."""
    metafile = Path(config).parent / 'metafile.yml' if config else None
    if metafile is None or not metafile.is_file():
        return None
    try:
        content = yaml.safe_load(metafile.read_text(encoding='utf-8'))
    except (OSError, ValueError, yaml.YAMLError):
        return None  # a broken table of results is no reason to keep a model from being used
    models = content.get('Models') if isinstance(content, dict) else content
    for model in models if isinstance(models, list) else ():
        named = isinstance(model, dict) and str(model.get('Weights')).rpartition('/')[2] == Path(path).name
        if named and 'SHA256' in model:
            digits = str(model['SHA256']).lower()
            if SHA256_DIGITS.match(digits):
                return digits
            raise UserError(f'{metafile} has the SHA256 {digits!r}: expected 8 to 64 hexadecimal digits in quotes')
    return None
