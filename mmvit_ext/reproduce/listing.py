"""Rows and records as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .ledger import NOT_IN_SOURCES, Ledger, Row
from .records import Record, Records, read_records

__all__ = ['print_record', 'rows_table']


def rows_table(ledger: Ledger, method: str | None = None, dataset: str | None = None, *, narrow: bool = False) -> Table:
    """Rows, published and measured; ``narrow`` uses one column: a long name over several lines cannot be copied."""
    records = read_records(ledger)
    table = Table(caption='per cent; "measured here" is the newest record in results/', box=SIMPLE_HEAD)
    table.add_column('row', no_wrap=True, overflow='ignore')
    for row in ledger.select(method, dataset):
        told = row.published and not row.mini
        cells = {
            'dataset': row.dataset,
            'published': _values(row.published) or ('' if row.mini else NOT_IN_SOURCES),
            'source': f'{row.source}, {row.table}'.replace(f', {NOT_IN_SOURCES}', '') if told else '',
            'certainty': row.certainty if told else '',
            'measured here': _measured(row, records),
            'training': row.training if row.config else 'no config here',
            'checkpoint': _checkpoint(row),
            'licence': row.collection.licence if row.weights or row.folder else '',
        }
        if narrow:
            table.add_row(row.name)
            table.add_row('\n'.join(f'    {title}: {text}' for title, text in cells.items() if text), style='dim')
            continue
        if len(table.columns) == 1:
            for title in cells:
                table.add_column(title, overflow='fold')
        table.add_row(row.name, *cells.values())
    return table


def _values(values: Mapping[str, float]) -> str:
    return ', '.join(f'{name} {value}' for name, value in values.items())


def _measured(row: Row, records: Records) -> str:
    newest = [records.newest(row.name, scale) for scale in ('single', 'multi')]
    texts = [f'{_values(entry[1].metrics)} ({entry[1].verdict})' for entry in newest if entry is not None]
    return '; '.join(texts) or 'not measured'


def _checkpoint(row: Row) -> str:
    if row.weights:
        digits = f'SHA-256 {row.sha256}' if row.sha256 else 'SHA-256 unknown'
        return f'{row.weights} ({row.file + ", " if row.file else ""}{digits})'
    if row.folder:
        return f'by hand: {row.file} from {row.folder}'
    return 'train it (--train)' if row.mini else ''


def print_record(record: Record, why: str, console: Console) -> None:
    """Show what was measured and what it is compared with; ``why`` says where the expected values come from."""
    table = Table('metric', title=f'{record.row} ({record.scale} scale)')
    for title in ('measured', 'expected', 'difference'):
        table.add_column(title, justify='right')
    for name in dict.fromkeys([*record.metrics, *record.expected]):
        values = [str(part.get(name, '')) for part in (record.metrics, record.expected)]
        table.add_row(name, *values, f'{record.difference[name]:+.2f}' if name in record.difference else '')
    console.print(table)
    console.print(f'expected: {why}; tolerance: {record.tolerance:g} points', soft_wrap=True)
    console.print(f'verdict: {record.verdict}')
