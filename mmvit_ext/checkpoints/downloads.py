"""Complete files from the network: an interrupted download resumes, and its bytes are checked.

A download under way is ``NAME.part`` in the cache folder, and one process at a time writes it; only a file with the
right length and hash gets its name. It is resumed where a hash, an entity tag or a date of change tells that both parts
are of one file, and is started again otherwise.
"""

import hashlib
import html
import http.client
import os
import re
import shutil
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.progress import Progress

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import digest_of, named_hash, verify_hash, writable_folder
from mmvit_ext.machine import progress_bar

__all__ = ['asked_address', 'cache_folder', 'cached_path', 'confirmed_address', 'direct_address', 'fetch']

CHUNK = 2**18
TIMEOUT = 30.0  # seconds without a byte until a connection counts as lost, and over which its speed is measured
ATTEMPTS = 6  # connections in a row that bring nothing after which a download fails
PROGRESS = 4096  # bytes from which on a connection has brought something
LONGEST_PAUSE = 120  # seconds by which a server may put off the next attempt
PATIENCE = 10  # how many times TIMEOUT another process may hold a file without a further byte
LIMITS = {'MMVIT_EXT_LEAST_SPEED': 1024.0, 'MMVIT_EXT_LARGEST_DOWNLOAD': 2.0**35}
"""Bytes per second below which a connection is given up, and the largest file; environment variables override them."""
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_NUMBER = re.compile(r'[0-9]{1,18}')
_RANGE = re.compile(r'bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)')
_PAGES = {'text/html', 'application/xhtml+xml', 'application/json', 'application/xml', 'text/xml'}
_PAGE_START = re.compile(rb'(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|\?xml)', re.I)
_PAGE = 2**18  # bytes of a web page that are looked through for a form
_DRIVE = re.compile(r'https://drive\.google\.com/(?:file/d/|(?:open|uc)\?(?:[^#]*&)?id=)([\w-]+)')
_FOLDER = re.compile(r'https://drive\.google\.com/drive/(?:u/\d+/)?folders/')
_BLOB = re.compile(r'(https://huggingface\.co/[^/]+/[^/]+)/blob/')
_FORM = re.compile(r'<form\b([^>]*\bid="download-form"[^>]*)>(.*?)(?:</form|$)', re.S | re.I)
_ATTRIBUTE = re.compile(r'\b(action|name|value)="([^"]*)"', re.I)
_VALIDATOR = re.compile(r'(?!W/)[\x20-\x7e]{1,200}')


def direct_address(url: str) -> str:
    """The address of the bytes, for an address of a page about a file; others come back as they are."""
    if drive := _DRIVE.match(url):
        return f'https://drive.google.com/uc?export=download&id={drive[1]}'
    if url.startswith('gs://') and len(url) > 5:
        return f'https://storage.googleapis.com/{urllib.parse.quote(url.removeprefix("gs://"))}'
    return _BLOB.sub(r'\1/resolve/', url)


def asked_address(url: str) -> str:
    """The address to ask for the bytes, in ASCII; ``UserError`` for one that cannot be fetched."""
    remedy = 'download the file by hand and pass --checkpoint FILE'
    if _FOLDER.match(url):
        raise UserError(f'{url} is a folder of several files: find the one that is wanted, {remedy}')
    try:
        parts = urllib.parse.urlsplit(direct_address(url))
        if parts.scheme not in ('http', 'https') or not parts.hostname or '@' in parts.netloc or parts.port == 0:
            raise ValueError('no host, a user name, or not the web')
        netloc = parts.netloc if parts.netloc.isascii() else parts.netloc.encode('idna').decode('ascii')
    except ValueError as error:
        shown = re.sub('//[^/]*@', '//...@', url)  # without a password
        expected = 'expected an address that begins with https:// and a host'
        raise UserError(f'{shown} cannot be fetched: {expected}; {remedy}') from error
    path, query = (urllib.parse.quote(text, "%/:?@!$&'()*+,;=~", errors='surrogatepass') for text in parts[2:4])
    return urllib.parse.urlunsplit((parts.scheme, netloc, path, query, ''))


def confirmed_address(page: str, address: str) -> str | None:
    """Where the form with which Google Drive asks for a confirmation leads; ``None`` for a page without one."""
    if (form := _FORM.search(page)) is None:
        return None
    action, *fields = (
        {key.lower(): html.unescape(value) for key, value in _ATTRIBUTE.findall(tag)}
        for tag in (form[1], *re.findall(r'<input\b([^>]*)>', form[2], re.I))
    )
    target = urllib.parse.urlsplit(urllib.parse.urljoin(address, action.get('action', '')))
    values = [(field['name'], field.get('value', '')) for field in fields if field.get('name')]
    query = urllib.parse.urlencode([*urllib.parse.parse_qsl(target.query), *values])
    return target._replace(query=query).geturl() if target.scheme in ('http', 'https') else None


def _validator_of(headers: Any) -> str:
    """What tells this version of a file from others: a strong entity tag or the date of its change, or nothing."""
    texts = ((headers.get(name) or '').strip() for name in ('ETag', 'Last-Modified'))
    return next((text for text in texts if _VALIDATOR.fullmatch(text)), '')


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects without reading the pages that come with them, which may have no end."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        fp.read = bytes
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Connection(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """One connection, redirects included, which :meth:`watched` ends as ``slow``; its reader counts ``received``."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: list[socket.socket] = []
        self.received, self.slow = 0, False

    def open(self, address: str, headers: dict[str, str], timeout: float) -> http.client.HTTPResponse:
        """Ask for an address of the web; files and ftp have no handler here, whoever names them."""
        opener = urllib.request.OpenerDirector()
        errors = (urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor())
        for handler in (urllib.request.ProxyHandler(), self, _Redirects(), *errors, urllib.request.UnknownHandler()):
            opener.add_handler(handler)
        return opener.open(urllib.request.Request(address, headers=headers), timeout=timeout)

    def do_open(self, http_class: Any, req: Any, **options: Any) -> Any:
        """Keep the sockets of urllib's connections."""
        sockets = self.sockets

        class Kept(http_class):  # type: ignore[misc, valid-type]
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        return super().do_open(Kept, req, **options)

    @contextmanager
    def watched(self, span: float, least: float) -> Iterator[None]:
        """End the connection from another thread, whatever it waits for, if ``span`` seconds bring too few bytes."""
        done = threading.Event()

        def watch() -> None:
            connected, before = False, 0
            while not done.wait(span):
                if connected and self.received - before < least:
                    self.slow = True
                    for connection in self.sockets:
                        with suppress(OSError):
                            connection.shutdown(socket.SHUT_RDWR)
                connected, before = bool(self.sockets), self.received

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def cache_folder() -> Path:
    """The default folder for downloads: ``mmvit_ext/checkpoints`` below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get('XDG_CACHE_HOME') or ''
    return (Path(base) if os.path.isabs(base) else Path.home() / '.cache') / 'mmvit_ext' / 'checkpoints'


def cached_path(url: str, folder: Path, name: str | None = None) -> Path:
    """The path of an address in a cache folder, in a subfolder of its own; ``name`` where the address has none."""
    name = name or urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip('/').rpartition('/')[2]
    safe = re.sub(r'[^\w.+-]', '_', name, flags=re.ASCII).lstrip('.')[-200:] or 'download'
    return folder / hashlib.sha256(url.encode('utf-8', 'surrogatepass')).hexdigest()[:12] / safe


def fetch(
    url: str,
    folder: Path | None = None,
    *,
    sha256: str | None = None,
    name: str | None = None,
    offline: bool = False,
    progress: bool = True,
    pause: float = 1.0,
) -> Path:
    """Find a file in the cache, or download it there; returns its path, or says why it is not whole and right there.

    ``sha256`` is at least its first 8 digits; those in the file's name count as well. ``name`` is the file's where the
    address does not end with it. ``pause`` are the seconds before the second attempt; later pauses are twice as long.
    """
    address = asked_address(url)
    path = cached_path(url, cache_folder() if folder is None else Path(folder), name)
    part, tag = (path.with_name(path.name + end) for end in ('.part', '.part.tag'))
    for file in (path, part, tag):
        if os.path.lexists(file) and (not file.is_file() or (file != path and file.is_symlink())):
            raise UserError(f'{file} is no regular file, and {url} belongs there: remove it')
    if _is_cached(path, sha256, strict=offline):
        return path
    if offline:
        raise UserError(f'{url} is not in the cache and --offline is set: put the file at {path}, or omit --offline')
    writable_folder(path.parent, '--cache-dir')
    with _disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path, part, progress):
        if _is_cached(path, sha256):
            return path  # another process has downloaded it in the meantime
        expected = [digits for digits in (sha256, named_hash(path)) if digits]
        for repeated in (False, True):
            with progress_bar(show=progress, transfer=True) as bar:
                download = _Download(url, part, tag, expected, bar)
                download.run(address, pause)
            actual = digest_of(part)
            wrong = next((digits for digits in expected if not actual.startswith(digits)), None)
            if wrong is None:
                break
            part.unlink()
            # What an earlier connection left may be the beginning of another version of the file.
            if repeated or not download.resumed:
                fault = f'{url} has the SHA-256 {actual[: len(wrong)]}... where {wrong} is expected; it was not kept'
                remedy = 'the server has another file, ask where the right one is or pass --checkpoint FILE'
                raise UserError(f'{fault}: {remedy}')
        with _disk(path):
            part.replace(path)
            tag.unlink(missing_ok=True)
    return path


def _is_cached(path: Path, sha256: str | None, strict: bool = False) -> bool:
    """Whether the cache has a sound file; ``UserError`` for another one where that is ``strict``."""
    with suppress(*([] if strict else [UserError])), _disk(path):
        if path.is_file():
            verify_hash(path, sha256, 'cached file')
            return True
    return False


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Tells failures of the disk from those of the connection."""
    try:
        yield
    except OSError as error:
        remedy = 'free space there, or choose another folder with --cache-dir or XDG_CACHE_HOME'
        raise UserError(f'{path} cannot be read or written: {error.strerror or error}; {remedy}') from error


@contextmanager
def _alone(path: Path, part: Path, progress: bool) -> Iterator[None]:
    """Let one process at a time download a file, and give up when the other one does not get on with it."""
    lock, size, wait = FileLock(path.parent.with_name(f'{path.parent.name}.lock')), -1, 1.0
    with _disk(path.parent), ExitStack() as stack:
        while True:
            with suppress(Timeout):
                stack.enter_context(lock.acquire(timeout=wait))
                break
            if size == (size := _size(part)):
                fault = f'another process holds {lock.lock_file} and does not get on with {path.name}'
                raise UserError(f'{fault}: end it, and run the command again')
            if progress:
                print(f'Another process downloads {path.name}; waiting for it.', file=sys.stderr)
            wait = PATIENCE * TIMEOUT
        release = stack.pop_all()
    with release:
        yield


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _limit(variable: str) -> float:
    """A number from the environment, or the default of :data:`LIMITS`."""
    text = os.environ.get(variable) or str(LIMITS[variable])
    with suppress(ValueError):
        if 0 <= (value := float(text)) < float('inf'):
            return value
    raise UserError(f'the environment variable {variable} is {text!r}: expected a number of bytes, 0 or more')


class _RetryError(Exception):
    """Another connection may do better: after ``pause`` seconds at the earliest, at another address if one is given."""

    def __init__(self, reason: str, pause: int = 0, address: str | None = None) -> None:
        super().__init__(reason)
        self.pause, self.address = pause, address


class _Download:
    """Fills ``part`` over as many connections as it takes; ``tag`` keeps what tells versions of the file apart."""

    def __init__(self, url: str, part: Path, tag: Path, expected: Sequence[str], bar: Progress) -> None:
        self.url, self.part, self.tag, self.expected, self.bar = url, part, tag, expected, bar
        self.task = bar.add_task(part.name.removesuffix('.part'), total=None)
        self.least, self.largest = map(_limit, LIMITS)
        self.resumed = False

    def run(self, address: str, pause: float) -> None:
        """Connect until the file is whole; ``pause`` as for :func:`fetch`."""
        idle = best = 0
        while True:
            connection, wait, reason = _Connection(), 0, 'the connection was closed early'
            try:
                with connection.watched(TIMEOUT, self.least * TIMEOUT):
                    if self._connect(address, connection):
                        return
            except UserError:
                raise
            except _RetryError as error:
                reason, wait, address = str(error), error.pause, error.address or address
            except (ValueError, http.client.InvalidURL) as error:
                raise self._failed(f'an address cannot be understood ({error})') from error
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, 'reason', error) or type(error).__name__)
            size = _size(self.part)
            if connection.slow:
                idle += 3  # another connection is seldom faster
                reason = f'it sends less than {self.least:g} bytes per second (MMVIT_EXT_LEAST_SPEED)'
            else:
                idle = 0 if size >= best + PROGRESS else idle + 1
            if idle >= ATTEMPTS:
                raise self._failed(reason if connection.slow else f'{reason}, {ATTEMPTS} times without a further byte')
            best = max(best, size)
            time.sleep(max(wait, pause * 2 ** (idle - 1) if idle else 0))

    def _failed(self, reason: str) -> UserError:
        reason = re.sub(r'[^\x20-\x7e]+', '?', reason)[:400]  # some of it is the server's
        remedy = 'run the command again to resume, or download the file by hand and pass --checkpoint FILE'
        return UserError(f'{self.url} could not be downloaded: {reason}; {remedy}')

    def _connect(self, address: str, connection: _Connection) -> bool:
        """Use one connection; tells whether the file is complete after it."""
        with _disk(self.tag):
            text = self.tag.read_text(encoding='utf-8', errors='replace') if self.tag.is_file() else ''
        validator = text if _VALIDATOR.fullmatch(text) else ''
        have = _size(self.part) if validator or self.expected else 0
        # Without this a proxy may compress, and lengths and ranges would count other bytes.
        headers = {'Accept-Encoding': 'identity', 'User-Agent': 'mmvit_ext'}
        if have:  # a file that has changed since then is sent whole
            headers |= {'Range': f'bytes={have}-', **({'If-Range': validator} if validator else {})}
        try:
            response = connection.open(address, headers, TIMEOUT)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error, have)
        with response:
            return self._receive(response, have, validator, connection)

    def _refused(self, error: urllib.error.HTTPError, have: int) -> bool:
        """What an error of the server means; tells whether the file is complete all the same."""
        if error.code == 416 and have:
            # The range begins at or behind the end: the part is complete, or too long and of another file.
            if (error.headers.get('Content-Range') or '').rpartition('/')[2] == str(have):
                return True
            self.part.unlink()
            raise _RetryError('the server has another file than before')
        reason = f'the server answered {error.code} {http.client.responses.get(error.code, "")}'
        if error.code in _TRANSIENT:
            wait = (error.headers.get('Retry-After') or '').strip()
            seconds = int(wait) if _NUMBER.fullmatch(wait) else 0
            if seconds <= LONGEST_PAUSE:
                raise _RetryError(reason, seconds)
            reason += f' and asks to wait {seconds} seconds'
        raise self._failed(reason + (', and its redirects lead nowhere' if error.code // 100 == 3 else ''))

    def _receive(self, response: http.client.HTTPResponse, have: int, validator: str, connection: _Connection) -> bool:
        """Write what a response brings; tells whether the file is complete after it."""
        start, total = self._extent(response, have, validator)
        block = response.read1(CHUNK)
        if response.headers.get_content_type() in _PAGES or (not start and _PAGE_START.match(block)):
            while len(block) < _PAGE and (more := response.read1(CHUNK)):
                block += more
            if connection.slow:
                return False
            if (form := confirmed_address(block.decode('utf-8', 'replace'), response.url)) is not None:
                raise _RetryError('the server keeps asking for a confirmation', address=form)
            remedy = 'download the file in a browser and pass --checkpoint FILE'
            raise UserError(f'{self.url} is a web page and not a file: {remedy}')
        if block and not start:
            with _disk(self.part):
                self.tag.unlink(missing_ok=True)
                self.part.write_bytes(b'')
                if new := _validator_of(response.headers):
                    self.tag.write_text(new, encoding='utf-8')
        self.resumed |= start > 0
        self.bar.update(self.task, completed=start, total=total)
        while block:
            self._write(block, start, total)
            start, connection.received = start + len(block), connection.received + len(block)
            self.bar.advance(self.task, len(block))
            block = response.read1(CHUNK)
        if total is not None and start > total:
            self.part.unlink()
            raise _RetryError('the server sends more than it announces')
        if start and total is None and not response.chunked and not connection.slow:
            digest = digest_of(self.part)
            known = all(digest.startswith(digits) for digits in self.expected)
            # A file of PyTorch has its directory at the end.
            if not known or not (self.expected or zipfile.is_zipfile(self.part)):
                raise _RetryError('the server does not tell the length of the file, and it is not known to be whole')
        return 0 < start == (total or start)

    def _extent(self, response: http.client.HTTPResponse, have: int, validator: str) -> tuple[int, int | None]:
        """Where the response begins in the file, and the length of the file where the server tells it."""
        headers, start = response.headers, 0
        if response.status not in (200, 206):
            raise self._failed(f'the server answered {response.status}')
        for name, plain in (('Content-Encoding', 'identity'), ('Transfer-Encoding', 'chunked')):
            if (headers.get(name) or plain).strip().lower() != plain:
                raise self._failed('the server sends another form of the file than it was asked for')
        sizes = {text.strip() for text in headers.get_all('Content-Length', [])}
        length = sizes.pop() if len(sizes) == 1 and not response.chunked else ''
        if response.status == 206:
            match = _RANGE.fullmatch((headers.get('Content-Range') or '').strip())
            new = _validator_of(headers)
            if match is None or int(match[1]) != have or (new and validator and new != validator):
                self.part.unlink(missing_ok=True)
                raise _RetryError('the server sends another part, or of another file, than it was asked for')
            start, length = have, match[2]
        total = int(length) if _NUMBER.fullmatch(length) else None
        with _disk(self.part):
            room = shutil.disk_usage(self.part.parent).free + _size(self.part)
        if total is not None and not 0 < total <= min(room, self.largest):
            limit = f'1 to {self.largest:.0f} are expected (MMVIT_EXT_LARGEST_DOWNLOAD)'
            raise self._failed(f'it has {total} bytes where {limit}, and {self.part.parent} has room for {room}')
        return start, total

    def _write(self, block: bytes, start: int, total: int | None) -> None:
        """Append bytes at ``start``; a file whose end is not known is not kept when there is no room for it."""
        try:
            if start + len(block) > self.largest:
                raise self._failed(f'it has more than {self.largest:.0f} bytes (MMVIT_EXT_LARGEST_DOWNLOAD)')
            with _disk(self.part), self.part.open('ab') as file:
                file.write(block)
                if start + len(block) == total:
                    file.flush()
                    os.fsync(file.fileno())
        except UserError:
            if total is None:
                self.part.unlink(missing_ok=True)
            raise
