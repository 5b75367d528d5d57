"""The ledger as a table in the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .ledger import NOT_IN_SOURCES, Ledger, Row
from .records import Records, read_records

__all__ = ['rows_table']


def rows_table(ledger: Ledger, method: str | None = None, dataset: str | None = None, *, narrow: bool = False) -> Table:
    """Rows with what is published and what was measured of them.

    Args:
        ledger: The ledger.
        method: Only this method.
        dataset: Only datasets with this in their name.
        narrow: One column; names of rows are long, and cut into pieces they cannot be copied.

    Returns:
        The table.
    """
    records = read_records(ledger)
    titles = ('row', 'dataset', 'published', 'measured here', 'training', 'checkpoint')
    table = Table(caption='per cent; "measured here" is the newest record in results/', box=SIMPLE_HEAD)
    table.add_column(titles[0], no_wrap=True, overflow='ignore')
    for title in () if narrow else titles[1:]:
        table.add_column(title, overflow='fold')
    for row in ledger.select(method, dataset):
        cells = (row.dataset, _published(row), _measured(row, records), _training(row), _checkpoint(row))
        if narrow:
            table.add_row(row.name)
            told = [f'    {title}: {text}' for title, text in zip(titles[1:], cells, strict=True) if text]
            table.add_row('\n'.join(told), style='dim')
        else:
            table.add_row(row.name, *cells)
    return table


def _values(values: dict[str, float]) -> str:
    return ', '.join(f'{name} {value}' for name, value in values.items())


def _published(row: Row) -> str:
    return _values(dict(row.published)) or ('' if row.mini else NOT_IN_SOURCES)


def _measured(row: Row, records: Records) -> str:
    newest = [records.newest(row.name, scale) for scale in ('single', 'multi')]
    texts = [f'{_values(dict(entry[1].metrics))} ({entry[1].verdict})' for entry in newest if entry is not None]
    return '; '.join(texts) or 'not measured'


def _training(row: Row) -> str:
    if row.config is None:
        return 'no config here'
    schedule = [f'{row.metadata[name]} {name.lower()}' for name in ('Iterations', 'Epochs') if name in row.metadata]
    return ', '.join([str(row.metadata.get('Training Resources', '')), *schedule])


def _checkpoint(row: Row) -> str:
    if row.weights:
        return f'known, {row.collection.licence}'
    return 'train it (--train)' if row.mini else ''
