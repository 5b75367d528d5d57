"""Files: atomic writing that replaces nothing of others, images, names, hashes, writable folders and their locks."""

import errno
import filecmp
import hashlib
import os
import platform
import re
import shlex
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image

from mmvit_ext.errors import DISK_FULL, UserError

try:
    import fcntl
except ImportError:  # Windows, where folders are not locked
    fcntl = None  # type: ignore[assignment]

__all__ = ['PARTIAL_SUFFIX', 'ExistingFileError', 'atomic_path', 'digest_of', 'fit_name', 'is_remote', 'kept_files']
__all__ += ['named_hash', 'open_image', 'regular_file', 'sha256_of', 'sole_use', 'verify_hash', 'writable_folder']

PARTIAL_SUFFIX = '.partial'
LOCK_NAME = '.mmvit_ext.lock'
IMAGE_FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')
"""The only ones that images are decoded as, whatever a file is called: Pillow knows others that start programs."""

LONGEST_NAME = 255  # bytes of a file name that common file systems take


def open_image(source: str | Path | IO[bytes], role: str = 'image') -> Image.Image:
    """Open a picture, a file or a stream, in one of :data:`IMAGE_FORMATS`; ``OSError`` for a decompression bomb."""
    if isinstance(source, str | Path) and os.path.exists(source):
        regular_file(source, role)
    try:
        return Image.open(source, formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        raise OSError(str(error)) from error


def fit_name(name: str, room: int = 0) -> str:
    """A file name that leaves ``room`` bytes for what is appended; one that is too long is cut, and gets its hash."""
    content = os.fsencode(name)
    if len(content) + room <= LONGEST_NAME:
        return name
    return f'{content[: LONGEST_NAME - room - 9].decode(errors="ignore")}-{hashlib.sha256(content).hexdigest()[:8]}'


def writable_folder(path: str | Path, option: str) -> Path:
    """Check that a folder exists or can be made, without making it; ``option`` named it, for the message."""
    folder = Path(os.path.expanduser(path))
    if folder.exists() and not folder.is_dir():
        raise UserError(f'{option} {folder} is a file: expected a folder, choose another name')
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        fault = f'{option} {folder} cannot be written to (at {existing})'
        raise UserError(f'{fault}: choose a folder that you may write to')
    return folder


_NO_FILES = {stat.S_IFDIR: 'a folder', stat.S_IFIFO: 'a named pipe', stat.S_IFSOCK: 'a socket'}
_NO_FILES |= {stat.S_IFCHR: 'a device', stat.S_IFBLK: 'a device'}


def regular_file(path: str | Path, role: str, remedy: str = 'check the path') -> Path:
    """Check that a path is a regular file that can be opened: reading a pipe or a device may never end."""
    path = Path(os.path.expanduser(path))
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind not in _NO_FILES:
            path.open('rb').close()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f'there is no {role} {path}: {remedy}') from error
    except OSError as error:
        raise UserError(f'the {role} {path} cannot be opened: {error.strerror}') from error
    except ValueError as error:
        raise UserError(f'{str(path)!r} cannot be the name of a {role}: {remedy}') from error
    if kind in _NO_FILES:
        raise UserError(f'the {role} {path} is {_NO_FILES[kind]}: expected a regular file, {remedy}')
    return path


_held: set[tuple[int, str]] = set()  # process and path of each lock file that this process holds


@contextmanager
def sole_use(folder: str | Path, option: str) -> Iterator[None]:
    """Keep other processes from using a folder in a block; ``UserError`` names the one that does.

    The lock is the process's and not the file's: it ends with the process however that ends, its workers do not
    inherit it, and a copied folder is free. ``option`` named the folder, for the message.
    """
    path = Path(folder) / LOCK_NAME
    key = (os.getpid(), os.path.realpath(path))
    if fcntl is None or key in _held:
        yield
        return
    descriptor = _open_lock(path, option)
    _held.add(key)
    try:
        owner = f'process {os.getpid()} on {platform.node()} ({shlex.join(sys.argv)[:200]})'
        with suppress(OSError):  # of a full disk: the lock holds without its owner's name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, owner.encode(errors='replace'), 0)
        yield
    finally:
        _held.discard(key)
        if _is_at(path, descriptor):
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _open_lock(path: Path, option: str) -> int:
    """Open and lock a lock file; again where the process that held it has removed it in between."""
    folder = path.parent
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            remedy = 'choose another folder, or remove that file if no command uses the folder'
            fault = f'{option} {folder} cannot be used: {path} cannot be opened ({error.strerror})'
            raise UserError(f'{fault}; {remedy}') from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                text = b''
                with suppress(OSError), open(descriptor, 'rb') as file:
                    text = file.read(1000)
                owner = ''.join(filter(str.isprintable, text.decode(errors='replace'))) or 'another process'
                fault = f'{option} {folder} is in use by {owner}'
                raise UserError(f'{fault}: wait until it has ended, or choose another folder') from error
            fault = f'{folder}: its file system has no locks ({error.strerror})'
            print(f'{fault}, so a second command that writes there at the same time is not noticed', file=sys.stderr)
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


# PyTorch's own convention and OpenMMLab's: the first digits of the file's SHA-256 behind the last hyphen.
_HASH_IN_NAME = re.compile(r'-(?P<hash>[0-9a-f]{8,64})\.(?:pth|pt|pkl|bin|safetensors)(?:\.tar)?$')
_NO_HASH = re.compile(r'^(?:(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])|0\d+)$')
"""Dates, and iterations with zeros in front of them."""

SHA256_DIGITS = re.compile(r'^[0-9a-f]{8,64}$')


def is_remote(path: str) -> bool:
    """Whether a path is an address (``https://``, ``torchvision://``, ``s3://``) and not a local file."""
    return '://' in path


def named_hash(path: str | Path) -> str | None:
    """The first digits of its SHA-256, eight or more, in a file's name as in ``segvit-1a2b3c4d.pth``.

    A date (``20240131``) is none, nor are decimal digits that begin with a 0, as of an iteration (``00012000``).
    """
    match = _HASH_IN_NAME.search(str(path).rpartition('/')[2])
    return None if match is None or _NO_HASH.match(match['hash']) else match['hash']


def verify_hash(path: str | Path, expected: str | None = None, role: str = 'checkpoint') -> None:
    """Compare a local file's SHA-256 with the first digits that its name carries, and with expected ones."""
    if is_remote(str(path)):
        return
    path = Path(os.path.expanduser(path))
    for digits, source in ((named_hash(path), 'its name'), (expected, 'the metafile or address')):
        if digits and not (actual := sha256_of(path)).startswith(digits):
            fault = f'the {role} {path} has the SHA-256 {actual[: len(digits)]}... where {source} says {digits}'
            raise UserError(f'{fault}: download it again, or rename it if you changed it on purpose')


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits; kept until the file is replaced."""
    path = Path(os.path.expanduser(path))
    status = path.stat()
    return _sha256(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, modified: int) -> str:
    # Size and time are in the key so that a file that was replaced is read again.
    return digest_of(path)


def digest_of(path: str | Path) -> str:
    """The SHA-256 of a file, read now."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def free_name(path: Path) -> Path:
    """The path, or one with a number behind its name where that is taken."""
    taken, number = path, 1
    while os.path.lexists(path):
        number += 1
        path = taken.with_name(f'{taken.stem}_{number}{taken.suffix}')
    return path


class ExistingFileError(UserError):
    """A file that a command does not own is where it would write; it is left as it is."""


class _Kept(NamedTuple):
    inputs: frozenset[str]
    force: bool | None
    written: set[str]


_KEPT: ContextVar[_Kept | None] = ContextVar('kept', default=None)


@contextmanager
def kept_files(
    inputs: Iterable[str | Path] = (), outputs: Iterable[str | Path | None] = (), *, force: bool | None = None
) -> Iterator[None]:
    """Within the block, :func:`atomic_path` replaces no file that was there before, but raises ``ExistingFileError``.

    A file of the same content stays and is no error, so that a command can be repeated. ``inputs``, which the command
    reads, are not replaced even by ``force``, which is ``None`` for a command without ``--force``. ``outputs`` are
    results that are known before, files and folders: what exists is an error at once.
    """
    kept = _Kept(frozenset(os.path.realpath(path) for path in inputs), force, set())
    for path in outputs:
        if path and os.path.lexists(path) and not (os.path.isdir(path) and set(os.listdir(path)) <= {LOCK_NAME}):
            _check_replaceable(Path(path), kept)
    token = _KEPT.set(kept)
    try:
        yield
    finally:
        _KEPT.reset(token)


def _check_replaceable(path: Path, kept: _Kept) -> None:
    if os.path.realpath(path) in kept.inputs:
        raise ExistingFileError(f'{path} is read by this command and cannot be its result: choose another place')
    if not kept.force:
        remedy = '' if kept.force is None else ', or pass --force to replace it'
        raise ExistingFileError(f'{path} exists already: move it away, choose another name{remedy}')


@contextmanager
def atomic_path(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """A temporary file beside ``path``, in a new folder if need be, that becomes ``path`` if the block succeeds.

    ``durable`` brings the content to the disk before the name, so that a machine that stops leaves a whole file; what a
    kill leaves behind is then named ``.NAME*.partial``, otherwise it has the suffix of ``path``.
    """
    path = Path(path)
    suffix = PARTIAL_SUFFIX if durable else path.suffix[:16]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f'.{path.stem[:32]}.', suffix=suffix, dir=path.parent)
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror or error}; choose another place') from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        if durable:
            _sync(temporary, os.O_RDWR)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are private to their owner
        _publish(temporary, path)
    except OSError as error:
        if error.errno in DISK_FULL:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    if durable and os.name == 'posix':
        with suppress(OSError):  # some network file systems refuse it; the rename is as atomic as they make it
            _sync(path.parent, os.O_RDONLY)


def _publish(temporary: Path, path: Path) -> None:
    kept, place = _KEPT.get(), os.path.realpath(path)
    if kept is None or place in kept.written or (kept.force and place not in kept.inputs):
        os.replace(temporary, path)
    else:
        try:
            os.link(temporary, path)  # which, unlike a renaming, never replaces
        except OSError:
            if not os.path.lexists(path):  # a file system without hard links
                os.replace(temporary, path)
            elif place in kept.inputs or not (path.is_file() and filecmp.cmp(temporary, path, shallow=False)):
                _check_replaceable(path, kept)
            else:
                return
    if kept is not None:
        kept.written.add(place)


def _sync(path: Path, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
