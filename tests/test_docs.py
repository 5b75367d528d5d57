"""The documentation says what the code and the metafiles say."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import mmvit_ext
from mmvit_ext import registry

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
PAGES += sorted((ROOT / 'configs').glob('*/README.md'))


def modules():
    for info in pkgutil.walk_packages(mmvit_ext.__path__, 'mmvit_ext.'):
        if not info.name.endswith('__main__'):
            try:
                yield importlib.import_module(info.name)
            except ModuleNotFoundError as error:
                if (error.name or '').split('.')[0] not in ('mmseg', 'mmdet', 'mmpretrain'):
                    raise


def public():
    """Public classes and functions where they are defined."""
    found = {}
    for module in modules():
        for name in getattr(module, '__all__', ()):
            thing = getattr(module, name)
            if getattr(thing, '__module__', None) == module.__name__ and callable(thing):
                found[f'{module.__name__}.{name}'] = thing
    return found


PUBLIC = public()


def documented(doc):
    """Names in the ``Args:`` section of a docstring."""
    match = re.search(r'^\s*Args:\n(.*?)(?=^\s*\n\s*[A-Z]\w*:|\Z)', inspect.cleandoc(doc), re.S | re.M)
    return re.findall(r'^    \*{0,2}(\w+):', match.group(1), re.M) if match else []


@pytest.mark.parametrize('name', PUBLIC)
def test_documented_arguments_are_those_of_the_signature(name):
    thing = PUBLIC[name]
    assert thing.__doc__, f'{name} has no docstring'
    names = documented(thing.__doc__)
    if not names:
        return
    parameters = set(inspect.signature(thing).parameters) - {'self'}
    assert set(names) == parameters


def test_registered_types_document_every_argument():
    for root in (registry.MODELS, registry.TRANSFORMS, registry.HOOKS, registry.METRICS):
        root.import_from_location()
        for name, cls in root.module_dict.items():
            parameters = set(inspect.signature(cls).parameters) - {'self'}
            undocumented = parameters - set(documented(cls.__doc__ or ''))
            assert not undocumented, f'{name}: {undocumented}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_files_exist(page):
    text = page.read_text()
    for target in re.findall(r'\]\(([^)#]+)', text):
        if '://' not in target:
            assert (page.parent / target).exists(), target
    for named in re.findall(
        r'(?<![\w/])((?:tools|configs|docs|tests|benchmarks|requirements)/[\w./-]+\.(?:py|sh|md|txt|yml))', text
    ):
        assert (ROOT / named).exists(), named


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_of_our_commands_exist(page):
    for tool, rest in re.findall(r'(?:python|bash) tools/(\w+)\.(?:py|sh)([^\n`]*)', page.read_text()):
        sources = (ROOT / 'tools').glob(f'{tool}.py'), (ROOT / 'mmvit_ext').rglob('*.py')
        code = ''.join(path.read_text() for group in sources for path in group)
        for option in re.findall(r'--[a-z][a-z-]+', rest.split('#')[0]):
            assert f"'{option}'" in code, f'{tool}: {option}'


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(), re.M))
    for page in PAGES:
        named = set(re.findall(r'`make ([a-z]+)', page.read_text())) | set(
            re.findall(r'^make ([a-z]+)', page.read_text(), re.M)
        )
        assert named <= targets, page
