"""A web server on this machine that misbehaves on request."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves ``content`` under any path and keeps what it was asked for in ``ranges``.

    Args:
        content: The file.
        drop_after: Bytes after which each answer breaks off, one entry per answer; ``None`` lets it end.
        ranges_work: Whether a range is honoured; otherwise the whole file comes with status 200.
        statuses: Status of the first answers, which have no body where they are errors.
        kind: The content type.
        etag: Entity tag of this version of the file.
        confirms: Whether the file comes only after the form of a page, as of Google Drive, has been sent.
    """

    daemon_threads = True

    def __init__(
        self,
        content,
        drop_after=(),
        ranges_work=True,
        statuses=(),
        kind='application/octet-stream',
        etag=None,
        confirms=False,
    ):
        self.content, self.ranges_work, self.kind, self.etag = content, ranges_work, kind, etag
        self.drop_after, self.statuses = list(drop_after), list(statuses)
        self.confirms, self.asked = confirms, []
        self.ranges: list[str | None] = []
        super().__init__(('127.0.0.1', 0), _Handler)

    @property
    def address(self) -> str:
        return f'http://127.0.0.1:{self.server_address[1]}'


CONFIRMATION = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="search" action="/search"><input name="q" value="x"></form>
<p>This file is too large for Google to scan for viruses. Would you still like to download this file?</p>
<form id="download-form" action="/download" method="get"><input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="abc-D_1"><input type="hidden" name="export" value="download">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="1&amp;2"></form>
<input type="hidden" name="other" value="1"></body></html>"""
"""What Google Drive answers for a large file, in short."""


class _Handler(BaseHTTPRequestHandler):
    def send_page(self, text):
        """A web page."""
        body = text.encode()
        self.send_response(200)
        self.send_header('Content-Type', 'text/html; charset=utf-8')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers.get('Range')
        server.ranges.append(asked)
        server.asked.append(self.path)
        if server.statuses and (status := server.statuses.pop(0)) != 200:
            self.send_error(status)
            return
        if server.confirms and 'confirm=t' not in self.path:
            self.send_page(CONFIRMATION)
            return
        body, start = server.content, 0
        unchanged = self.headers.get('If-Range') in (None, server.etag)
        if asked and server.ranges_work and unchanged:
            start = int(re.fullmatch(r'bytes=(\d+)-', asked)[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header('Content-Range', f'bytes */{len(body)}')
                self.send_header('Content-Length', '0')
                self.end_headers()
                return
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {start}-{len(body) - 1}/{len(body)}')
        else:
            self.send_response(200)
        if server.etag:
            self.send_header('ETag', server.etag)
        self.send_header('Content-Type', server.kind)
        self.send_header('Content-Length', str(len(body) - start))
        self.end_headers()
        limit = server.drop_after.pop(0) if server.drop_after else None
        self.wfile.write(body[start:] if limit is None else body[start : start + limit])
        self.close_connection = True


@contextmanager
def serving(content: bytes, **behaviour) -> Iterator[FileServer]:
    """A running server, stopped at the end of the block."""
    server = FileServer(content, **behaviour)
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
