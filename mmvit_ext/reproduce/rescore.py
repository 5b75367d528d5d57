"""Evaluate a row of the ledger: dataset, checkpoint, conversion, test, comparison, record."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmvit_ext.checkpoints.convert import convert
from mmvit_ext.checkpoints.downloads import cache_folder, fetch
from mmvit_ext.checkpoints.newest import newest_checkpoint
from mmvit_ext.checkpoints.reading import extract_state_dict, read_checkpoint
from mmvit_ext.checkpoints.report import weights_report
from mmvit_ext.checks.layouts import check_layout
from mmvit_ext.config.building import build_model, resolve_device
from mmvit_ext.engine.testing import test
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path, is_remote, sha256_of, writable_folder
from mmvit_ext.machine import commit_of, describe_hardware, library_versions

from .ledger import Ledger, Row
from .records import Record, compare, expected_values, file_record, measured_values, read_records
from .training import load_row_config, process_count, run_tool, work_folder

__all__ = ['Checkpoint', 'evaluate_row', 'fetch_checkpoint', 'usable_checkpoint']

TRAINED = 'trained here'


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, its SHA-256, and its origin: an address or a few words."""

    path: Path
    sha256: str
    origin: str


def fetch_checkpoint(row: Row, given: str | None, folder: Path, cache: Path, *, offline: bool = False) -> Checkpoint:
    """The checkpoint to evaluate: the given one, the newest that was trained here, or the one of the ledger."""
    if given is not None and not is_remote(given):
        path = Path(os.path.expanduser(given))
        if not path.is_file():
            raise UserError(f'--checkpoint {given} does not exist: check the path')
        return Checkpoint(path, sha256_of(path), 'a file that was given')
    if given is None and folder.is_dir():
        try:
            trained = newest_checkpoint(folder).path
        except UserError as error:
            raise UserError(f'{folder} has no sound checkpoint ({error}): pass --checkpoint') from error
        if trained is not None:
            return Checkpoint(Path(trained), sha256_of(trained), TRAINED)
    url = given or row.weights
    if url is None:
        known = f"the authors' checkpoint of {row.name} has no known address (they put theirs: {row.collection.where})"
        ways = 'train the row (--train), or pass --checkpoint FILE'
        if row.ours:
            known = f'{row.name} is a row of ours, whose checkpoint everybody trains'
        elif row.folder:
            known = f'the checkpoint of {row.name} is in {row.folder}'
            ways = f'download {row.file} there in a browser and pass --checkpoint FILE'
        raise UserError(f'{known}: {ways}; none is in {folder}')
    digits, name = (row.sha256, row.file) if url == row.weights else (None, None)
    path = fetch(url, cache, sha256=digits, name=name, offline=offline)
    return Checkpoint(path, sha256_of(path), url)


def usable_checkpoint(
    checkpoint: Checkpoint, cfg: Config, row: Row, cache: Path, *, trust: bool = False
) -> tuple[Path, str | None]:
    """Convert a checkpoint to this package's names where it has others; returns the file, and the converter if used."""
    path, method = checkpoint.path, row.collection.converter
    if method is None:
        return path, None  # the test itself refuses what does not fit
    state = extract_state_dict(read_checkpoint(path, trust=trust), path)
    ours = build_model(cfg, device='meta').state_dict()
    report = weights_report(ours, state)
    if report.exact:
        return path, None
    try:
        converted = convert(state, method)
    except ValueError as error:
        if report.matched:
            return path, None
        reason = f'{path} fits {row.name} neither as it is ({report}) nor converted ({method}: {error})'
        raise UserError(f'{reason}: pass the checkpoint that belongs to this row') from error
    if len(weights_report(ours, converted).matched) <= len(report.matched):
        return path, None
    target = cache / 'converted' / f'{checkpoint.sha256[:16]}_{method}.pth'
    with atomic_path(target) as file:
        torch.save({'state_dict': converted, 'meta': {'source': path.name, 'method': method}}, file)
    print(f'{path.name} was converted ({method}): {target}')
    return target, method


def _description(checkpoint: Checkpoint, converter: str | None, trust: bool) -> dict[str, Any]:
    """What a record says of a checkpoint, with the seed of its training if that was here."""
    described = {
        'name': checkpoint.path.name,
        'sha256': checkpoint.sha256,
        'origin': checkpoint.origin,
        'converter': converter,
    }
    if checkpoint.origin == TRAINED:
        meta = read_checkpoint(checkpoint.path, trust=trust).get('meta') or {}
        described['seed'] = meta.get('seed')
    return described


def evaluate_row(
    ledger: Ledger,
    row: Row,
    *,
    data_root: str | None = None,
    checkpoint: str | None = None,
    multi_scale: bool = False,
    cache_dir: str | None = None,
    offline: bool = False,
    gpus: int | None = None,
    work_dir: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    trust: bool = False,
    command: str = '',
) -> Record:
    """Measure a row as it was published, compare, and write the record to the work folder too."""
    scale = 'multi' if multi_scale or row.multi_scale_only else 'single'
    folder = writable_folder(work_folder(row, work_dir), '--work-dir')
    cache = Path(os.path.expanduser(cache_dir)) if cache_dir else cache_folder()
    cfg, options = load_row_config(ledger, row, data_root, cfg_options)
    if scale == 'multi' and 'tta_pipeline' not in cfg:
        raise UserError(f'{row.config} has no tta_pipeline: the row cannot be tested at several scales')
    (count,) = check_layout(cfg, row.dataset, ['test'], tested_on=row.tested_on)
    print(f'{row.dataset}, {row.split}: {count}')
    records = read_records(ledger)  # before a long test: one that is out of place would end it without a record
    source = fetch_checkpoint(row, checkpoint, folder, cache, offline=offline)
    print(f'checkpoint {source.path} ({source.origin}), SHA-256 {source.sha256}')
    if row.weights and source.origin == row.weights and not row.sha256:
        print('The ledger has no hash of it: whether it is the right file is not known.')
    path, converter = usable_checkpoint(source, cfg, row, cache, trust=trust)
    processes = process_count(gpus)
    date, start = datetime.now(timezone.utc).replace(microsecond=0), time.monotonic()
    config, tta = str(ledger.root / str(row.config)), scale == 'multi'
    if processes == 1:
        results = test(config, str(path), work_dir=str(folder), tta=tta, cfg_options=options, trust=trust)
    else:
        out = folder / 'metrics.json'
        arguments = ['--out', str(out), '--force', '--work-dir', str(folder)]  # of an earlier evaluation
        arguments += [*(['--tta'] if tta else []), *(['--trust'] if trust else [])]
        if run_tool(ledger, 'test', [config, str(path)], processes, arguments, options):
            raise UserError(f'the evaluation of {path} on {processes} GPUs failed: see the reason above')
        results = json.loads(out.read_text(encoding='utf-8'))
    seconds = time.monotonic() - start
    measured = measured_values(row, scale, results)
    expected, _ = expected_values(ledger, row, scale, records)
    difference, verdict = compare(measured, expected, row.tolerance)
    record = Record(
        row=row.name,
        scale=scale,
        command=command,
        commit=commit_of(ledger.root),
        date=date.isoformat(),
        seconds=round(seconds, 1),
        versions=library_versions(),
        hardware={**describe_hardware(resolve_device(None)), 'processes': str(processes)},
        dataset={'name': row.dataset, 'split': row.split, 'images': count.images},
        checkpoint=_description(source, converter, trust),
        metrics=measured,
        expected=expected,
        difference=difference,
        tolerance=row.tolerance,
        verdict=verdict,
    )
    file_record(record, folder / f'record_{scale}.json')
    return record
