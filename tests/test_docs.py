"""The documentation says what the code and the metafiles say."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import yaml

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


def published(name):
    return lambda model, result: result['Metrics'].get(name, '')


def counted(name):
    return lambda model, result: model['Metadata'].get(name, '')


def measured(model, result):
    return result.get('Measured', 'not measured')


COUNTS_OF_P2T = {
    'published parameters (M)': counted('Parameters'),
    'parameters here': counted('Parameters counted here'),
    'published GFLOPs': counted('GFLOPs'),
    'GFLOPs here, without stage 1 attention': counted('GFLOPs without stage 1 attention'),
    'GFLOPs here': counted('GFLOPs counted here'),
}
COUNTS = {name: counted(name) for name in ('Parameters counted here', 'GFLOPs counted here')}
#: Columns of a results table after config and dataset, by collection and task: what stands in a row.
COLUMNS = {
    ('SegViT', 'Semantic Segmentation'): {
        'published ss': published('mIoU'),
        'published ms': published('mIoU(ms+flip)'),
        'published GFLOPs': counted('GFLOPs'),
        'GFLOPs counted here': counted('GFLOPs counted here'),
        'mIoU measured here': measured,
    },
    ('P2T', 'Image Classification'): {
        'published top-1': published('Top 1 Accuracy'),
        **COUNTS_OF_P2T,
        'top-1 measured here': measured,
    },
    ('P2T', 'Semantic Segmentation'): {
        **{f'published {name}': published(name) for name in ('mIoU', 'aAcc', 'mAcc')},
        **COUNTS_OF_P2T,
        'mIoU measured here': measured,
    },
    ('P2T', 'Object Detection'): {
        **{f'published {name}': published(name) for name in ('box AP', 'box AP50', 'box AP75')},
        **COUNTS_OF_P2T,
        'box AP measured here': measured,
    },
    ('P2T', 'Instance Segmentation'): {
        **{f'published {name}': published(name) for name in ('box AP', 'box AP50', 'mask AP', 'mask AP50')},
        **COUNTS_OF_P2T,
        'box and mask AP measured here': measured,
    },
    ('SPFormer', 'Image Classification'): {
        'published top-1': published('Top 1 Accuracy'),
        **{f'published, over {other}': published(f'Top 1 Accuracy over {other}') for other in ('S/16', 'S/32')},
        **COUNTS,
        'top-1 measured here': measured,
    },
    ('SPFormer', 'Semantic Segmentation'): {
        'published mIoU over DeiT-S': published('mIoU over DeiT-S'),
        **COUNTS,
        'mIoU measured here': measured,
    },
}
for name in ('TNT', 'NesT'):
    COLUMNS[name, 'Image Classification'] = {
        'published top-1': published('Top 1 Accuracy'),
        'published parameters (M)': counted('Parameters'),
        'parameters here': counted('Parameters counted here'),
        'published GFLOPs': counted('GFLOPs'),
        'GFLOPs here': counted('GFLOPs counted here'),
        'top-1 measured here': measured,
    }
    COLUMNS[name, 'Semantic Segmentation'] = {**COUNTS, 'mIoU measured here': measured}
    COLUMNS[name, 'Object Detection'] = {
        **({'published box AP': published('box AP')} if name == 'TNT' else {}),
        **COUNTS,
        'box AP measured here': measured,
    }
    COLUMNS[name, 'Instance Segmentation'] = {**COUNTS, 'box and mask AP measured here': measured}


def line(cells):
    return re.sub(r' +', ' ', '| ' + ' | '.join(map(str, cells)) + ' |')


def results_tables(metafile, folder, keep=lambda result: True):
    """The results of a metafile as tables, heading first: a new one where collection or task change."""
    tables, before = [], None
    for model in yaml.safe_load((ROOT / metafile).read_text())['Models']:
        for result in filter(keep, model.get('Results', [])):
            kind = model['In Collection'], result['Task']
            columns = COLUMNS[kind]
            if kind != before:
                tables.append([line(['config', 'dataset', *columns])])
            before = kind
            row = line(column(model, result) for column in columns.values())
            tables[-1].append(f'| [{model["Name"]}]({folder}{Path(model["Config"]).name}) | {result["Dataset"]} {row}')
    return tables


def tables_of(page):
    """Every table between the marks of results, heading first, without the line of dashes."""
    parts = [part.split('<!-- results end')[0] for part in page.read_text().split('<!-- results:')[1:]]
    rows = ([re.sub(r' +', ' ', text) for text in part.splitlines() if text.startswith('| ')] for part in parts)
    return list(rows)


def metafiles():
    return yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']


def test_results_in_the_readme_are_those_of_the_metafiles():
    """The rows with a multi-scale figure."""
    expected = []
    for path in metafiles():
        expected += results_tables(path, f'{Path(path).parent}/', lambda result: 'mIoU(ms+flip)' in result['Metrics'])
    assert tables_of(ROOT / 'README.md') == expected


@pytest.mark.parametrize(
    'metafile', sorted((ROOT / 'configs').glob('*/metafile.yml')), ids=lambda path: path.parent.name
)
def test_a_model_zoo_page_lists_every_published_row(metafile):
    expected = results_tables(metafile, '')
    assert expected
    assert tables_of(metafile.parent / 'README.md') == expected


@pytest.mark.parametrize('metafile', metafiles())
def test_every_published_metric_has_a_column(metafile):
    """A metric that no column shows would be lost on the way from the metafile to the page."""
    for model in yaml.safe_load((ROOT / metafile).read_text())['Models']:
        for result in model.get('Results', []):
            columns = COLUMNS[model['In Collection'], result['Task']].values()
            for name in result['Metrics']:
                marked = {'Metrics': {name: 'here'}}
                assert 'here' in [column({'Metadata': {}}, marked) for column in columns], name


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
