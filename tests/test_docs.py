"""The documentation says what the code and the metafiles say."""

import importlib
import inspect
import pkgutil
import re
from functools import cache
from pathlib import Path

import pytest

import mmvit_ext
from mmvit_ext import registry

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md'))]
PAGES += sorted((ROOT / 'configs').glob('*/README.md'))


def modules():
    for info in pkgutil.walk_packages(mmvit_ext.__path__, 'mmvit_ext.'):
        if not info.name.endswith('__main__'):
            try:
                yield importlib.import_module(info.name)
            except ModuleNotFoundError as error:
                if (error.name or '').split('.')[0] not in ('mmseg', 'mmdet', 'mmpretrain', 'timm'):
                    raise


def public():
    """Public classes and functions by the name of the place that defines them."""
    for module in modules():
        for name in getattr(module, '__all__', ()):
            thing = getattr(module, name)
            if getattr(thing, '__module__', None) == module.__name__ and callable(thing):
                yield f'{module.__name__}.{name}', thing


def arguments_of(thing):
    return set(inspect.signature(thing).parameters) - {'self'}


def documented(doc):
    """Names in the ``Args:`` section of a docstring."""
    match = re.search(r'^\s*Args:\n(.*?)(?=^\s*\n\s*[A-Z]\w*:|\Z)', inspect.cleandoc(doc), re.S | re.M)
    return re.findall(r'^    \*{0,2}(\w+):', match.group(1), re.M) if match else []


def test_documented_arguments_are_those_of_the_signature():
    """Classes name those of ``__init__`` in their own docstring, where no linter looks."""
    things = dict(public())
    assert len(things) > 100
    assert not [name for name, thing in things.items() if not thing.__doc__]
    names = {name: set(documented(thing.__doc__)) for name, thing in things.items()}
    wrong = {name: listed ^ arguments_of(things[name]) for name, listed in names.items() if listed}
    assert not {name: difference for name, difference in wrong.items() if difference}


def test_registered_types_document_every_argument():
    undocumented = {}
    for root in (registry.MODELS, registry.TRANSFORMS, registry.HOOKS, registry.METRICS):
        root.import_from_location()
        for name, cls in root.module_dict.items():
            undocumented[name] = arguments_of(cls) - set(documented(cls.__doc__ or ''))
    assert undocumented
    assert not {name: names for name, names in undocumented.items() if names}


pages = pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pages
def test_links_and_named_files_exist(page):
    text = page.read_text()
    for target in re.findall(r'\]\(([^)#]+)', text):
        if '://' not in target:
            assert (page.parent / target).exists(), target
    for named in re.findall(
        r'(?<![\w/])((?:tools|configs|docs|tests|benchmarks|requirements)/[\w./-]+\.(?:py|sh|md|txt|yml))', text
    ):
        assert (ROOT / named).exists(), named


@cache
def package_code():
    return ''.join(path.read_text() for path in (ROOT / 'mmvit_ext').rglob('*.py'))


@pages
def test_options_of_our_commands_exist(page):
    for tool, rest in re.findall(r'(?:python|bash) tools/(\w+)\.(?:py|sh)([^\n`]*)', page.read_text()):
        command = ROOT / 'tools' / f'{tool}.py'
        code = package_code() + (command.read_text() if command.exists() else '')
        for option in re.findall(r'--[a-z][a-z0-9-]+', rest.split('#')[0]):
            assert f"'{option}'" in code, f'{tool}: {option}'


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(), re.M))
    for page in PAGES:
        named = set(re.findall(r'`make ([a-z]+)', page.read_text())) | set(
            re.findall(r'^make ([a-z]+)', page.read_text(), re.M)
        )
        assert named <= targets, page
