"""The site is built without warnings, needs no network, and what its tutorials say is run."""

import functools
import html.parser
import http.server
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / 'docs/tutorials').glob('*_*.md'))
NOTEBOOKS = sorted((ROOT / 'docs/tutorials').glob('*.ipynb'))


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


PROBE = """<iframe src="index.html?q=segvit"></iframe><script>
setInterval(() => {
  const found = document.querySelectorAll('iframe')[0].contentDocument.querySelectorAll('.md-search-result__link');
  if (found.length) fetch('/found', {method: 'POST', body: [...found].map(link => link.href).join(' ')});
}, 200);
</script>"""


class SiteServer(http.server.SimpleHTTPRequestHandler):
    """Serves the site, allows it nothing from elsewhere, and keeps what the probe has found."""

    found: queue.Queue = queue.Queue()

    def end_headers(self):
        self.send_header('Content-Security-Policy', "default-src 'self' 'unsafe-inline' data: blob:")
        super().end_headers()

    def do_POST(self):
        self.found.put(self.rfile.read(int(self.headers['Content-Length'])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def open_in_browser(folder, page, tmp_path):
    """What the probe of a page has found in two minutes, and the errors on the browser's console."""
    browser = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if browser is None:
        pytest.skip('no Chromium is installed')
    handler = type('Handler', (SiteServer,), {'found': queue.Queue()})
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = [
        '--headless=new',
        '--no-sandbox',
        '--disable-gpu',
        '--enable-logging=stderr',
        '--remote-debugging-port=0',
    ]
    command = [browser, *options, f'--user-data-dir={tmp_path / "profile"}']
    with server, (tmp_path / 'log').open('w+') as log:
        address = f'http://127.0.0.1:{server.server_address[1]}/{page}'
        process = subprocess.Popen([*command, address], stdout=log, stderr=log, start_new_session=True)
        try:
            found = handler.found.get(timeout=120)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            server.shutdown()
        log.seek(0)
        return found, [line for line in log if 'CONSOLE' in line]


def test_the_search_answers_in_a_browser_without_errors_and_without_other_hosts(site, tmp_path):
    (site / 'probe.html').write_text(PROBE)
    found, errors = open_in_browser(site, 'probe.html', tmp_path)
    assert 'model_zoo.html' in found
    assert errors == []


def test_the_browser_would_tell_of_errors_and_of_other_hosts(tmp_path):
    script = "fetch('/found', {method: 'POST', body: 'loaded'})"
    image = '<img src="http://example.org/a.png">'
    (tmp_path / 'page.html').write_text(
        f'{image}<script>console.error("own"); setTimeout(() => {script}, 500)</script>'
    )
    found, errors = open_in_browser(tmp_path, 'page.html', tmp_path)
    assert found == 'loaded'
    assert any('own' in line for line in errors)
    assert any('Content Security Policy' in line for line in errors)


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


def shorten(notebook):
    """Two steps of training on few images: what the cells do is tested, not what a model learns."""
    for pattern, short in ((r'draw\(photos, \d+\)', 'draw(photos, 10)'), (r'--epochs \d+', '--epochs 2')):
        changed = 0
        for cell in notebook.cells:
            cell.source, count = re.subn(pattern, short, cell.source)
            changed += count
        assert changed, pattern


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_and_show_pictures(path, tmp_path, monkeypatch):
    for library in ('mmseg', 'nbclient', 'ipykernel'):
        pytest.importorskip(library)
    import nbclient
    import nbformat

    notebook = nbformat.read(path, 4)
    assert not any(cell.get('outputs') or cell.get('execution_count') for cell in notebook.cells), 'store no outputs'
    shorten(notebook)
    monkeypatch.setenv('PATH', f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    client = nbclient.NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    said = ''.join(output.get('text', '') for output in outputs)
    assert 'rror' not in said, said
    assert said.count('mIoU') >= 1
    assert sum('image/png' in output.get('data', {}) for output in outputs) >= 1
