"""The model zoo pages, made from the ledger and the filed records.

``docs/model_zoo.md`` is written whole; in ``README.md`` and ``configs/*/README.md`` the tables between
``<!-- results: ... -->`` and ``<!-- results end -->`` are. Published and measured values never share a column, an empty
measured cell says so, and every measured one is a link to its record.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from mmvit_ext.errors.user_error import UserError

from .ledger import MAIN_METRICS, METRICS, TOLERANCE, Collection, Ledger, Row
from .records import Records, read_records

__all__ = ['render_pages', 'write_pages']

NOT_MEASURED = 'not measured'
ZOO = 'docs/model_zoo.md'
_BLOCK = re.compile(r'(<!-- results:[^>]*-->\n).*?(<!-- results end -->)', re.S)

Cell = Callable[[Row], object]
"""What stands in a row's cell of a column."""


class _Page:
    """Tables as one page shows them: its place decides where links lead.

    Args:
        ledger: The ledger.
        records: The filed records.
        path: The page, relative to the ledger's root.
    """

    def __init__(self, ledger: Ledger, records: Records, path: str) -> None:
        self.ledger, self.records, self.folder = ledger, records, Path(path).parent

    def link(self, text: str, target: str) -> str:
        """A link to a file of the checkout."""
        return f'[{text}]({Path(os.path.relpath(target, self.folder)).as_posix()})'

    def row_link(self, row: Row) -> str:
        """The row's name, leading to its config."""
        return row.name if row.config is None else self.link(row.name, row.config)

    def measured(self, *names: str, multi: bool = False) -> Cell:
        """A column of what was measured."""

        def cell(row: Row) -> str:
            entry = self.records.newest(row.name, 'multi' if multi else 'single')
            if entry is None:
                return NOT_MEASURED
            path, record = entry
            values = [str(record.metrics[name]) for name in names if name in record.metrics]
            return self.link(', '.join(values), path) if values else NOT_MEASURED

        return cell

    def columns(self, rows: Sequence[Row]) -> dict[str, Cell]:
        """The columns of a table of rows of one task, after config and dataset."""
        task = rows[0].task
        multi = [
            name for name in dict.fromkeys(name for row in rows for name in row.absolute) if METRICS[name].multi_scale
        ]
        return {
            **{f'published {name.replace("(ms+flip)", " (ms)")}': _published(name) for name in _published_names(rows)},
            **{title: _counted(name) for title, name in _COUNTED.items()},
            f'{_SHORT[task]} measured here': self.measured(*MAIN_METRICS[task]),
            **{f'{METRICS[name].key} (ms) measured here': self.measured(name, multi=True) for name in multi},
        }

    def tables(self, keep: Callable[[Row], bool], further: Mapping[str, Cell] | None = None) -> list[list[str]]:
        """Tables of rows, as lines: a new one where method or task change, one for all mini rows of a method."""

        def kind(row: Row) -> tuple[str, str]:
            return row.collection.name, 'mini' if row.mini else row.task

        tables = []
        rows = [row for row in self.ledger.rows if row.config is not None and keep(row)]
        for (_, task), group in groupby(rows, kind):
            members = list(group)
            columns = self.mini_columns() if task == 'mini' else self.columns(members)
            tables.append(self.table(members, {**columns, **(further or {})}))
        return tables

    def mini_columns(self) -> dict[str, Cell]:
        """The columns of rows that no paper has."""

        def measured(row: Row) -> str:
            names = MAIN_METRICS[row.task]
            values = self.measured(*names)(row)
            return values if values == NOT_MEASURED else f'{_SHORT[row.task]} {values}'

        return {'tolerance (points)': _tolerance, 'measured here': measured}

    def table(self, rows: Sequence[Row], columns: Mapping[str, Cell]) -> list[str]:
        """One table, without the columns in which no row has anything."""
        cells = {title: [str(cell(row)) for row in rows] for title, cell in columns.items()}
        cells = {title: texts for title, texts in cells.items() if any(texts)}
        lines = [_line(['config', 'dataset', *cells]), '|---' * (len(cells) + 2) + '|']
        for index, row in enumerate(rows):
            lines.append(_line([self.row_link(row), row.dataset, *(texts[index] for texts in cells.values())]))
        return lines


def _line(cells: Sequence[object]) -> str:
    return re.sub(r' +', ' ', '| ' + ' | '.join(map(str, cells)) + ' |')


def _published(name: str) -> Cell:
    return lambda row: row.published.get(name, '')


def _published_names(rows: Sequence[Row]) -> list[str]:
    """The metrics that are published of any of the rows, those of the ledger in its order."""
    names = dict.fromkeys(name for row in rows for name in row.published)
    return [name for name in METRICS if name in names] + [name for name in names if name not in METRICS]


def _counted(name: str) -> Cell:
    return lambda row: row.metadata.get(name, '')


def _tolerance(row: Row) -> object:
    return row.tolerance if row.reference else ''


def _training(row: Row) -> str:
    schedule = [f'{row.metadata[name]} {name.lower()}' for name in ('Iterations', 'Epochs') if name in row.metadata]
    resources = row.metadata.get('Training Resources')
    return ', '.join([*([resources] if resources else []), *schedule])


def _checkpoint(row: Row) -> str:
    if row.weights is None:
        return ''
    digits = f', SHA-256 {row.sha256}' if row.sha256 else ''
    return f'[{row.weights.rpartition("/")[2]}]({row.weights}){digits}'


def _split(row: Row) -> str:
    return row.split


def _all_published(row: Row) -> str:
    return ', '.join(f'{name} {value}' for name, value in row.published.items())


_SHORT: Mapping[str, str] = {
    'Semantic Segmentation': 'mIoU',
    'Image Classification': 'top-1',
    'Object Detection': 'box AP',
    'Instance Segmentation': 'box and mask AP',
    'Image Generation': 'FID',
}
"""How a column names the main metrics of a task."""
_COUNTED: Mapping[str, str] = {
    'published parameters (M)': 'Parameters',
    'parameters here': 'Parameters counted here',
    'published GFLOPs': 'GFLOPs',
    'GFLOPs here, without stage 1 attention': 'GFLOPs without stage 1 attention',
    'GFLOPs here': 'GFLOPs counted here',
}
"""Columns of what is counted: the entry of ``Metadata`` by title."""

_ZOO_HEAD = """# Model zoo

<!-- Written by `python tools/reproduce.py --update-pages`; a test fails when it is not up to date. -->

Every row of the papers that our sources have, and what was measured of it here. Columns named *published* are the
authors' figures from the paper that is named above each table; *parameters here* and *GFLOPs here* are counted from our
networks, by `tests/test_configs.py` anew in each run of the tests; *measured here* is linked to the record of the
measurement in `results/`. Where nothing was measured, the cell says so. Accuracies, mIoU and AP are in per cent, "ms"
is multi scale with flipping, GFLOPs are multiply-adds of one image, parameters without (M) are single ones.
[How to read our numbers](how_to_read_our_numbers.md) says what can be concluded from them.

```bash
python tools/reproduce.py --list --method p2t                          # the rows, as a table
python tools/reproduce.py ROW --data-root DIR --checkpoint FILE        # evaluate, compare, write a record
python tools/reproduce.py ROW --data-root DIR --train                  # train the recipe on the GPUs at hand
```

A measured value reproduces the published one when it differs by at most {tolerance} points, unless the ledger
(`configs/*/metafile.yml`) gives another tolerance for the row. What "not in our sources" stands for may well be known:
the papers' summaries that this package was made from do not have it.
"""


def _zoo(ledger: Ledger, records: Records) -> str:
    page = _Page(ledger, records, ZOO)
    parts = [_ZOO_HEAD.format(tolerance=TOLERANCE)]
    for collection in dict.fromkeys(row.collection for row in ledger.rows):
        parts.append(_section(page, collection))
    return '\n'.join(parts)


def _section(page: _Page, collection: Collection) -> str:
    lines = [
        f'## {collection.name}',
        '',
        f'Published in [{collection.title}]({collection.url}). What the recipes are and what the paper leaves open: '
        f'{page.link("page of the method", collection.readme)}.',
        '',
        f"The authors' checkpoints: {collection.where}. Their licence: {collection.licence}.",
    ]
    further: dict[str, Cell] = {
        'split': _split,
        'training': _training,
        'tolerance (points)': lambda row: row.tolerance if row.published else '',
        'table of the paper': lambda row: row.table if row.published else '',
        'checkpoint': _checkpoint,
    }
    for table in page.tables(lambda row: row.collection == collection and not row.mini, further):
        lines += ['', *table]
    ours = page.tables(lambda row: row.collection == collection and row.mini, {'training': _training})
    for table in ours:
        lines += ['', 'Ours, on the mini data; no paper has these rows:', '', *table]
    others = [row for row in page.ledger.rows if row.collection == collection and row.config is None]
    if others:
        columns: dict[str, Cell] = {
            'published': _all_published,
            'published parameters (M)': _counted('Parameters'),
            'published GFLOPs': _counted('GFLOPs'),
            'split': _split,
            'training': _training,
            'table of the paper': lambda row: row.table,
            'measured here': lambda row: NOT_MEASURED,
            'why there is no config': lambda row: row.note,
        }
        lines += ['', 'Published, without a config here:', '', *page.table(others, columns)]
    return '\n'.join(lines) + '\n'


def _fill(text: str, tables: Sequence[Sequence[str]], page: str) -> str:
    """Put the tables between the marks of a page, in their order."""
    blocks = len(_BLOCK.findall(text))
    if blocks != len(tables):
        raise UserError(
            f'{page} has {blocks} places for tables (<!-- results: ... --> to <!-- results end -->) where the metafile '
            f'gives {len(tables)}: add or remove places'
        )
    filled = iter(tables)
    return _BLOCK.sub(lambda match: match[1] + '\n'.join(next(filled)) + '\n' + match[2], text)


def render_pages(ledger: Ledger, records: Records | None = None) -> dict[str, str]:
    """What the model zoo pages should be.

    Args:
        ledger: The ledger.
        records: The filed records; read when not given.

    Returns:
        The text by path relative to the ledger's root.

    Raises:
        UserError: A page is missing, or has too few or too many places for tables.
    """
    records = read_records(ledger) if records is None else records
    pages = {ZOO: _zoo(ledger, records)}
    for path in ['README.md', *dict.fromkeys(row.collection.readme for row in ledger.rows)]:
        page = _Page(ledger, records, path)
        if path == 'README.md':
            tables = page.tables(lambda row: 'mIoU(ms+flip)' in row.published)
        else:
            tables = page.tables(lambda row, path=path: row.collection.readme == path)  # type: ignore[misc]
        try:
            text = (ledger.root / path).read_text(encoding='utf-8')
        except OSError as error:
            raise UserError(f'{ledger.root / path} cannot be read: {error.strerror}; the ledger names it') from error
        pages[path] = _fill(text, tables, path)
    return pages


def write_pages(ledger: Ledger) -> list[str]:
    """Bring the model zoo pages up to date.

    Args:
        ledger: The ledger.

    Returns:
        The pages that changed, relative to the ledger's root.
    """
    changed = []
    for path, text in render_pages(ledger).items():
        target = ledger.root / path
        if not target.is_file() or target.read_text(encoding='utf-8') != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding='utf-8')
            changed.append(path)
    return changed
