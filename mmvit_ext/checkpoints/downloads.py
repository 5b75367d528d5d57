"""Complete files from the network: an interrupted download resumes, and its bytes are checked.

A download under way is ``NAME.part`` in the cache folder; only a file with the right length and hash gets its name. If
the server cannot resume, the download starts again from the first byte. Addresses as a browser shows them (Google
Drive, ``gs://``, Hugging Face's ``blob``) are turned into those of the bytes; Google Drive's page that asks whether a
large file is wanted without a virus scan is answered.
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
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from rich.progress import Progress

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import named_hash, sha256_of, verify_hash, writable_folder
from mmvit_ext.machine import progress_bar

__all__ = ['cache_folder', 'cached_path', 'direct_address', 'fetch']

CHUNK = 2**18
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as lost."""
ATTEMPTS = 6
"""Connections in a row without any data after which a download fails."""
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_RANGE = re.compile(r'bytes (\d+)-\d+/(\d+|\*)')
_DRIVE = re.compile(r'https://drive\.google\.com/(?:file/d/|(?:open|uc)\?(?:[^#]*&)?id=)([\w-]+)')
_FOLDER = re.compile(r'https://drive\.google\.com/drive/(?:u/\d+/)?folders/')
_BLOB = re.compile(r'(https://huggingface\.co/[^/]+/[^/]+)/blob/')
_PAGE = 2**20
"""Bytes of a web page that are looked through for a form."""


def cache_folder() -> Path:
    """The default folder for downloads: ``mmvit_ext/checkpoints`` below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get('XDG_CACHE_HOME') or ''
    return (Path(base) if os.path.isabs(base) else Path.home() / '.cache') / 'mmvit_ext' / 'checkpoints'


def direct_address(url: str) -> str:
    """The address of the bytes, for an address of a page about a file; others come back as they are."""
    if drive := _DRIVE.match(url):
        return f'https://drive.google.com/uc?export=download&id={drive[1]}'
    if url.startswith('gs://'):
        return f'https://storage.googleapis.com/{urllib.parse.quote(url.removeprefix("gs://"))}'
    return _BLOB.sub(r'\1/resolve/', url)


def cached_path(url: str, folder: Path, name: str | None = None) -> Path:
    """The path of an address in a cache folder; each address has its own subfolder, as names may occur twice.

    Args:
        url: The address.
        folder: The cache folder.
        name: The file's name where the address does not end with it.
    """
    name = name or urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip('/').rpartition('/')[2]
    safe = re.sub(r'[^\w.+-]', '_', name).lstrip('.') or 'download'
    return folder / hashlib.sha256(url.encode()).hexdigest()[:12] / safe


def fetch(
    url: str,
    folder: Path | None = None,
    *,
    sha256: str | None = None,
    name: str | None = None,
    offline: bool = False,
    progress: bool = True,
    pause: float = 1.0,
) -> tuple[Path, str]:
    """Find a file in the cache, or download it there.

    Args:
        url: Address, ``http://``, ``https://`` or ``gs://``.
        folder: The cache folder; by default :func:`cache_folder`.
        sha256: At least the first 8 digits of the file's SHA-256. Digits in the file's name count as well.
        name: The file's name where the address does not end with it.
        offline: Do not use the network; a file that is not in the cache is an error.
        progress: Whether to show a progress bar on stderr.
        pause: Seconds before the second attempt; they double with each further one.

    Returns:
        The file, complete and with the right hash, and its SHA-256.

    Raises:
        UserError: The file is neither in the cache nor could it be downloaded.
    """
    if _FOLDER.match(url):
        raise UserError(
            f'{url} is a folder of several files: download the one that is wanted in a browser and pass --checkpoint '
            'FILE'
        )
    if urllib.parse.urlsplit(url).scheme not in ('http', 'https', 'gs'):
        raise UserError(
            f'{url} cannot be fetched: expected an address that begins with https://; download the file by hand and '
            'pass --checkpoint FILE'
        )
    path = cached_path(url, cache_folder() if folder is None else Path(folder), name)
    if path.is_file():
        try:
            verify_hash(path, sha256, 'cached file')
            return path, sha256_of(path)
        except UserError:
            if offline:
                raise
            path.unlink()
    if offline:
        raise UserError(f'{url} is not in the cache and --offline is set: put the file at {path}, or omit --offline')
    writable_folder(path.parent, '--cache-dir').mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    expected = sha256 or named_hash(path) or ''
    resumed = part.is_file()
    _download(url, part, progress, pause)
    if resumed and not sha256_of(part).startswith(expected):
        # What an earlier run left may be the beginning of another version of the file.
        part.unlink()
        _download(url, part, progress, pause)
    if not (actual := sha256_of(part)).startswith(expected):
        part.unlink()
        raise UserError(
            f'{url} has the SHA-256 {actual[: len(expected)]}... where {expected} is expected; the file was not kept: '
            'the server has another one, ask where the right one is or pass --checkpoint FILE'
        )
    part.replace(path)
    part.with_name(part.name + '.tag').unlink(missing_ok=True)
    return path, actual


class _WebPageError(Exception):
    """A page came in place of the file; ``form`` is the address that its form leads to."""

    def __init__(self, form: str | None) -> None:
        super().__init__(form)
        self.form = form


class _DownloadForm(HTMLParser):
    """The target and the hidden fields of the form with which Google Drive asks for a confirmation."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the form, and the fields inside it."""
        values = {name: value or '' for name, value in attrs}
        if tag == 'form' and values.get('id') == 'download-form':
            self.action, self._inside = values.get('action', ''), True
        elif tag == 'input' and self._inside and values.get('name'):
            self.fields[values['name']] = values.get('value', '')

    def handle_endtag(self, tag: str) -> None:
        """What follows the form does not belong to it."""
        self._inside = self._inside and tag != 'form'


def _confirmed(page: str, address: str) -> str | None:
    """Where the form of a web page leads when it is sent as it is, ``None`` for a page without one."""
    form = _DownloadForm()
    form.feed(page)
    if form.action is None:
        return None
    target = urllib.parse.urlsplit(urllib.parse.urljoin(address, form.action))
    fields = [*urllib.parse.parse_qsl(target.query), *form.fields.items()]
    if target.scheme not in ('http', 'https'):
        return None
    return urllib.parse.urlunsplit(target._replace(query=urllib.parse.urlencode(fields)))


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _download(url: str, part: Path, progress: bool, pause: float) -> None:
    """Fill ``part`` with the whole file, over as many connections as it takes."""
    idle, reason, address = 0, '', direct_address(url)
    with progress_bar(show=progress, transfer=True) as bar:
        task = bar.add_task(part.name.removesuffix('.part'), total=None)
        while idle < ATTEMPTS:
            if idle:
                time.sleep(pause * 2 ** (idle - 1))
            before = _size(part)
            try:
                if _continue(address, part, bar, task):
                    return
                reason = 'the connection was closed early'
            except _WebPageError as page:
                if page.form is None:
                    raise UserError(
                        f'{url} is a web page and not a file: download the file in a browser and pass --checkpoint FILE'
                    ) from page
                reason, address = 'the server keeps asking for a confirmation', page.form
            except urllib.error.HTTPError as error:
                reason = f'the server answered {error.code} {error.reason}'
                if error.code not in _TRANSIENT:
                    raise _failed(url, reason) from error
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.filename is not None:
                    raise  # of the file, not of the connection
                reason = str(getattr(error, 'reason', error) or type(error).__name__)
            idle = 0 if _size(part) > before else idle + 1
    raise _failed(url, f'{reason}, {ATTEMPTS} times without a further byte')


def _failed(url: str, reason: str) -> UserError:
    return UserError(
        f'{url} could not be downloaded: {reason}; run the command again to resume, or download the file by hand and '
        'pass --checkpoint FILE'
    )


def _continue(url: str, part: Path, bar: Progress, task: Any) -> bool:
    """Use one connection; tells whether the file is complete after it."""
    have = _size(part)
    # Without this a proxy may compress, and lengths and ranges would count other bytes.
    headers = {'Accept-Encoding': 'identity', 'User-Agent': 'mmvit_ext'}
    tag = part.with_name(part.name + '.tag')
    if have:
        headers['Range'] = f'bytes={have}-'
        if tag.is_file():  # a file that has changed since then is sent whole
            headers['If-Range'] = tag.read_text()
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        # The range begins at or behind the end: the part is complete, or too long and of another file.
        length = (error.headers.get('Content-Range') or '').rpartition('/')[2]
        error.close()
        if length == str(have):
            return True
        part.unlink()
        return False
    with response:
        if response.headers.get_content_type() == 'text/html':
            raise _WebPageError(_confirmed(response.read(_PAGE).decode('utf-8', 'replace'), response.url))
        start, total = _extent(response, have)
        if start != have:  # the server does not resume, or not where it was asked to
            start = 0
            if response.status == 206:
                part.unlink()
                return False
        bar.update(task, completed=start, total=total)
        if not start:
            # A strong entity tag identifies this version of the file.
            entity = response.headers.get('ETag') or ''
            tag.unlink(missing_ok=True)
            if entity.startswith('"'):
                tag.write_text(entity)
        with part.open('ab' if start else 'wb') as file:
            while block := response.read(CHUNK):
                file.write(block)
                bar.advance(task, len(block))
                start += len(block)
    if total is not None and start > total:
        part.unlink()
        return False
    return total is None or start == total


def _extent(response: http.client.HTTPResponse, asked: int) -> tuple[int, int | None]:
    """Where the response begins in the file, and the length of the file where the server tells it."""
    length = response.headers.get('Content-Length') or ''
    size = int(length) if length.isdigit() else None
    if response.status != 206:
        return 0, size
    match = _RANGE.fullmatch((response.headers.get('Content-Range') or '').strip())
    if match is None:
        return asked, None if size is None else asked + size
    return int(match[1]), None if match[2] == '*' else int(match[2])
