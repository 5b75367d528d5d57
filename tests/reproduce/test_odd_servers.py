"""Downloads from servers that are broken, slow, endless or hostile, and into caches where something is in the way.

Whatever happens, the file is whole and right, or there is one sentence and nothing of that name.
"""

import io
import itertools
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest
from filelock import FileLock

from mmvit_ext.checkpoints import downloads
from mmvit_ext.checkpoints.downloads import asked_address, cached_path, confirmed_address, fetch
from mmvit_ext.errors.user_error import UserError

ROOT = Path(__file__).parents[2]
OLD, NEW = (random.Random(seed).randbytes(700_001) for seed in (1, 2))
SIZE = len(NEW)


def zipped(content):
    """As PyTorch's checkpoints are, so that a file that was cut off shows it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('data', content)
    return file.getvalue()


ZIP = zipped(NEW)


class Handler(StreamRequestHandler):
    def handle(self):
        text = b''
        while not text.endswith(b'\r\n\r\n'):
            text += self.rfile.readline() or b'\r\n\r\n'
        headers = dict(re.findall(r'^([\w-]+): (.*)\r$', text.decode('latin1'), re.M))
        self.server.requests.append(headers)
        answer = self.server.answer(len(self.server.requests), headers)
        try:
            for block in [answer] if isinstance(answer, bytes) else answer:
                self.wfile.write(block)
                self.wfile.flush()
        except OSError:
            pass


@contextmanager
def answering(answer):
    """A server of which ``answer(number, headers)`` gives the bytes, all at once or in blocks."""
    ThreadingTCPServer.daemon_threads = True
    with ThreadingTCPServer(('127.0.0.1', 0), Handler) as server:
        server.requests, server.answer = [], answer
        server.url = f'http://127.0.0.1:{server.server_address[1]}/files/model.pth'
        threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def reply(body=b'', *headers, status='200 OK', length=True):
    lines = [f'HTTP/1.1 {status}', *headers, *([f'Content-Length: {len(body)}'] if length else [])]
    return '\r\n'.join([*lines, '', '']).encode('utf-8') + body


def get(server, folder, **options):
    return fetch(server.url, folder, **{'progress': False, 'pause': 0.001, **options}).read_bytes()


def nothing_kept(folder):
    return not [path for path in folder.rglob('model.pth') if path.is_file()]


def start_of(headers):
    return int(headers.get('Range', 'bytes=0-')[6:-1])


# Two parts of two files


def two_versions(number, headers, *shown, obey=True):
    """The beginning of an old file, then the rest of a new one; ``shown`` are a header of each."""
    content, header = (OLD, shown[:1]) if number == 1 else (NEW, shown[1:])
    start = start_of(headers)
    if start and (not obey or not header or header[0].endswith(headers.get('If-Range', ''))):
        span = f'Content-Range: bytes {start}-{SIZE - 1}/{SIZE}'
        return reply(content[start:], span, *header, status='206 Partial Content')
    whole = reply(content, *header)
    return whole[: len(whole) - 300_000] if number == 1 else whole


DATES = ('Last-Modified: Mon, 02 Mar 2026 10:00:00 GMT', 'Last-Modified: Tue, 03 Mar 2026 10:00:00 GMT')


@pytest.mark.parametrize('obey', [True, False], ids=['if-range', 'no-if-range'])
@pytest.mark.parametrize('shown', [(), DATES, ('ETag: "1"', 'ETag: "2"'), ('ETag: W/"1"', 'ETag: W/"2"')], ids=str)
def test_a_file_that_changes_between_two_parts_is_never_a_mixture(tmp_path, shown, obey):
    with answering(lambda number, headers: two_versions(number, headers, *shown, obey=obey)) as server:
        assert get(server, tmp_path) == NEW


def test_the_same_date_resumes(tmp_path):
    def answer(number, headers):
        whole, start = reply(NEW, DATES[0]), start_of(headers)
        if number == 1:
            return whole[: len(whole) - SIZE + 300_000]
        assert headers['If-Range'] == DATES[0][15:]
        return reply(NEW[start:], f'Content-Range: bytes {start}-{SIZE - 1}/{SIZE}', DATES[0], status='206 X')

    with answering(answer) as server:
        assert get(server, tmp_path) == NEW
        assert server.requests[1]['Range'] == 'bytes=300000-'


@pytest.mark.parametrize(
    'header',
    [
        'X: none',
        f'Content-Range: bytes 5-{SIZE - 1}/{SIZE}',
        'Content-Range: bytes 100-9/10',
        'Content-Range: ²',
        'Content-Range: items 1-2/3',
    ],
)
def test_a_part_that_was_not_asked_for_is_not_appended(tmp_path, header):
    def answer(number, headers):
        whole = reply(NEW, 'ETag: "1"')
        if 'Range' in headers:
            return reply(NEW[start_of(headers) :], header, 'ETag: "1"', status='206 Partial Content')
        return whole[:400_000] if number == 1 else whole

    with answering(answer) as server:
        assert get(server, tmp_path) == NEW
    with answering(lambda *_: reply(NEW, header, status='206 Partial Content')) as server:
        with pytest.raises(UserError, match='another part'):
            get(server, tmp_path / 'other')
        assert nothing_kept(tmp_path / 'other')


# Lengths


@pytest.mark.parametrize(
    'headers',
    [
        [],
        *([f'Content-Length: {text}'] for text in ('-5', 'nan', '²', '+7', '1_0', '9' * 40, '')),
        ['Content-Length: 5', 'Content-Length: 9'],
    ],
    ids=str,
)
def test_without_a_usable_length_only_a_file_that_proves_itself_is_kept(tmp_path, headers):
    """The first answer breaks off. A length that http.client believes and this package does not ends nothing early."""
    with answering(lambda number, _: reply(ZIP[: None if number > 1 else 400_000], *headers, length=False)) as server:
        whole = not any(re.search(r'[+_]| 5', header) for header in headers)
        if whole:
            assert get(server, tmp_path) == ZIP
            assert get(server, tmp_path) == ZIP
        else:
            with pytest.raises(UserError, match='length'):
                get(server, tmp_path)
    with answering(lambda *_: reply(NEW[:400_000], *headers, length=False)) as server:
        with pytest.raises(UserError, match='length'):
            get(server, tmp_path / 'other')
        assert nothing_kept(tmp_path / 'other')


@pytest.mark.parametrize('end', [b'', b'zz\r\n', b'-5\r\nabc', b'FFFFFF\r\nabc'])
def test_chunks_end_with_a_last_chunk(tmp_path, end):
    def chunked(tail):
        return reply(b'%x\r\n%b\r\n%b' % (SIZE, NEW, tail), 'Transfer-Encoding: chunked', length=False)

    with answering(lambda number, _: chunked(end if number == 1 else b'0\r\n\r\n')) as server:
        assert get(server, tmp_path) == NEW
    with answering(lambda *_: chunked(end)) as server:
        with pytest.raises(UserError, match='could not be downloaded'):
            get(server, tmp_path / 'other')
        assert nothing_kept(tmp_path / 'other')


# What else may come in place of the file


@pytest.mark.parametrize(
    ('answer', 'message'),
    [
        (reply(NEW, 'Content-Encoding: gzip'), 'another form'),
        (reply(NEW, 'Transfer-Encoding: gzip'), 'another form'),
        (reply(b''), 'it has 0 bytes'),
        (reply(b'', status='204 No Content', length=False), '204'),
        (reply(b'\xef\xbb\xbf\n <!DOCTYPE html><p>log in'), 'web page'),
        (reply(b'<?xml version="1.0"?><Error>NoSuchKey</Error>'), 'web page'),
        (reply(b'{"error": "quota"}', 'Content-Type: application/json; charset=utf-8'), 'web page'),
        (reply(b'<html><![x[<form id="download-form" action="http://[::1">', 'Content-Type: text/html'), 'understood'),
        (reply(NEW, 'X: ' + 'y' * 2**20), 'could not be downloaded'),
        (reply(NEW, *(f'X-{number}: 1' for number in range(300))), 'could not be downloaded'),
        (b'\x1b[31mRED\x07 200 OK\r\n\r\n', 'could not be downloaded'),
        (b'', 'without a further byte'),
        (reply(status='302 Found'), '302 Found, and its redirects lead nowhere'),
        (reply(b'', 'Location: model.pth', status='301 X'), '301 .*redirects lead nowhere'),
        (reply(b'', 'Location: file:///etc/passwd', status='302 X'), '302'),
        (reply(b'', 'Location: ftp://127.0.0.1/x', status='307 X'), 'could not be downloaded'),
        (reply(b'', 'Location: http://[::1', status='303 X'), 'cannot be understood'),
        (reply(b'', 'Location: http://a b/\x01', status='302 X'), 'could not be downloaded'),
        (reply(b'', status='451 \x1b[2J'), '451'),
        (reply(b'', status='999 What'), '999'),
        (reply(b'', 'Retry-After: 86400', status='503 X'), 'asks to wait 86400 seconds'),
        (reply(b'', f'Content-Length: {10**17}', length=False), 'room for'),
    ],
)
def test_odd_answers_are_one_sentence(tmp_path, answer, message):
    with answering(lambda *_: answer) as server, pytest.raises(UserError, match=message) as caught:
        get(server, tmp_path, pause=0)
    assert str(caught.value).isprintable()
    assert nothing_kept(tmp_path)


@pytest.mark.parametrize(('wait', 'least'), [('1', 1), ('-5', 0), ('nan', 0), ('Wed, 21 Oct 2099 07:28:00 GMT', 0)])
def test_a_server_may_put_off_the_next_attempt(tmp_path, monkeypatch, wait, least):
    naps = []
    monkeypatch.setattr(downloads.time, 'sleep', naps.append)
    busy = reply(b'', f'Retry-After: {wait}', status='429 Too Many Requests')
    with answering(lambda number, _: busy if number == 1 else reply(NEW)) as server:
        assert get(server, tmp_path) == NEW
    assert naps[0] == (least or pytest.approx(0.001))


# Slow and endless


def drip(first, block=b'x'):
    yield first
    while True:
        time.sleep(0.02)
        yield block


@pytest.mark.parametrize(
    'answer',
    [
        lambda: drip(reply(b'', 'Content-Length: 1000000', length=False)),
        lambda: drip(reply(b'', length=False), b'<html>'),
        lambda: drip(b'HTTP/1.1 200 OK\r\nX: '),
        lambda: drip(b'HTTP/1.1 ', b'100 Continue\r\n\r\nHTTP/1.1 '),
        lambda: drip(reply(b'', 'Transfer-Encoding: chunked', length=False) + b'0\r\n', b'X: y\r\n'),
    ],
    ids=['body', 'page', 'header', 'continue', 'trailer'],
)
def test_a_slow_server_is_given_up(tmp_path, monkeypatch, answer):
    monkeypatch.setattr(downloads, 'TIMEOUT', 0.15)
    start = time.monotonic()
    with answering(lambda *_: answer()) as server, pytest.raises(UserError, match='MMVIT_EXT_LEAST_SPEED'):
        get(server, tmp_path)
    assert time.monotonic() - start < 60
    assert nothing_kept(tmp_path)


def test_the_least_speed_can_be_lowered(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, 'TIMEOUT', 0.4)
    monkeypatch.setenv('MMVIT_EXT_LEAST_SPEED', '1')
    head, *blocks = reply(b'', 'Content-Length: 60', length=False), *[b'x'] * 60
    with answering(lambda *_: itertools.islice(drip(head), 61)) as server:
        assert get(server, tmp_path) == b''.join(blocks)
    monkeypatch.setenv('MMVIT_EXT_LEAST_SPEED', 'nan')
    with answering(lambda *_: reply(NEW)) as server, pytest.raises(UserError, match="MMVIT_EXT_LEAST_SPEED is 'nan'"):
        get(server, tmp_path)


@pytest.mark.parametrize('header', ['X: y', 'Transfer-Encoding: chunked', 'Content-Length: 9999999'])
def test_no_more_than_the_largest_file_is_kept(tmp_path, monkeypatch, header):
    monkeypatch.setenv('MMVIT_EXT_LARGEST_DOWNLOAD', '1e6')
    block = b'186A0\r\n' + bytes(100_000) + b'\r\n'
    endless = itertools.chain([reply(b'', header, length=False)], itertools.repeat(block))
    with answering(lambda *_: endless) as server, pytest.raises(UserError, match='MMVIT_EXT_LARGEST_DOWNLOAD'):
        get(server, tmp_path)
    assert not list(tmp_path.rglob('*.part'))


def test_a_redirect_with_an_endless_page_is_followed(tmp_path):
    def answer(number, headers):
        endless = itertools.repeat(bytes(100_000))
        return (
            reply(NEW)
            if number > 1
            else itertools.chain([reply(b'', 'Location: other', status='302 X', length=False)], endless)
        )

    with answering(answer) as server:
        assert get(server, tmp_path) == NEW


@pytest.mark.parametrize('length', [True, False], ids=['announced', 'not-announced'])
def test_a_full_disk_is_told_as_one(tmp_path, length):
    """A limit on the size of files fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with answering(lambda *_: reply(ZIP, 'ETag: "1"', length=length)) as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
        try:
            with pytest.raises(UserError, match=r'cannot be read or written: File too large; free space.*--cache-dir'):
                get(server, tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert len(server.requests) == 1
        assert [path.stat().st_size for path in tmp_path.rglob('*.part')] == ([300_000] if length else [])
        assert get(server, tmp_path) == ZIP
        assert [request.get('Range') for request in server.requests] == [None, 'bytes=300000-' if length else None]


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    clock = itertools.cycle([4e9, 0.0, -1e9])
    monkeypatch.setattr(downloads.time, 'time', lambda: next(clock))
    with answering(lambda number, _: reply(NEW)[: 400_000 if number == 1 else None]) as server:
        assert get(server, tmp_path) == NEW


# The cache


def place(path, kind, elsewhere):
    path.parent.mkdir(parents=True)
    if kind == 'folder':
        path.mkdir()
    elif kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'link':
        elsewhere.write_bytes(b'mine')
        path.symlink_to(elsewhere)
    else:
        path.symlink_to(elsewhere)


@pytest.mark.parametrize('end', ['', '.part', '.part.tag'])
@pytest.mark.parametrize('kind', ['folder', 'pipe', 'link', 'dangling link'])
def test_what_is_in_the_way_is_named_and_left(tmp_path, kind, end):
    with answering(lambda *_: reply(NEW)) as server:
        path = cached_path(server.url, tmp_path)
        place(path.with_name(path.name + end), kind, tmp_path / 'mine')
        if (kind, end) == ('link', ''):
            assert get(server, tmp_path) == b'mine'  # a file that was put there
        else:
            with pytest.raises(UserError, match=r'no regular file.*remove it'):
                get(server, tmp_path)
        assert not server.requests
    assert not (tmp_path / 'mine').exists() or (tmp_path / 'mine').read_bytes() == b'mine'


def test_a_damaged_file_in_the_cache_stays_until_a_whole_one_is_there(tmp_path):
    with answering(lambda number, _: b'' if number < 7 else reply(NEW)) as server:
        path = cached_path(server.url, tmp_path)
        path.parent.mkdir()
        path.write_bytes(OLD)
        with pytest.raises(UserError, match='without a further byte'):
            get(server, tmp_path, sha256='0' * 64)
        assert path.read_bytes() == OLD


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with answering(lambda *_: reply(NEW)) as server, pytest.raises(UserError, match='--cache-dir'):
        get(server, tmp_path / 'file')
    (tmp_path / 'link').symlink_to(tmp_path / 'nowhere/at/all')
    with answering(lambda *_: reply(NEW)) as server, pytest.raises(UserError, match='--cache-dir'):
        get(server, tmp_path / 'link')


# Several at once, and one that is killed


def test_two_at_once_ask_once_and_have_the_same_file(tmp_path):
    found = []
    with answering(lambda *_: blocks()) as server:
        threads = [threading.Thread(target=lambda: found.append(get(server, tmp_path))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [NEW] * 3
        assert len(server.requests) == 1


def blocks():
    yield reply(b'', f'Content-Length: {SIZE}', length=False)
    for start in range(0, SIZE, 100_000):
        time.sleep(0.02)
        yield NEW[start : start + 100_000]


def test_another_process_that_does_not_get_on_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, 'TIMEOUT', 0.02)
    with answering(lambda *_: reply(NEW)) as server:
        lock = tmp_path / f'{cached_path(server.url, tmp_path).parent.name}.lock'
        with FileLock(lock), pytest.raises(UserError, match=re.escape(str(lock))):
            get(server, tmp_path)
        assert get(server, tmp_path) == NEW


def test_a_killed_download_resumes_in_the_next_command(tmp_path):
    def answer(number, headers):
        start = start_of(headers)
        if number > 1:
            return reply(NEW[start:], f'Content-Range: bytes {start}-{SIZE - 1}/{SIZE}', 'ETag: "1"', status='206 X')
        return itertools.chain([reply(NEW, 'ETag: "1"')[:500_000]], (time.sleep(0.1) or b'x' for _ in range(100)))

    code = (
        'import sys; from pathlib import Path; from mmvit_ext.checkpoints.downloads import fetch\n'
        'fetch(sys.argv[1], Path(sys.argv[2]))'
    )
    with answering(answer) as server:
        part = cached_path(server.url, tmp_path).with_name('model.pth.part')
        process = subprocess.Popen(
            [sys.executable, '-c', code, server.url, tmp_path], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not (part.is_file() and part.stat().st_size > 300_000):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert get(server, tmp_path) == NEW
        assert start_of(server.requests[1]) > 300_000


# Addresses


@pytest.mark.parametrize(
    ('url', 'asked'),
    [
        ('https://bücher.example/a b/ü.pth?x=é&y=1#end', 'https://xn--bcher-kva.example/a%20b/%C3%BC.pth?x=%C3%A9&y=1'),
        ('https://h/a%20b%zz', 'https://h/a%20b%zz'),
        ('http://[::1]:8080/x', 'http://[::1]:8080/x'),
        ('http://h/\udcff\x1b', 'http://h/%ED%B3%BF%1B'),
        ('HTTPS://H/x', 'https://H/x'),
    ],
)
def test_addresses_are_asked_for_in_ascii(url, asked):
    assert asked_address(url) == asked


@pytest.mark.parametrize(
    'url',
    [
        'http://[::1/x.pth', 'http:///x.pth', 'https://h:99999/x', 'http://h:x/y', 'file:///etc/passwd', 'data:,x', '',
        'http://name:secret@h/x.pth', f'http://{"ü" * 80}.example/x', 'https://', '//h/x', 'http://h:0/x', 'gs://',
    ],
)  # fmt: skip
def test_addresses_that_cannot_be_fetched_are_one_sentence(url, tmp_path):
    with pytest.raises(UserError, match='--checkpoint FILE') as caught:
        fetch(url, tmp_path)
    assert 'secret' not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_long_names_keep_their_end(tmp_path):
    path = cached_path('http://h/' + 'ä' * 300 + '-1a2b3c4d.pth', tmp_path)
    assert path.name.endswith('-1a2b3c4d.pth')
    assert len(os.fsencode(path.name)) <= 200


def test_forms_with_other_marks_are_understood():
    page = (
        '<FORM\nmethod="get" ID="download-form" action="/d?a=1&amp;b=2"><INPUT value="&quot;" name="c"/>'
        '<input name="d"></FORM><input name="e">'
    )
    assert confirmed_address(page, 'https://h/x?y') == 'https://h/d?a=1&b=2&c=%22&d='
    assert confirmed_address('<form id="download-form">', 'https://h/x?y=1') == 'https://h/x?y=1'
    assert confirmed_address('<form id="other" action="/d">', 'https://h/x') is None
