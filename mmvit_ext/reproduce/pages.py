"""The model zoo pages, made from the ledger and the filed records.

``docs/model_zoo.md`` is written as a whole; in ``README.md`` and ``configs/*/README.md``, the tables between
``<!-- results: ... -->`` and ``<!-- results end -->`` are. Published and measured values never share a column, an empty
measured cell says so, and every measured one is a link to its record.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmvit_ext.errors.user_error import UserError

from .ledger import CERTAINTIES, MAIN_METRICS, METRICS, TOLERANCE, Collection, Ledger, Row
from .records import Records, newest_of_seeds, read_records

__all__ = ['render_pages', 'write_pages']

NOT_MEASURED = 'not measured'
ZOO = 'docs/model_zoo.md'
_BLOCK = re.compile(r'(<!-- results:[^>]*-->\n).*?(<!-- results end -->)', re.S)
_SPACES: dict[str, Any] = dict.fromkeys(('trim_blocks', 'lstrip_blocks', 'keep_trailing_newline'), True)
_TEMPLATES = Environment(loader=PackageLoader('mmvit_ext.reproduce', ''), undefined=StrictUndefined, **_SPACES)
Cell = Callable[[Row], object]  # what a column shows for a row
Table = list[list[str]]  # the titles and then the rows, as cells


def _metadata(name: str) -> Cell:
    return lambda row: row.metadata.get(name, '')


_COUNTED: Mapping[str, Cell] = {
    'published parameters (M)': _metadata('Parameters'),
    'parameters here': _metadata('Parameters counted here'),
    'published GFLOPs': _metadata('GFLOPs'),
    'published images/s (one V100)': _metadata('Images per second on a V100'),
    'GFLOPs here, without stage 1 attention': _metadata('GFLOPs without stage 1 attention'),
    'GFLOPs here': _metadata('GFLOPs counted here'),
}


def _published(name: str) -> Cell:
    return lambda row: row.published.get(name, '')


def _checkpoint(row: Row) -> str:
    if row.weights is None:
        return f'by hand: {row.file} in [this folder]({row.folder})' if row.folder else ''
    others = ''.join(f'; [another one]({address})' for address in row.others)
    name = row.file or row.weights.rpartition('/')[2]
    return f'[{name}]({row.weights}), SHA-256 {row.sha256 or "unknown"}{others}'


_ZOO_COLUMNS: Mapping[str, Cell] = {
    'split': lambda row: row.split,
    'training': lambda row: row.training,
    'tolerance (points)': lambda row: row.tolerance if row.published else '',
    'table of the paper': lambda row: row.table if row.published else '',
    'certainty': lambda row: row.certainty if row.published and row.certainty != CERTAINTIES[0] else '',
    'checkpoint': _checkpoint,
    'note': lambda row: row.note,
}
"""Columns that the zoo has beyond those of the other pages."""
_WITHOUT_CONFIG: Mapping[str, Cell] = {
    'published': lambda row: ', '.join(f'{name} {value}' for name, value in row.published.items()),
    'published parameters (M)': _metadata('Parameters'),
    'published GFLOPs': _metadata('GFLOPs'),
    **{title: _ZOO_COLUMNS[title] for title in ('split', 'training')},
    'table of the paper': lambda row: row.table,
    'certainty': _ZOO_COLUMNS['certainty'],
    'measured here': lambda row: NOT_MEASURED,
    'why there is no config': lambda row: row.note,
}
"""Columns of rows that have no config here."""


class _Page:
    """Makes the tables of one page, whose path (relative to the ledger's root) decides where links lead."""

    def __init__(self, ledger: Ledger, records: Records, path: str) -> None:
        self.ledger, self.records, self.folder = ledger, records, Path(path).parent

    def link(self, text: str, target: str) -> str:
        """A link to a file of the checkout."""
        return f'[{text}]({Path(os.path.relpath(target, self.folder)).as_posix()})'

    def tables(self, rows: Sequence[Row], further: Mapping[str, Cell] | None = None) -> list[Table]:
        """Tables of rows with a config: a new one where method or task change, one for all rows of ours of a method."""
        shown = [row for row in rows if row.config]
        groups = groupby(shown, lambda row: (row.collection.name, 'ours' if row.ours else row.task))
        return [self.table(members, {**self._columns(members), **(further or {})}) for _, (*members,) in groups]

    def table(self, rows: Sequence[Row], columns: Mapping[str, Cell]) -> Table:
        """One table, without the columns that are empty in every row."""
        cells = {'config': [self.link(row.name, row.config) if row.config else row.name for row in rows]}
        cells |= {'dataset': [row.dataset for row in rows]}
        cells |= {title: [str(cell(row)) for row in rows] for title, cell in columns.items()}
        cells = {title: texts for title, texts in cells.items() if any(texts)}
        return [list(cells), *map(list, zip(*cells.values(), strict=True))]

    def _columns(self, rows: Sequence[Row]) -> dict[str, Cell]:
        """The columns of a table of rows of one task, after config and dataset."""
        task = rows[0].task
        if rows[0].ours:
            return {
                'tolerance (points)': lambda row: row.tolerance if row.reference else '',
                'measured here': lambda row: self._measured(*MAIN_METRICS[row.task], titled=True)(row),
            }
        published = dict.fromkeys(name for row in rows for name in row.published)
        names = [name for name in METRICS if name in published] + [name for name in published if name not in METRICS]
        several = [name for name in names if name in METRICS and METRICS[name].multi_scale]
        return {
            **{f'published {name.replace("(ms+flip)", " (ms)")}': _published(name) for name in names},
            **_COUNTED,
            f'{" and ".join(MAIN_METRICS[task])} measured here': self._measured(*MAIN_METRICS[task]),
            **{f'{METRICS[name].key} (ms) measured here': self._measured(name, scale='multi') for name in several},
        }

    def _measured(self, *names: str, scale: str = 'single', titled: bool = False) -> Cell:
        """A column of the newest measured values, of each seed where there are several, linked to their records."""

        def cell(row: Row) -> str:
            found = newest_of_seeds(self.records, row.name, scale)
            texts = []
            for seed, (path, record) in found.items():
                if values := [str(record.metrics[name]) for name in names if name in record.metrics]:
                    texts.append(self.link(', '.join(values), path) + (f' (seed {seed})' if len(found) > 1 else ''))
            title = f'{" and ".join(names)} ' if titled else ''
            return title + ', '.join(texts) if texts else NOT_MEASURED

        return cell

    def section(self, collection: Collection) -> dict[str, Any]:
        """What the zoo shows of a method."""
        rows = [row for row in self.ledger.rows if row.collection == collection]
        others = [row for row in rows if row.config is None]
        return {
            'collection': collection,
            'readme': self.link('page of the method', collection.readme),
            'papers': self.tables([row for row in rows if not row.ours], _ZOO_COLUMNS),
            'ours': self.tables([row for row in rows if row.ours], {'training': _ZOO_COLUMNS['training']}),
            'without_config': self.table(others, _WITHOUT_CONFIG) if others else None,
        }


def _fill(text: str, tables: Sequence[Table], page: str) -> str:
    """Put tables between the marks of a page, in their order."""
    blocks = len(_BLOCK.findall(text))
    if blocks != len(tables):
        places = f'{blocks} places for tables (<!-- results: ... --> to <!-- results end -->)'
        raise UserError(f'{page} has {places} where the metafile gives {len(tables)}: add or remove places')
    render = _TEMPLATES.get_template('table.md.j2').module.table  # type: ignore[attr-defined]
    filled = iter(tables)
    return _BLOCK.sub(lambda match: match[1] + render(next(filled)) + match[2], text)


def render_pages(ledger: Ledger, records: Records | None = None) -> dict[str, str]:
    """The model zoo pages as text by path relative to the ledger's root."""
    records = read_records(ledger) if records is None else records
    collections = list(dict.fromkeys(row.collection for row in ledger.rows))
    zoo = _Page(ledger, records, ZOO)
    sections = [zoo.section(collection) for collection in collections]
    pages = {ZOO: _TEMPLATES.get_template('model_zoo.md.j2').render(tolerance=TOLERANCE, sections=sections)}
    for path in ['README.md', *dict.fromkeys(collection.readme for collection in collections)]:
        shown = [row for row in ledger.rows if row.collection.readme == path]
        if path == 'README.md':
            shown = [row for row in ledger.rows if 'mIoU(ms+flip)' in row.published]
        try:
            text = (ledger.root / path).read_text(encoding='utf-8')
        except OSError as error:
            raise UserError(f'{ledger.root / path} cannot be read: {error.strerror}; the ledger names it') from error
        pages[path] = _fill(text, _Page(ledger, records, path).tables(shown), path)
    return pages


def write_pages(ledger: Ledger) -> list[str]:
    """Bring the model zoo pages up to date; returns those that changed, relative to the ledger's root."""
    changed = []
    for path, text in render_pages(ledger).items():
        target = ledger.root / path
        if not target.is_file() or target.read_text(encoding='utf-8') != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding='utf-8')
            changed.append(path)
    return changed
