"""Records: what was measured of a row, how, where and when, and whether it is what was published.

A record is a JSON file. Filed ones are ``results/ROW/DATE_SCALE_CHECKPOINT.json`` and fill the measured columns of the
model zoo pages, the newest of a row and scale first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path

from .ledger import MAIN_METRICS, METRICS, Ledger, Row

__all__ = ['Record', 'Records', 'compare', 'expected_values', 'file_record', 'measured_values', 'read_records']

FOLDER = 'results'
SCALES = ('single', 'multi')
REPRODUCED, MISSED, BETTER, OPEN = 'reproduced', 'missed', 'better', 'nothing to compare with'


@dataclass(frozen=True)
class Record:
    """One evaluation.

    Args:
        row: Its row.
        scale: ``single``, or ``multi`` for test-time augmentation.
        command: As it was typed.
        commit: Of the code.
        date: Beginning, UTC, ISO 8601.
        seconds: Wall-clock time of the evaluation.
        versions: By distribution.
        hardware: Processor, threads, device and number of processes.
        dataset: Name, split and number of images.
        checkpoint: File name, SHA-256, where it comes from, and the converter that read it, if one did.
        metrics: What was measured, in per cent, by the names of the ledger.
        expected: What it is compared with: the published values, or those of the row's reference.
        difference: Measured minus expected, in points.
        tolerance: Points.
        verdict: ``reproduced``, ``missed`` (a value is worse by more than the tolerance), ``better`` (one is better
            by more, none worse) or ``nothing to compare with``.
    """

    row: str
    scale: str
    command: str
    commit: str
    date: str
    seconds: float
    versions: Mapping[str, str]
    hardware: Mapping[str, str]
    dataset: Mapping[str, Any]
    checkpoint: Mapping[str, Any]
    metrics: Mapping[str, float]
    expected: Mapping[str, float]
    difference: Mapping[str, float]
    tolerance: float
    verdict: str


class Records:
    """Filed records.

    Args:
        entries: Path relative to the ledger's root, and the record.
    """

    def __init__(self, entries: Sequence[tuple[str, Record]]) -> None:
        self.entries = tuple(sorted(entries, key=lambda entry: entry[1].date))

    def newest(self, row: str, scale: str) -> tuple[str, Record] | None:
        """The newest record of a row.

        Args:
            row: Its name.
            scale: ``single`` or ``multi``.

        Returns:
            Its path and the record, ``None`` where there is none.
        """
        found = [entry for entry in self.entries if (entry[1].row, entry[1].scale) == (row, scale)]
        return found[-1] if found else None


def read_records(ledger: Ledger) -> Records:
    """All filed records.

    Args:
        ledger: The ledger to whose rows they belong.

    Returns:
        The records.

    Raises:
        UserError: A file is no record, or belongs to no row.
    """
    names = {row.name for row in ledger.rows}
    entries = []
    for path in sorted((ledger.root / FOLDER).glob('*/*.json')):
        record = read_record(path)
        if record.row not in names or path.parent.name != record.row:
            raise UserError(
                f'{path} is a record of the row {record.row!r}: expected a row of the ledger, in its folder'
            )
        entries.append((path.relative_to(ledger.root).as_posix(), record))
    return Records(entries)


def read_record(path: Path) -> Record:
    """Read one record.

    Args:
        path: The file.

    Returns:
        The record.

    Raises:
        UserError: The file is none.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        names = {field.name for field in fields(Record)}
        if not isinstance(content, dict) or set(content) != names:
            raise ValueError(f'expected the keys {sorted(names)}')
    except (OSError, ValueError) as error:
        raise UserError(f'{path} is no record: {error}; make it anew with tools/reproduce.py --record') from error
    return Record(**content)


def measured_values(row: Row, scale: str, results: Mapping[str, float]) -> dict[str, float]:
    """What an evaluator measured, by the names of the ledger.

    Args:
        row: The row.
        scale: ``single`` or ``multi``.
        results: By the evaluator's names.

    Returns:
        The main metrics of the row's task and all published ones of that scale, in per cent, as far as they are there.
    """
    multi = scale == 'multi'
    names = [name for name in row.absolute if METRICS[name].multi_scale == multi]
    for name in (*MAIN_METRICS.get(row.task, ()), *row.differences):
        key = METRICS[name].key
        if multi:
            name = next((other for other, metric in METRICS.items() if metric.multi_scale and metric.key == key), name)
        names.append(name)
    return {
        name: round(float(results[METRICS[name].key]) * METRICS[name].factor, 2)
        for name in dict.fromkeys(names)
        if METRICS[name].key in results
    }


def expected_values(ledger: Ledger, row: Row, scale: str, records: Records) -> tuple[dict[str, float], str]:
    """What a measurement of a row should be.

    Args:
        ledger: The ledger.
        row: The row.
        scale: ``single`` or ``multi``.
        records: The filed records.

    Returns:
        Values by metric, and a word on where they come from or why there are none.
    """
    multi = scale == 'multi'
    published = {name: value for name, value in row.absolute.items() if METRICS[name].multi_scale == multi}
    if published:
        return published, 'published'
    if row.differences and not multi:
        entry = records.newest(row.baseline or '', scale)
        if entry is None:
            return {}, (
                f'published is only a difference to the row {row.baseline}: measure that one with --record first'
            )
        known = entry[1].metrics
        expected = {name: round(known[name] + gain, 2) for name, gain in row.differences.items() if name in known}
        return expected, f'the published difference added to {entry[0]}'
    if row.reference is not None:
        reference = read_record(ledger.root / row.reference)
        if reference.scale == scale:
            return dict(reference.metrics), f'our own {row.reference}'
    return {}, 'no figure is published for this setting'


def compare(
    measured: Mapping[str, float], expected: Mapping[str, float], tolerance: float
) -> tuple[dict[str, float], str]:
    """Measured against expected values.

    Args:
        measured: Per cent by metric.
        expected: The same; metrics that were not measured count as missed.
        tolerance: Points.

    Returns:
        The differences, and the verdict.
    """
    difference = {name: round(measured[name] - value, 2) for name, value in expected.items() if name in measured}
    if not expected:
        return {}, OPEN
    slack = tolerance + 1e-6  # 54.8 - 54.6 is a little more than 0.2
    gains = [
        -value if name in METRICS and METRICS[name].lower_is_better else value for name, value in difference.items()
    ]
    if len(gains) < len(expected) or min(gains) < -slack:
        return difference, MISSED
    return difference, BETTER if max(gains) > slack else REPRODUCED


def file_record(record: Record, path: Path) -> None:
    """Write a record.

    Args:
        record: The record.
        path: The JSON file.
    """
    with atomic_path(path) as file:
        file.write_text(json.dumps(asdict(record), indent=2) + '\n', encoding='utf-8')


def filed_path(record: Record) -> str:
    """Where a record is filed, relative to the ledger's root.

    Args:
        record: The record.
    """
    digits = str(record.checkpoint['sha256'])[:8]
    return f'{FOLDER}/{record.row}/{record.date[:10]}_{record.scale}_{digits}.json'
