"""Read checkpoint files without running code from them, and name bad files in one sentence.

What needs more than tensors and harmless types is refused unless the user says that the file is trusted.
"""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import SHA256_DIGITS, is_remote, verify_hash

from .unpickling import load_without_code, read_outline

__all__ = ['check_checkpoint_file', 'checkpoint_damage', 'extract_state_dict', 'metafile_hash', 'read_checkpoint']

_LEGACY_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # how torch.save began before PyTorch 1.6

_ZIP_MAGIC = b'PK\x03\x04'


def check_checkpoint_file(path: str | Path, role: str = 'checkpoint', remedy: str = 'check the path') -> None:
    """Find a missing, cut off or foreign file without reading it; ``role`` and ``remedy`` are for the message."""
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
            raise UserError(
                f'the {role} {path} is cut off ({path.stat().st_size} bytes, the end of the archive is missing): '
                'download or copy it again'
            )
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


def checkpoint_damage(path: str | Path) -> str | None:
    """What is wrong with a file written by ``torch.save``, such as ``'is cut off'``, found by reading all of it."""
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            return 'is empty'
        with path.open('rb') as file:
            if file.read(len(_ZIP_MAGIC)) != _ZIP_MAGIC:
                return 'does not begin as a checkpoint does'
        if not zipfile.is_zipfile(path):
            return 'is cut off'
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            return f'is damaged (wrong checksum of {damaged})'
        read_outline(path)
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
    """Read a checkpoint without running code from it.

    Args:
        path: The file.
        role: What the file is to the caller, for the message.
        trust: Read it with pickle if that is the only way. Pickle runs code from the file.
        expected_hash: First digits of the file's SHA-256, where they are known from elsewhere than its name.
        map_location: Where the tensors go, as in :func:`torch.load`.

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
        try:
            content = torch.load(path, map_location=map_location, weights_only=False)
        except Exception as damage:
            raise UserError(_damaged(path, role, damage)) from damage
    except Exception as error:  # damaged bytes fail in every way that a parser has
        raise UserError(_damaged(path, role, error)) from error
    if not isinstance(content, dict):
        raise UserError(f'the {role} {path} holds a {type(content).__name__}: expected a dictionary of parameters')
    return content


def _damaged(path: Path, role: str, error: Exception) -> str:
    reason = ' '.join(str(error).split())[:160] or type(error).__name__
    return f'the {role} {path} is damaged ({reason}): download or copy it again'


def metafile_hash(config: str | Path | None, path: str | Path) -> str | None:
    """The ``SHA256`` that the ``metafile.yml`` beside a config has for the ``Weights`` of this file name, if any."""
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


def extract_state_dict(content: Mapping[str, Any], path: str | Path) -> dict[str, torch.Tensor]:
    """Take the tensors by name out of a checkpoint, without the ``module.`` of a distributed wrapper."""
    candidates = (content.get('state_dict'), content.get('model'), content)
    state = next(candidate for candidate in candidates if isinstance(candidate, Mapping))
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
