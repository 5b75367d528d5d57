"""Records: what was measured of a row, how, where and when, and whether it agrees with what was published.

Filed ones are ``results/ROW/DATE_SCALE_CHECKPOINT.json``; the model zoo pages show the newest of a row and scale, or of
each of its seeds.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path, free_name, regular_file

from .ledger import BESIDE, MAIN_METRICS, METRICS, Ledger, Row

__all__ = ['Record', 'compare', 'expected_values', 'file_in_results', 'measured_values', 'newest']
__all__ += ['newest_of_seeds', 'read_records']

FOLDER = 'results'
REPRODUCED, MISSED, BETTER, OPEN = 'reproduced', 'missed', 'better', 'nothing to compare with'


@dataclass(frozen=True)
class Record:
    """One evaluation."""

    row: str
    scale: str  # single, or multi for test-time augmentation
    command: str
    commit: str
    date: str  # when it began: UTC, ISO 8601
    seconds: float  # wall-clock time of the evaluation
    versions: Mapping[str, str]
    hardware: Mapping[str, str]
    dataset: Mapping[str, Any]  # name, split and number of images
    checkpoint: Mapping[str, Any]  # file name, SHA-256, origin, the converter if one was used, and the seed if known
    metrics: Mapping[str, float]  # measured values in per cent, by the names of the ledger
    expected: Mapping[str, float]  # the published values, or those of the row's reference
    difference: Mapping[str, float]  # measured minus expected, in points
    tolerance: float
    verdict: str  # REPRODUCED, MISSED (worse by more than the tolerance), BETTER (by more, none worse) or OPEN


Records = Mapping[str, Record]  # filed ones by their paths relative to the ledger's root


def newest(records: Records, row: str, scale: str) -> tuple[str, Record] | None:
    """Path and content of the newest record of a row and scale, if there is one."""
    found = [entry for entry in records.items() if (entry[1].row, entry[1].scale) == (row, scale)]
    return max(found, key=lambda entry: entry[1].date, default=None)


def newest_of_seeds(records: Records, row: str, scale: str) -> dict[int | None, tuple[str, Record]]:
    """The newest record of each seed by seed; the newest of all under None if its seed is not known."""
    entries = [entry for entry in records.items() if (entry[1].row, entry[1].scale) == (row, scale)]
    entries.sort(key=lambda entry: entry[1].date)
    found = {entry[1].checkpoint.get('seed'): entry for entry in entries}
    if entries and entries[-1] is found.get(None):
        return {None: entries[-1]}
    return {seed: found[seed] for seed in sorted(seed for seed in found if seed is not None)}


def read_records(ledger: Ledger) -> Records:
    """Read all filed records; raises ``UserError`` for a file that is none, or that belongs to no row of the ledger."""
    names = {row.name for row in ledger.rows}
    records = {}
    for path in sorted((ledger.root / FOLDER).glob('*/*.json')):
        record = _read_record(path)
        if record.row not in names or path.parent.name != record.row:
            raise UserError(f'{path} is a record of {record.row!r}: expected a row of the ledger, in its folder')
        records[path.relative_to(ledger.root).as_posix()] = record
    return records


def _read_record(path: Path) -> Record:
    try:
        content = json.loads(regular_file(path, 'record').read_text(encoding='utf-8'))
        names = {field.name for field in fields(Record)}
        if not isinstance(content, dict) or set(content) != names:
            raise ValueError(f'expected the keys {sorted(names)}')
    except (OSError, ValueError) as error:
        raise UserError(f'{path} is no record: {error}; make it again with tools/reproduce.py --record') from error
    return Record(**content)


def measured_values(row: Row, scale: str, results: Mapping[str, float]) -> dict[str, float]:
    """The main metrics of a row, the published ones of a scale and those of classes, in per cent, if measured.

    Of a row without published metrics all that there are.
    """
    multi = scale == 'multi'
    names = [name for name in row.absolute if METRICS[name].multi_scale == multi]
    several = {metric.key: name for name, metric in METRICS.items() if metric.multi_scale and multi}
    names += [several.get(METRICS[name].key, name) for name in (*MAIN_METRICS.get(row.task, ()), *row.differences)]
    if not row.published:
        names += [name for name, metric in METRICS.items() if metric.multi_scale == multi]
    metrics = {name: METRICS[name] for name in names if METRICS[name].key in results}
    beside = {name: round(float(value), 2) for name, value in results.items() if name.startswith(BESIDE)}
    return {name: round(float(results[metric.key]) * metric.factor, 2) for name, metric in metrics.items()} | beside


def expected_values(ledger: Ledger, row: Row, scale: str, records: Records) -> tuple[dict[str, float], str]:
    """What a measurement of a row should be, by metric, and where these values come from or why there are none."""
    multi = scale == 'multi'
    if published := {name: value for name, value in row.absolute.items() if METRICS[name].multi_scale == multi}:
        return published, 'published'
    if row.differences and not multi:
        entry = newest(records, row.baseline or '', scale)
        if entry is None:
            return {}, f'only a difference to the row {row.baseline} is published: measure that one with --record first'
        known = entry[1].metrics
        expected = {name: round(known[name] + gain, 2) for name, gain in row.differences.items() if name in known}
        return expected, f'the published difference added to {entry[0]}'
    if row.reference is not None and (reference := _read_record(ledger.root / row.reference)).scale == scale:
        compared = {name: value for name, value in reference.metrics.items() if name in METRICS}
        return compared, f'our own {row.reference}'
    return {}, 'no figure is published for this setting'


def compare(
    measured: Mapping[str, float], expected: Mapping[str, float], tolerance: float
) -> tuple[dict[str, float], str]:
    """The differences of measured and expected values, and the verdict; what was not measured counts as missed."""
    difference = {name: round(measured[name] - value, 2) for name, value in expected.items() if name in measured}
    if not expected:
        return {}, OPEN
    slack = tolerance + 1e-6  # 54.8 - 54.6 is a little more than 0.2
    worse = {name for name, metric in METRICS.items() if metric.lower_is_better}
    gains = [-value if name in worse else value for name, value in difference.items()]
    if len(gains) < len(expected) or min(gains) < -slack:
        return difference, MISSED
    return difference, BETTER if max(gains) > slack else REPRODUCED


def check_checkout(ledger: Ledger, option: str) -> None:
    """Refuse an option that writes into the ledger's folder where that is an installed package."""
    if ledger.root.name == '.mim':
        found = f'{ledger.root.parent} is an installed package'
        raise UserError(f'{option} writes into a checkout, and {found}: run it in a clone of the repository')


def file_record(record: Record, path: Path) -> None:
    """Write a record to a JSON file."""
    with atomic_path(path) as file:
        file.write_text(json.dumps(asdict(record), indent=2) + '\n', encoding='utf-8')


def file_in_results(ledger: Ledger, record: Record) -> str:
    """File a record under ``results/``; returns its path relative to the ledger's root."""
    digits = str(record.checkpoint['sha256'])[:8]
    path = free_name(ledger.root / FOLDER / record.row / f'{record.date[:10]}_{record.scale}_{digits}.json')
    file_record(record, path)
    return path.relative_to(ledger.root).as_posix()
