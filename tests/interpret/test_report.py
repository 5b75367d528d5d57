"""The page of a run: it holds what it shows, asks nobody for anything, and a browser shows it."""

import base64
import io
import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmcv')

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.interpret.report import (
    EMBEDDED_EDGE,
    LONGEST,
    Entry,
    Explanation,
    encode_thumbnail,
    plain,
    write_facts,
    write_page,
)

NASTY = '<b>"a"&\'#%?:é'
BROWSER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
EMPTY = {'meta', 'link', 'img'}
"""Elements without an end tag."""


class Page(HTMLParser):
    """Elements, addresses and text of a page; fails where elements do not close in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[str] = []
        self.links: list[str] = []
        self.addresses: list[str] = []
        self.text = ''
        self._open: list[str] = []
        self.feed(path.read_text('utf-8'))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in EMPTY:
            self._open.append(tag)
        for name, value in attributes:
            assert not name.startswith('on')
            if name in ('src', 'href', 'srcset', 'action', 'data'):
                self.addresses.append(value or '')
            if tag == 'img' and name == 'src':
                self.images.append(value or '')
            if tag == 'a' and name == 'href':
                self.links.append(value or '')

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def decoded(address: str) -> Image.Image:
    kind, content = address.split(',', 1)
    assert kind in ('data:image/png;base64', 'data:image/jpeg;base64')
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    image.load()
    assert image.format is not None
    assert image.format.lower() == kind.split('/')[1].split(';')[0]
    return image


def noise(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)


def make_page(folder: Path, names: tuple[str, ...] = ('one', NASTY), **arguments: Any) -> Path:
    entries = []
    for number, name in enumerate(names):
        picture, data = folder / 'method' / f'{name}.png', folder / 'method' / f'{name}.json'
        picture.parent.mkdir(exist_ok=True)
        Image.fromarray(noise((53, 97), number)).save(picture)
        found = Explanation(
            [(f'caption of {name}', picture)], {'score': 0.123456, 'steps': [{'n': 1, 'box': [1, 2]}, {'n': 2}]}, [data]
        )
        write_facts(found.facts, data)
        entries.append(Entry(name, Path('photos') / f'{name}.jpg', encode_thumbnail(noise((40, 60), number)), found))
    arguments = {'run': {'config': 'c.py'}, **arguments}
    return write_page(folder / 'method.html', f'Title {NASTY}', entries, **arguments)


def test_the_page_holds_its_pictures_and_refers_to_nothing_but_files_beside_it(tmp_path: Path) -> None:
    path = make_page(tmp_path, failed=[(Path('bad.png'), 'it is cut')], legend='how to read')
    page = Page(path)
    assert len(page.images) == 2 + 2 * 2  # a thumbnail in the list and one above each picture
    assert {decoded(image).size for image in page.images} == {(60, 40), (97, 53)}
    source = path.read_text('utf-8').lower()
    assert 'http:' not in source
    assert 'https:' not in source
    assert not {'script', 'iframe', 'object', 'embed'} & set(page.tags)
    assert 'url(' not in source
    assert '@import' not in source
    for address in page.addresses:
        assert address.startswith(('data:', '#image-', './method/')), address
    assert "default-src 'none'" in path.read_text().replace('&#x27;', "'")
    assert 'width=device-width' in source
    assert 'prefers-color-scheme: dark' in source


def test_links_lead_to_the_files_whatever_their_names(tmp_path: Path) -> None:
    page = Page(make_page(tmp_path))
    files = {tmp_path / unquote(link) for link in page.links if not link.startswith('#')}
    assert files == {tmp_path / 'method' / f'{name}.{kind}' for name in ('one', NASTY) for kind in ('png', 'json')}
    assert all(file.is_file() for file in files)


def test_names_titles_and_facts_are_text_and_never_elements(tmp_path: Path) -> None:
    script = '<script>alert(1)</script>'
    page = Page(
        make_page(
            tmp_path,
            run={script: script},
            failed=[(Path(script), script)],
            legend=script,
            overall=Explanation((), {script: [{script: script}]}),
        )
    )
    assert 'script' not in page.tags
    assert 'b' not in page.tags
    assert page.text.count(script) == 8  # Path drops no part of it, the slash splits it
    assert f'Title {NASTY}' in page.text


def test_facts_are_shown_as_tables_with_short_numbers(tmp_path: Path) -> None:
    long = list(range(100, 100 + LONGEST + 5))
    overall = Explanation(
        (), {'values': long, 'none': None, 'so': True, 'nested': {'inner': 7}, 'pairs': [[1, 2], [3, 4]]}
    )
    page = Page(make_page(tmp_path, overall=overall))
    assert '0.1235' in page.text
    assert '0.123456' not in page.text
    assert f'{long[LONGEST - 1]}, ... ({len(long)})' in page.text
    assert str(long[LONGEST]) not in page.text
    assert '(1, 2), (3, 4)' in page.text
    assert page.tags.count('table') == 1 + 2 * 2 + 2  # run; score and steps of two images; overall and nested
    for word in ('inner', 'yes', 'box'):
        assert word in page.text


def test_a_single_image_needs_no_list_of_images(tmp_path: Path) -> None:
    assert 'nav' not in Page(make_page(tmp_path, ('one',))).tags
    assert 'nav' in Page(make_page(tmp_path, ('one', 'two'))).tags


@pytest.mark.parametrize('smooth', [True, False])
def test_a_large_picture_is_embedded_smaller_and_its_file_stays(smooth: bool, tmp_path: Path) -> None:
    size = (1500, EMBEDDED_EDGE + 500)
    pixels = np.zeros((*size, 3), np.uint8) + np.uint8(90) if smooth else noise(size)
    file = tmp_path / 'large.png'
    Image.fromarray(pixels).save(file, compress_level=1)
    entry = Entry('large', Path('large.jpg'), encode_thumbnail(pixels), Explanation([('large', file)]))
    page = Page(write_page(tmp_path / 'p.html', 'large', [entry], run={}))
    thumbnail, picture = map(decoded, page.images)
    assert thumbnail.size == (256, 154)
    assert picture.size == (EMBEDDED_EDGE, 1200)
    assert picture.format == ('PNG' if smooth else 'JPEG')
    assert Image.open(file).size == (EMBEDDED_EDGE + 500, 1500)


def test_a_thumbnail_keeps_its_colours() -> None:
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:] = (200, 100, 30)
    assert np.abs(np.array(decoded(encode_thumbnail(pixels))).astype(int) - pixels).max() < 6


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / 'x.png').write_bytes(b'no picture')
    entry = Entry('x', Path('x'), encode_thumbnail(noise((8, 8))), Explanation([('x', tmp_path / 'x.png')]))
    with pytest.raises(UserError, match=r'x\.png is not a picture'):
        write_page(tmp_path / 'p.html', 'x', [entry], run={})


def test_facts_become_what_json_can_hold(tmp_path: Path) -> None:
    facts = {
        'numpy': np.float32(0.5),
        'array': np.arange(4).reshape(2, 2),
        'tensor': torch.tensor([1.5, float('nan')]),
        'tuple': (1, 'a', None, True),
        'infinite': float('inf'),
        'path': Path('a/b'),
        7: {'deep': np.bool_(False)},
    }
    expected = {
        'numpy': 0.5,
        'array': [[0, 1], [2, 3]],
        'tensor': [1.5, None],
        'tuple': [1, 'a', None, True],
        'infinite': None,
        'path': 'a/b',
        '7': {'deep': False},
    }
    assert json.loads(write_facts(facts, tmp_path / 'new' / 'f.json').read_text()) == expected
    assert plain(facts) == expected
    with pytest.raises(TypeError, match='got object'):
        plain({'a': [object()]})


# In a browser


def browse(page: Path, profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run']
    command += ['--disable-background-networking', '--disable-component-update', '--disable-sync']
    command += ['--enable-logging=stderr', f'--user-data-dir={profile}', *arguments, page.absolute().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason='no Chromium is installed')
def test_a_browser_shows_every_picture_and_complains_about_nothing(tmp_path: Path) -> None:
    path = make_page(tmp_path)
    shot = tmp_path / 'shot.png'
    seen = browse(path, tmp_path / 'a', f'--screenshot={shot}', '--window-size=600,900')
    assert 'CONSOLE' not in seen.stderr
    assert len(np.unique(np.array(Image.open(shot).convert('RGB')).reshape(-1, 3), axis=0)) > 1000  # noise is seen

    # The same page with a script that reports what has been loaded, and that also tries to load a picture by name.
    probe = (
        '<script>onload = () => { document.title = JSON.stringify([...document.images].map(i => i.naturalWidth)); '
        "const other = new Image(); other.src = './method/one.png'; console.error('probe') }</script></body>"
    )
    asked = path.read_text('utf-8').replace('</body>', probe)
    asked = asked.replace('style-src', 'script-src &#x27;unsafe-inline&#x27;; style-src', 1)
    (tmp_path / 'asked.html').write_text(asked, 'utf-8')
    dumped = browse(tmp_path / 'asked.html', tmp_path / 'b', '--dump-dom', '--virtual-time-budget=5000')
    title = dumped.stdout.split('<title>')[1].split('</title>')[0]
    assert json.loads(title) == [60, 60, 60, 97, 60, 97]
    assert 'probe' in dumped.stderr  # complaints would have been heard
    assert 'Content Security Policy' in dumped.stderr  # and nothing is loaded from beside the page
