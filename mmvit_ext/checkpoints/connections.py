"""Addresses as people have them, and connections that do not hang, follow redirects to files or read without end."""

import html
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from typing import Any

from mmvit_ext.errors.user_error import UserError

__all__ = ['Connection', 'asked_address', 'confirmed_address', 'direct_address', 'validator_of']

_DRIVE = re.compile(r'https://drive\.google\.com/(?:file/d/|(?:open|uc)\?(?:[^#]*&)?id=)([\w-]+)')
_FOLDER = re.compile(r'https://drive\.google\.com/drive/(?:u/\d+/)?folders/')
_BLOB = re.compile(r'(https://huggingface\.co/[^/]+/[^/]+)/blob/')
_FORM = re.compile(r'<form\b([^>]*\bid="download-form"[^>]*)>(.*?)(?:</form|$)', re.S | re.I)
_ATTRIBUTE = re.compile(r'\b(action|name|value)="([^"]*)"', re.I)
VALIDATOR = re.compile(r'(?!W/)[\x20-\x7e]{1,200}')


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


def validator_of(headers: Any) -> str:
    """What tells this version of a file from others: a strong entity tag or the date of its change, or nothing."""
    texts = ((headers.get(name) or '').strip() for name in ('ETag', 'Last-Modified'))
    return next((text for text in texts if VALIDATOR.fullmatch(text)), '')


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects without reading the pages that come with them, which may have no end."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        fp.read = bytes
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class Connection(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """One connection, redirects included, which :meth:`watched` ends as ``slow``; its reader counts ``received``."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: list[socket.socket] = []
        self.received, self.slow = 0, False

    def open(self, address: str, headers: dict[str, str], timeout: float) -> HTTPResponse:
        """Ask for an address of the web; files and ftp have no handler here, whoever names them."""
        opener = urllib.request.OpenerDirector()
        errors = (urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor())
        for handler in (urllib.request.ProxyHandler(), self, _Redirects(), *errors, urllib.request.UnknownHandler()):
            opener.add_handler(handler)
        return opener.open(urllib.request.Request(address, headers=headers), timeout=timeout)

    def do_open(self, http_class: Any, req: Any, **options: Any) -> Any:
        """Keep the sockets of urllib's connections."""

        def build(*args: Any, **kwargs: Any) -> Any:
            connection = http_class(*args, **kwargs)
            connect = connection.connect

            def connect_and_keep() -> None:
                connect()
                self.sockets.append(connection.sock)

            connection.connect = connect_and_keep
            return connection

        return super().do_open(build, req, **options)

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
