"""The site is built without warnings, needs no network, and what its tutorials say is run."""

import html.parser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / 'docs/tutorials').glob('*.md'))


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    pytest.importorskip('mkdocs')
    pytest.importorskip('mkdocstrings')
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Links(html.parser.HTMLParser):
    """What a page loads and where it leads."""

    def __init__(self, page):
        super().__init__()
        self.loaded, self.led, self.ids = [], [], set()
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids.add(attributes.get('id'))
        if tag in ('script', 'img', 'iframe', 'source') and 'src' in attributes:
            self.loaded.append(attributes['src'])
        elif tag == 'link' and attributes.get('rel') in ('stylesheet', 'icon', 'preload'):
            self.loaded.append(attributes['href'])
        elif tag == 'a' and 'href' in attributes:
            self.led.append(attributes['href'])


def test_no_page_loads_anything_from_elsewhere_and_every_link_leads_somewhere(site):
    pages = {page: Links(page) for page in site.rglob('*.html') if page.name != '404.html'}
    assert len(pages) > 25
    for page, links in pages.items():
        for address in links.loaded + links.led:
            path, _, anchor = address.partition('#')
            if re.match(r'\w+:', path):
                assert address in links.led, f'{page}: {address}'
                continue
            target = (page.parent / path).resolve() if path else page
            assert target.is_file(), f'{page}: {address}'
            if anchor and target in pages:
                assert anchor in pages[target].ids | {'__codelineno'} or anchor.startswith('__'), f'{page}: {address}'


def test_reference_has_the_arguments_and_readable_formulas(site):
    text = (site / 'api/heads.html').read_text()
    assert 'Attention-to-Mask decode head' in text
    assert 'deep_supervision' in text
    assert '.. math::' not in text
    assert ':class:' not in text


def test_pages_open_in_a_browser(site):
    browser = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if browser is None:
        pytest.skip('no Chromium is installed')
    command = [browser, '--headless', '--no-sandbox', '--disable-gpu', '--dump-dom', (site / 'index.html').as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert 'Vision transformers for dense prediction' in dom


@pytest.mark.parametrize('page', TUTORIALS, ids=lambda page: page.stem)
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_code_of_the_tutorials_runs(page, tmp_path, monkeypatch, capsys):
    pytest.importorskip('mmseg')
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r'```python\n(.*?)```', page.read_text(), re.S)
    assert blocks
    names: dict = {'__name__': 'tutorial'}
    for block in blocks:
        exec(compile(block, str(page), 'exec'), names)
    if page.stem == 'plain_library':
        assert len(blocks) == 1
        assert len(blocks[0].splitlines()) <= 150
        assert min(names['ious']) > 0.8
