"""Files from the network that are whole: a download goes on where it was cut off, and its bytes are checked.

While it is under way, a download is ``NAME.part`` in the cache folder; only a file whose length and hash are right gets
its name. A server that cannot continue starts again from the first byte.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import named_hash, sha256_of, verify_hash

__all__ = [
    'cache_folder',
    'cached_path',
    'fetch',
]

CHUNK = 2**18

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as lost."""

ATTEMPTS = 6
"""Connections in a row that bring nothing before a download is given up."""

_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}

_RANGE = re.compile(r'bytes (\d+)-\d+/(\d+|\*)')


def cache_folder() -> Path:
    """Where downloads are kept, unless the command is told otherwise.

    Returns:
        ``$XDG_CACHE_HOME/mmvit_ext/checkpoints``, below ``~/.cache`` where that is not set.
    """
    base = os.environ.get('XDG_CACHE_HOME') or ''
    return (Path(base) if os.path.isabs(base) else Path.home() / '.cache') / 'mmvit_ext' / 'checkpoints'


def cached_path(url: str, folder: Path) -> Path:
    """Where the file of an address is kept.

    Args:
        url: The address.
        folder: The cache folder.

    Returns:
        A path with the name at the end of the address, in a folder of that address's own: two servers may use the
        same name for different files.
    """
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip('/').rpartition('/')[2]
    safe = re.sub(r'[^\w.+-]', '_', name).lstrip('.') or 'download'
    return folder / hashlib.sha256(url.encode()).hexdigest()[:12] / safe


def fetch(
    url: str,
    folder: Path | None = None,
    *,
    sha256: str | None = None,
    offline: bool = False,
    progress: bool = True,
    pause: float = 1.0,
) -> Path:
    """Find a file in the cache or download it there.

    Args:
        url: Address, ``http://`` or ``https://``.
        folder: The cache folder; :func:`cache_folder` when not given.
        sha256: First digits of the file's SHA-256, 8 at least. Those that the file's name carries count as well.
        offline: Do not use the network: the file is in the cache, or that is an error.
        progress: Whether to show a progress bar on stderr.
        pause: Seconds before the second attempt; they double with each further one.

    Returns:
        The file, complete and with the right hash.

    Raises:
        UserError: The address cannot be used, the server does not have the file, sends something else or keeps
            breaking off, or the file is not in the cache and ``offline`` is set.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in ('http', 'https'):
        raise UserError(
            f'{url} cannot be fetched: expected an address that begins with https://; download the file by hand and '
            'pass --checkpoint FILE'
        )
    path = cached_path(url, cache_folder() if folder is None else Path(folder))
    if path.is_file():
        try:
            verify_hash(path, sha256, 'cached file')
        except UserError:
            if offline:
                raise
            path.unlink()
        else:
            return path
    if offline:
        raise UserError(
            f'{url} is not in the cache and --offline is set: put the file at {path}, or leave --offline out'
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'the cache folder {path.parent} cannot be made ({error.strerror}): pass --cache-dir'
        ) from error
    part = path.with_name(path.name + '.part')
    expected = sha256 or named_hash(path)
    began_with_rest = part.is_file()
    _download(url, part, progress, pause)
    if expected and not (actual := sha256_of(part)).startswith(expected) and began_with_rest:
        # What an earlier run left may be the beginning of another version of the file.
        part.unlink()
        _download(url, part, progress, pause)
    if expected and not (actual := sha256_of(part)).startswith(expected):
        part.unlink()
        raise UserError(
            f'{url} has the SHA-256 {actual[: len(expected)]}... where {expected} is expected; the file was not kept: '
            'the server has another one, ask where the right one is or pass --checkpoint FILE'
        )
    part.replace(path)
    part.with_name(part.name + '.tag').unlink(missing_ok=True)
    return path


def _download(url: str, part: Path, progress: bool, pause: float) -> None:
    """Fill ``part`` with the whole file, over as many connections as it takes."""
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(part.name.removesuffix('.part'), total=None)
        idle, reason = 0, ''
        while idle < ATTEMPTS:
            if idle:
                time.sleep(pause * 2 ** (idle - 1))
            before = part.stat().st_size if part.is_file() else 0
            try:
                if _continue(url, part, bar, task):
                    return
                reason = 'the connection was closed early'
            except urllib.error.HTTPError as error:
                if error.code not in _TRANSIENT:
                    raise _refused(url, f'the server answered {error.code} {error.reason}') from error
                reason = f'the server answered {error.code} {error.reason}'
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.filename is not None:
                    raise  # of the file, not of the connection
                reason = str(getattr(error, 'reason', error) or type(error).__name__)
            after = part.stat().st_size if part.is_file() else 0
            idle = 0 if after > before else idle + 1
    raise _refused(url, f'{reason}, {ATTEMPTS} times without a further byte')


def _refused(url: str, reason: str) -> UserError:
    return UserError(
        f'{url} could not be downloaded: {reason}; run the command again to go on from what is there, or download the '
        'file by hand and pass --checkpoint FILE'
    )


def _continue(url: str, part: Path, bar: Progress, task: object) -> bool:
    """One connection; tells whether the file is complete after it."""
    have = part.stat().st_size if part.is_file() else 0
    # Without this a proxy may compress, and lengths and ranges would count other bytes.
    headers = {'Accept-Encoding': 'identity', 'User-Agent': 'mmvit_ext'}
    tag = part.with_name(part.name + '.tag')
    if have:
        headers['Range'] = f'bytes={have}-'
        if tag.is_file():  # a file that has changed since comes whole instead
            headers['If-Range'] = tag.read_text()
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        # The range begins at or behind the end: what is there is whole, or too long and not of this file.
        length = (error.headers.get('Content-Range') or '').rpartition('/')[2]
        error.close()
        if length.isdigit() and int(length) == have:
            return True
        part.unlink()
        return False
    with response:
        kind = response.headers.get_content_type()
        if kind == 'text/html':
            raise UserError(
                f'{url} is a web page and not a file: download the file in a browser and pass --checkpoint FILE'
            )
        start, total = _extent(response, have)
        if start != have:
            start = have = 0  # the server does not continue, or not where it was asked to
            if response.status == 206:
                part.unlink()
                return False
        bar.update(task, completed=start, total=total)  # type: ignore[arg-type]
        if not start:
            _remember(response, tag)
        with part.open('ab' if start else 'wb') as file:
            while block := response.read(CHUNK):
                file.write(block)
                bar.advance(task, len(block))  # type: ignore[arg-type]
                start += len(block)
    if total is not None and start > total:
        part.unlink()
        return False
    return total is None or start == total


def _remember(response: http.client.HTTPResponse, tag: Path) -> None:
    """Keep what identifies this version of the file, where the server says it in the strong form."""
    entity = response.headers.get('ETag') or ''
    if entity.startswith('"'):
        tag.write_text(entity)
    else:
        tag.unlink(missing_ok=True)


def _extent(response: http.client.HTTPResponse, asked: int) -> tuple[int, int | None]:
    """Where the answer begins in the file, and the file's length where it is told."""
    length = response.headers.get('Content-Length')
    size = int(length) if length and length.isdigit() else None
    if response.status != 206:
        return 0, size
    match = _RANGE.fullmatch((response.headers.get('Content-Range') or '').strip())
    if match is None:
        return asked, None if size is None else asked + size
    total = None if match[2] == '*' else int(match[2])
    return int(match[1]), total
