"""The documentation says what the code and the metafiles say."""

import argparse
import importlib
import inspect
import pkgutil
import re
from functools import cache
from pathlib import Path

import pytest

import mmvit_ext
from mmvit_ext import registry
from mmvit_ext.cli.arguments import Parser
from mmvit_ext.cli.main import SCRIPTS, VERBS

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


def commands(text):
    """Every verb or tool with the words behind it, of lines in fences, continued or not, and of pieces in backticks."""
    fences = re.findall(r'^ *```\w*\n(.*?)^ *```', text, re.S | re.M)
    lines = [line for fence in fences for line in re.sub(r'\\\n\s*', ' ', fence).splitlines()]
    text = re.sub(r'^ *```\w*\n.*?^ *```', '', text, flags=re.S | re.M)
    for line in [*lines, *(' '.join(piece.split()) for piece in re.findall(r'`([^`]+)`', text))]:
        for name, rest in re.findall(r'(?<![\w/])(?:mmvit +|(?:python|bash) tools/)([\w-]+)([^#;&]*)', line):
            yield [name, *rest.removeprefix('.py').removeprefix('.sh').split()]


@cache
def parser_of(verb):
    parser = Parser(verb)
    importlib.import_module(f'mmvit_ext.cli.{verb}').add_arguments(parser)
    return parser


def options_of(parser, words):
    """Options of a command, and of its subcommand; of all where the words name none or several."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            named = set(words) & set(action.choices)
            found |= set().union(*(options_of(action.choices[name], words) for name in named or action.choices))
    return found


VERB_OF = {script: verb for verb, script in SCRIPTS.items()} | {name: name for name in VERBS if name not in SCRIPTS}
VERB_OF |= {verb: verb for verb in VERBS} | {'dist_train': 'train', 'slurm_train': 'train', 'dist_test': 'test'}


@pages
def test_options_of_our_commands_exist(page):
    for name, *words in commands(page.read_text()):
        options = {option for word in words for option in re.findall(r'(?<![\w-])--[a-z][a-z0-9-]+', word)}
        if name in VERB_OF:
            wrong = options - options_of(parser_of(VERB_OF[name]), words)
        elif (tool := ROOT / 'tools' / f'{name}.py').exists():
            wrong = {option for option in options if f"'{option}'" not in tool.read_text()}
        else:
            assert name.startswith(('-', 'VERB')), f'there is no command {name}'
            continue
        assert not wrong, f'{name} {" ".join(words)}: {wrong}'


def test_commands_are_found_in_text_of_any_kind():
    text = 'Say `mmvit test A\n--amp` or `python tools/test.py B`.\n\n'
    text += '```bash\nmmvit submit coco A \\\n    --tta  # --not\n```\n'
    assert list(commands(text)) == [
        ['submit', 'coco', 'A', '--tta'],
        ['test', 'A', '--amp'],
        ['test', 'B'],
    ]
    assert '--tta' in options_of(parser_of('submit'), ['coco'])
    assert '--tta' not in options_of(parser_of('submit'), ['check'])
    assert sum(len(list(commands(page.read_text()))) for page in PAGES) > 150


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(), re.M))
    for page in PAGES:
        named = set(re.findall(r'`make ([a-z]+)', page.read_text())) | set(
            re.findall(r'^make ([a-z]+)', page.read_text(), re.M)
        )
        assert named <= targets, page
