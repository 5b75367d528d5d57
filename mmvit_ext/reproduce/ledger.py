"""The ledger: every published row, read from ``model-index.yml`` and the metafiles that it names.

A row is a model of a metafile that has a result. A collection has ``Source`` and ``Checkpoints`` as well, see
:class:`Collection`, models and results further keys, see :class:`Row`. ``Rows without a config`` lists what is
published and has no config here.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from mmvit_ext.errors.user_error import UserError

__all__ = ['BESIDE', 'METRICS', 'PHOTOGRAPHS', 'Collection', 'Ledger', 'Metric', 'Row', 'find_root', 'read_ledger']

TOLERANCE = 0.2  # points by which a measured value may differ from the published one, if nothing else is said
NOT_IN_SOURCES = 'not in our sources'
INDEX = 'model-index.yml'
UNKNOWN = 'unknown'
CERTAINTIES = ('read in the source', 'second-hand', 'inferred', 'unverified')
_HASH = re.compile(r'[0-9a-f]{8,64}')
_DIFFERENCE = re.compile(r'(?P<metric>.+) over (?P<other>.+)')
_SCHEDULES = ('Iterations', 'Epochs')
_NEEDED = {'Task', 'Dataset', 'Split'}
_RESULT_KEYS = {*_NEEDED, 'Metrics', 'Table', 'Tolerance', 'Baseline', 'Reference', 'Source', 'Certainty'}


@dataclass(frozen=True)
class Metric:
    """How a metric of the papers is measured: the evaluator's name for it and the factor from its value to per cent."""

    key: str
    factor: float = 1.0
    multi_scale: bool = False
    lower_is_better: bool = False


METRICS: Mapping[str, Metric] = {
    **{name: Metric(name) for name in ('mIoU', 'aAcc', 'mAcc')},
    'mIoU(ms+flip)': Metric('mIoU', multi_scale=True),
    **{f'Top {k} Accuracy': Metric(f'accuracy/top{k}') for k in (1, 5)},
    **{f'box AP{end[1:]}': Metric(f'coco/bbox_mAP{end}', 100) for end in ('', '_50', '_75', '_s', '_m', '_l')},
    **{f'mask AP{end[1:]}': Metric(f'coco/segm_mAP{end}', 100) for end in ('', '_50')},
    'PQ': Metric('coco_panoptic/PQ'),
    'FID': Metric('FID', lower_is_better=True),
}
PHOTOGRAPHS = ('CamVid', 'DRIVE', 'CHASE_DB1', 'BCCD', 'nuclei', 'COCO128', 'Imagenette')
"""Datasets of small collections of photographs, see docs/real_photographs.md."""
BESIDE = ('IoU/', 'Dice/', 'trimap/mIoU')
"""How names of metrics begin that a record has beside those of its row: those of classes and near edges."""
MAIN_METRICS: Mapping[str, tuple[str, ...]] = {
    'Semantic Segmentation': ('mIoU',),
    'Image Classification': ('Top 1 Accuracy',),
    'Object Detection': ('box AP',),
    'Instance Segmentation': ('box AP', 'mask AP'),
    'Panoptic Segmentation': ('PQ',),
    'Image Generation': ('FID',),
}
"""What is measured of a row by task, whether it is published or not."""


@dataclass(frozen=True)
class Collection:
    """A method and its paper, with its model zoo page relative to the root."""

    name: str
    title: str
    url: str
    readme: str
    where: str = NOT_IN_SOURCES  # the authors put their checkpoints, in words
    licence: str = NOT_IN_SOURCES  # of these checkpoints
    converter: str | None = None  # that reads them
    source: str = NOT_IN_SOURCES  # of the figures of its rows
    pretrained: tuple[Mapping[str, str], ...] = field(default=(), hash=False)  # Name, Address, Licence and a Note


@dataclass(frozen=True)
class Row:
    """One row; ``None`` and the defaults stand for what a metafile leaves out. Paths are relative to the root."""

    name: str  # of its config without the ending, which identifies the row
    collection: Collection
    task: str  # one of MAIN_METRICS
    dataset: str
    split: str  # images that were evaluated
    published: Mapping[str, float]  # per cent by metric, or points where the name is that of a difference
    metadata: Mapping[str, Any] = field(default_factory=dict)  # parameters, operations, batch and schedule
    config: str | None = None
    table: str = NOT_IN_SOURCES  # of the paper
    tolerance: float = TOLERANCE
    baseline: str | None = None  # the row from which a published difference is counted
    reference: str | None = None  # the record with which a row of ours is compared
    weights: str | None = None  # address of a checkpoint
    sha256: str | None = None  # its first digits
    file: str | None = None  # the checkpoint's name, where its address does not end with it
    folder: str | None = None  # address of a folder with several files, of which ``file`` is the row's
    others: tuple[str, ...] = ()  # addresses of further checkpoints of the same network
    source: str = NOT_IN_SOURCES  # of the figures
    certainty: str = CERTAINTIES[0]
    note: str = ''  # why there is no config, or what else has to be known of the figures

    @property
    def mini(self) -> bool:
        """Whether the row is on the mini data."""
        return self.dataset.startswith('mini ')

    @property
    def ours(self) -> bool:
        """Whether no paper has the row: it is on the mini data, or on photographs of :data:`PHOTOGRAPHS`."""
        return self.mini or self.dataset in PHOTOGRAPHS

    @property
    def tested_on(self) -> str:
        """``train`` where the row is evaluated on training images, otherwise ``test``."""
        return 'train' if self.split == 'training' else 'test'

    @property
    def training(self) -> str:
        """GPUs, batch and schedule of the recipe, as far as they are known."""
        schedule = [f'{self.metadata[name]} {name.lower()}' for name in _SCHEDULES if name in self.metadata]
        return ', '.join(filter(None, [self.metadata.get('Training Resources'), *schedule]))

    @property
    def absolute(self) -> dict[str, float]:
        """What is published of it, without the differences to other rows."""
        return {name: value for name, value in self.published.items() if name in METRICS}

    @property
    def differences(self) -> dict[str, float]:
        """The published differences to :attr:`baseline`, by metric."""
        matches = {name: _DIFFERENCE.fullmatch(name) for name in self.published if name not in METRICS}
        return {match['metric']: self.published[name] for name, match in matches.items() if match}

    @property
    def multi_scale_only(self) -> bool:
        """Whether only values with test-time augmentation are published."""
        return bool(self.absolute) and all(METRICS[name].multi_scale for name in self.absolute)


@dataclass(frozen=True)
class Ledger:
    """All rows, with and without a config, and the root of ``configs/`` and ``results/``."""

    root: Path
    rows: tuple[Row, ...]

    def find(self, name: str) -> Row:
        """The row whose config has this name, with or without ``.py`` and folder; ``UserError`` names similar ones."""
        stem, rows = Path(name).name.removesuffix('.py'), {row.name: row for row in self.rows}
        if (row := rows.get(stem)) and row.config is None:
            raise UserError(f'the row {stem} is published but has no config here: {row.note}')
        if row:
            return row
        names = [row.name for row in self.rows if row.config]
        close = [other for other in names if stem and stem in other][:3] or get_close_matches(stem, names, 3, 0.5)
        hint = f'; did you mean {" or ".join(close)}?' if close else ''
        raise UserError(f'there is no row {name}{hint}; tools/reproduce.py --list shows all rows')

    def select(self, method: str | None = None, dataset: str | None = None) -> list[Row]:
        """Rows by the beginning of the method's and a part of the dataset's name, whatever their case and hyphens."""

        def plain(text: str) -> str:
            return re.sub(r'[^a-z0-9]', '', text.lower())

        start, part = plain(method or ''), plain(dataset or '')
        rows = [row for row in self.rows if plain(row.collection.name).startswith(start)]
        if chosen := [row for row in rows if part in plain(row.dataset)]:
            return chosen
        methods = ', '.join(dict.fromkeys(row.collection.name for row in self.rows))
        known = f'the methods are {methods}, the datasets {", ".join(dict.fromkeys(row.dataset for row in self.rows))}'
        raise UserError(f'no row has --method {method or "(any)"} and --dataset {dataset or "(any)"}: {known}')


def find_root() -> Path:
    """The folder with the model index: the checkout, or what an installed package carries."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent, package / '.mim'):
        if (folder / INDEX).is_file():
            return folder
    raise UserError(f'there is no {INDEX} beside or inside {package}: install the package again, or use a checkout')


def read_ledger(root: Path | None = None) -> Ledger:
    """Read and check every metafile below ``root``, by default the folder of the package's own model index."""
    root = find_root() if root is None else Path(root)
    paths = _load(root / INDEX).get('Import') or []
    rows = [row for path in paths for row in _read_metafile(root, str(path))]
    names = Counter(row.name for row in rows)
    for row in rows:
        if names[row.name] > 1:
            raise UserError(f'two rows are called {row.name}: names of configs have to be unique')
        if row.baseline is not None and row.baseline not in names:
            raise UserError(f'the Baseline {row.baseline} of the row {row.name} is no row: correct the metafile')
    return Ledger(root, tuple(rows))


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}; {INDEX} names it') from error
    except yaml.YAMLError as error:
        raise UserError(f'{path} is no YAML: {" ".join(str(error).split())}') from error
    if not isinstance(content, dict):
        raise UserError(f'{path} holds a {type(content).__name__}: expected keys such as Collections and Models')
    return content


def _read_metafile(root: Path, name: str) -> list[Row]:
    content = _load(root / name)
    collections = {}
    for entry in content.get('Collections') or []:
        paper, ours = entry.get('Paper') or {}, entry.get('Checkpoints') or {}
        known = {'Title': '', 'URL': '', 'README': '', 'Source': paper.get('Title', ''), **paper, **entry, **ours}
        known['Pretrained'] = tuple(ours.get('Pretrained') or ())
        collections[entry['Name']] = Collection(**_known(Collection, known))
    trained = [model for model in content.get('Models') or [] if model.get('Results')]
    rows = [_row(root, name, model, collections, model['Results']) for model in trained]
    for model in content.get('Rows without a config') or []:
        if not model.get('Note'):
            raise UserError(f'{name}: {model.get("Name")} of "Rows without a config" has no Note that says why')
        rows.append(_row(root, name, model, collections, [model.get('Result') or {}]))
    return rows


def _row(
    root: Path, file: str, model: Mapping[str, Any], collections: Mapping[str, Collection], results: Sequence[Any]
) -> Row:
    def check(condition: object, message: str) -> None:
        if not condition:
            raise UserError(f'{file}, {model.get("Name")}: {message}')

    collection, config, sha256 = model.get('In Collection'), model.get('Config'), model.get('SHA256')
    check(collection in collections, f'In Collection is {collection!r}, expected one of {list(collections)}')
    check(len(results) == 1, f'{len(results)} results where one is expected: give each dataset its own config')
    result = results[0]
    unknown, absent = set(result) - _RESULT_KEYS, _NEEDED - set(result)
    check(not unknown and not absent, f'the result has {sorted(unknown)} too many and lacks {sorted(absent)}')
    published = {str(key): value for key, value in (result.get('Metrics') or {}).items()}
    for key, value in published.items():
        difference = _DIFFERENCE.fullmatch(key)
        known = key in METRICS or (difference and (difference['metric'] in METRICS or config is None))
        check(known, f'the metric {key!r} is not known; expected one of {sorted(METRICS)}')
        check(_is_number(value), f'{key} is {value!r}, expected a number')
        based = not difference or config is None or result.get('Baseline')
        check(based, f'{key} is a difference and no Baseline says to which row')
    tolerance, reference = result.get('Tolerance', TOLERANCE), result.get('Reference')
    check(_is_number(tolerance) and tolerance > 0, f'Tolerance is {tolerance!r}, expected points above 0')
    check(config is None or (root / config).is_file(), f'there is no config {config}')
    certainty = result.get('Certainty', CERTAINTIES[0])
    check(certainty in CERTAINTIES, f'Certainty is {certainty!r}, expected one of {CERTAINTIES}')
    check(not model.get('Weights') or sha256, f'the Weights have no SHA256: give its first digits, or write {UNKNOWN}')
    check(not model.get('Folder') or model.get('File'), "the Folder has no File: name the one that is the row's")
    hexadecimal = sha256 in (None, UNKNOWN) or _HASH.fullmatch(str(sha256).lower())
    check(hexadecimal, f'SHA256 is {sha256!r}, expected 8 to 64 hexadecimal digits in quotes, or {UNKNOWN}')
    check(reference is None or (root / reference).is_file(), f'there is no record {reference}')
    scheduled = set(_SCHEDULES) & set(model.get('Metadata') or {})
    check(config is None or scheduled, 'the Metadata has neither Iterations nor Epochs')
    told = _known(Row, {'Source': collections[str(collection)].source, **model, **result})
    told.update(collection=collections[str(collection)], published=published, tolerance=float(tolerance))
    told.update(sha256=None if sha256 in (None, UNKNOWN) else str(sha256).lower())
    return Row(**told, others=tuple(model.get('Other weights') or ()))


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a metafile that are fields of a class under the same name, in lower case."""
    names = {field.name for field in fields(kind)}
    return {key.lower(): value for key, value in values.items() if key.lower() in names and value is not None}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
