"""Reading and writing checkpoint files: bad files named in one sentence, results written whole or not at all."""

import os
import pickle
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from .errors import UserError

__all__ = [
    'allow_training_state',
    'atomic_path',
    'check_checkpoint_file',
    'extract_state_dict',
    'is_remote',
    'read_checkpoint',
]

_LEGACY_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # how torch.save began before PyTorch 1.6
_ZIP_MAGIC = b'PK\x03\x04'
HAS_SAFE_GLOBALS = hasattr(torch.serialization, 'safe_globals')  # PyTorch 2.5 and later


def is_remote(path: str) -> bool:
    """Whether a path is an address (``https://``, ``torchvision://``, ``s3://``) and not a local file."""
    return '://' in path


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
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith('/data.pkl') or name == 'data.pkl' for name in archive.namelist()):
                raise UserError(f'the {role} {path} is a zip archive but no PyTorch checkpoint: expected a .pth file')
    elif head[:1] != b'\x80':
        kind = 'is empty' if not head else 'is no PyTorch checkpoint'
        raise UserError(f'the {role} {path} {kind}: expected a file written by torch.save; download or copy it again')


def _cut_off(path: Path, role: str) -> str:
    size = path.stat().st_size
    return f'the {role} {path} is cut off ({size} bytes, the end of the archive is missing): download or copy it again'


def read_checkpoint(path: str | Path, role: str = 'checkpoint', *, trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint without running code from it.

    Args:
        path: The file.
        role: What the file is to the caller, for the message.
        trust: Read it with pickle if that is the only way. Pickle runs code from the file. Before PyTorch 2.5 it is
            the only way for every checkpoint that mmengine wrote.

    Returns:
        The dictionary in it.

    Raises:
        UserError: The file is missing, cut off, no checkpoint, or only pickle could read it.
    """
    check_checkpoint_file(path, role)
    path = Path(path).expanduser()
    try:
        content = _load_weights_only(path)
    except pickle.UnpicklingError as error:
        if not trust:
            reason = ' '.join(str(error).split())[:160]
            raise UserError(
                f'the {role} {path} holds more than tensors and plain values ({reason}): pass --trust-source if you '
                'trust where it comes from, reading it then runs code from the file'
            ) from error
        content = torch.load(path, map_location='cpu', weights_only=False)
    except (RuntimeError, EOFError, OSError) as error:
        reason = ' '.join(str(error).split())[:160]
        raise UserError(f'the {role} {path} is damaged ({reason}): download or copy it again') from error
    if not isinstance(content, dict):
        raise UserError(f'the {role} {path} holds a {type(content).__name__}: expected a dictionary of parameters')
    return content


def allow_training_state() -> None:
    """Let ``torch.load(weights_only=True)`` read what mmengine writes besides tensors, in this process.

    mmengine's own list leaves numpy types out; it then falls back to a load that runs code from the file, and says so
    in a long warning at every resume.
    """
    if HAS_SAFE_GLOBALS:
        torch.serialization.add_safe_globals(_harmless_types())


def _load_weights_only(path: Path) -> Any:
    with ExitStack() as stack:
        if HAS_SAFE_GLOBALS:
            stack.enter_context(torch.serialization.safe_globals(_harmless_types()))
        return torch.load(path, map_location='cpu', weights_only=True)


def _harmless_types() -> list[Any]:
    import numpy as np
    from mmengine.logging import HistoryBuffer

    core = np._core if hasattr(np, '_core') else np.core
    dtypes = {type(np.dtype(code)) for code in ('float64', 'float32', 'int64', 'int32', 'uint8', 'bool')}
    return [
        HistoryBuffer,
        np.ndarray,
        np.dtype,
        core.multiarray._reconstruct,
        core.multiarray.scalar,
        getattr,
        slice,
        *dtypes,
    ]


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
    tensors = {name.removeprefix('module.'): value for name, value in state.items() if torch.is_tensor(value)}
    if not tensors:
        shown = ', '.join(map(str, list(content)[:5]))
        raise UserError(
            f'{path} holds no parameters (its keys: {shown}): expected a state_dict or a checkpoint with one'
        )
    return tensors


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that becomes ``path`` if the block succeeds and is removed if it fails.

    Args:
        path: Where the finished file belongs. Its folder is created.

    Returns:
        The path to write to; it has the same suffix.

    Raises:
        UserError: The folder cannot be written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f'.{path.stem}.', suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror or error}; choose another place') from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are private to their owner
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
