"""From a row of the ledger to a record: dataset, checkpoint, conversion, evaluation, comparison."""

from __future__ import annotations

import copy
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from rich.console import Console
from rich.table import Table

from mmvit_ext.checkpoints.convert import convert
from mmvit_ext.checkpoints.downloads import cache_folder, fetch
from mmvit_ext.checkpoints.newest import newest_checkpoint
from mmvit_ext.checkpoints.reading import extract_state_dict, read_checkpoint
from mmvit_ext.checkpoints.report import weights_report
from mmvit_ext.checks.layouts import check_layout, draw_mini_data
from mmvit_ext.config.building import discard_pretrained
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.engine.testing import test
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path, is_remote, sha256_of, writable_folder
from mmvit_ext.machine import commit_of, describe_hardware, library_versions

from .ledger import Ledger, Row
from .records import Record, compare, expected_values, file_record, filed_path, measured_values, read_records

__all__ = [
    'Checkpoint',
    'evaluate_row',
    'find_checkpoint',
    'load_row_config',
    'print_record',
    'usable_checkpoint',
]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a row.

    Args:
        path: The file.
        origin: Where it comes from, in words.
    """

    path: Path
    origin: str


def work_folder(row: Row, work_dir: str | None) -> Path:
    """The folder of a row's logs, checkpoints and unfiled records: where ``tools/train.py`` puts them, too.

    Args:
        row: The row.
        work_dir: Another folder.
    """
    return Path(work_dir or Path('work_dirs') / row.name)


def load_row_config(
    ledger: Ledger, row: Row, data_root: str | None, cfg_options: Mapping[str, Any] | None
) -> tuple[Config, dict[str, Any]]:
    """The config of a row, its data where they are. The mini data are drawn if they are not there.

    Args:
        ledger: The ledger.
        row: The row.
        data_root: Where the dataset is; by default where the config says.
        cfg_options: Further overrides by dotted key.

    Returns:
        The config, and all overrides.
    """
    options = {**({'data_root': data_root} if data_root else {}), **(cfg_options or {})}
    path = ledger.root / str(row.config)
    cfg = load_config(path, options)
    if row.mini and draw_mini_data(cfg.data_root):
        print(f'The mini dataset was not there: it was drawn, {cfg.data_root} is in it.')
    init_default_scope(prepare_scope(cfg))
    return cfg, options


def find_checkpoint(
    row: Row, given: str | None, folder: Path, cache: Path, *, offline: bool = False, progress: bool = True
) -> Checkpoint:
    """The checkpoint to evaluate: the given one, the newest that was trained here, or the one of the ledger.

    Args:
        row: The row.
        given: A file or an address.
        folder: Where a training of the row would have left its checkpoints.
        cache: Where downloads are kept.
        offline: Do not use the network.
        progress: Whether to show a progress bar.

    Returns:
        The checkpoint.

    Raises:
        UserError: There is none, or it cannot be fetched.
    """
    if given is not None and not is_remote(given):
        path = Path(given).expanduser()
        if not path.is_file():
            raise UserError(f'--checkpoint {given} does not exist: check the path')
        return Checkpoint(path, 'a file that was given')
    if given is None and folder.is_dir():
        try:
            trained = newest_checkpoint(folder).path
        except UserError as error:
            raise UserError(
                f'{folder} has a training without a sound checkpoint ({error}): pass --checkpoint'
            ) from error
        if trained is not None:
            return Checkpoint(Path(trained), 'trained here')
    url = given or row.weights
    if url is None:
        ways = f'train the row (--train), or pass --checkpoint FILE; no checkpoint is in {folder}'
        if row.mini:
            raise UserError(f'{row.name} is a row of ours, whose checkpoint everybody trains: {ways}')
        raise UserError(
            f"where the authors' checkpoint of {row.name} can be fetched is not known (they put theirs: "
            f'{row.collection.where}): {ways}'
        )
    known = row.sha256 if url == row.weights else None
    return Checkpoint(fetch(url, cache, sha256=known, offline=offline, progress=progress), url)


def usable_checkpoint(
    checkpoint: Checkpoint, sha256: str, cfg: Config, row: Row, cache: Path, *, trust: bool = False
) -> tuple[Path, str | None]:
    """A checkpoint with the names of this package, converted where it has others.

    Args:
        checkpoint: The checkpoint.
        sha256: Of its file.
        cfg: The row's config, its scope prepared.
        row: The row.
        cache: Where a converted file is kept.
        trust: Read a file that holds more than tensors with pickle, which runs code from it.

    Returns:
        The file, and the name of the converter if one was used.

    Raises:
        UserError: The file cannot be read, or fits neither as it is nor converted.
    """
    path = checkpoint.path
    state = extract_state_dict(read_checkpoint(path, trust=trust), path)
    model = copy.deepcopy(cfg.model)
    discard_pretrained(model)
    if 'data_preprocessor' not in model and cfg.get('data_preprocessor'):
        model.data_preprocessor = copy.deepcopy(cfg.data_preprocessor)
    ours = MODELS.build(model).state_dict()
    report = weights_report(ours, state)
    method = row.collection.converter
    if report.exact or method is None:
        return path, None  # the test itself refuses what does not fit
    try:
        converted = convert(state, method)
    except ValueError as error:
        if report.matched:
            return path, None
        raise UserError(
            f'{path} fits {row.name} neither as it is ({report}) nor converted ({method}: {error}): pass the '
            'checkpoint that belongs to this row'
        ) from error
    if len(weights_report(ours, converted).matched) <= len(report.matched):
        return path, None
    target = cache / 'converted' / f'{sha256[:16]}_{method}.pth'
    with atomic_path(target) as file:
        torch.save({'state_dict': converted, 'meta': {'source': path.name, 'method': method}}, file)
    print(f'{path.name} was converted ({method}): {target}')
    return target, method


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
    progress: bool = True,
) -> Record:
    """Evaluate a checkpoint of a row with the paper's test settings and compare it with what was published.

    Args:
        ledger: The ledger.
        row: The row.
        data_root: Where the dataset is; by default where the config says.
        checkpoint: File or address; by default what :func:`find_checkpoint` finds.
        multi_scale: Test-time augmentation. Rows of which nothing else is published have it anyway.
        cache_dir: Where downloads are kept.
        offline: Do not use the network.
        gpus: Processes, one per GPU; by default one for each GPU, and one on the CPU without any.
        work_dir: Folder of the logs and the record.
        cfg_options: Overrides of the config, such as ``test_dataloader.num_workers``.
        trust: Read a checkpoint that holds more than tensors with pickle, which runs code from it.
        command: What was typed, for the record.
        progress: Whether to show progress bars.

    Returns:
        The record; it is in the work folder, too.

    Raises:
        UserError: The dataset is not complete, or there is no checkpoint that fits.
    """
    multi = multi_scale or row.multi_scale_only
    scale = 'multi' if multi else 'single'
    folder = writable_folder(work_folder(row, work_dir), '--work-dir')
    cache = Path(cache_dir).expanduser() if cache_dir else cache_folder()
    cfg, options = load_row_config(ledger, row, data_root, cfg_options)
    if multi and 'tta_pipeline' not in cfg:
        raise UserError(f'{row.config} has no tta_pipeline: the row cannot be tested at several scales')
    (count,) = check_layout(cfg, row.dataset, ['test'], tested_on=row.tested_on)
    print(f'{row.dataset}, {row.split}: {count}')
    source = find_checkpoint(row, checkpoint, folder, cache, offline=offline, progress=progress)
    sha256 = sha256_of(source.path)
    print(f'checkpoint {source.path} ({source.origin}), SHA-256 {sha256}')
    if row.weights and source.origin == row.weights and not row.sha256:
        print('The ledger has no hash of it: whether it is the right file is not known.')
    path, converter = usable_checkpoint(source, sha256, cfg, row, cache, trust=trust)
    processes = process_count(gpus)
    date, start = datetime.now(timezone.utc).replace(microsecond=0), time.monotonic()
    results = _test(ledger, row, path, folder, options, multi=multi, processes=processes, trust=trust)
    seconds = time.monotonic() - start
    measured = measured_values(row, scale, results)
    records = read_records(ledger)
    expected, _ = expected_values(ledger, row, scale, records)
    difference, verdict = compare(measured, expected, row.tolerance)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    record = Record(
        row=row.name,
        scale=scale,
        command=command,
        commit=commit_of(ledger.root),
        date=date.isoformat(),
        seconds=round(seconds, 1),
        versions=library_versions(),
        hardware={**describe_hardware(device), 'processes': str(processes)},
        dataset={'name': row.dataset, 'split': row.split, 'images': count.images},
        checkpoint={'name': source.path.name, 'sha256': sha256, 'origin': source.origin, 'converter': converter},
        metrics=measured,
        expected=expected,
        difference=difference,
        tolerance=row.tolerance,
        verdict=verdict,
    )
    file_record(record, folder / f'record_{scale}.json')
    return record


def process_count(gpus: int | None) -> int:
    """How many processes work, one per GPU.

    Args:
        gpus: How many GPUs are wanted; by default all there are.

    Returns:
        The number, 1 without a GPU.

    Raises:
        UserError: More are wanted than are there.
    """
    there = torch.cuda.device_count()
    if gpus is not None and not 1 <= gpus <= max(1, there):
        raise UserError(f'--gpus {gpus}: this machine has {there} GPUs, expected 1 to {max(1, there)}')
    return gpus or max(1, there)


def _test(
    ledger: Ledger,
    row: Row,
    path: Path,
    folder: Path,
    options: Mapping[str, Any],
    *,
    multi: bool,
    processes: int,
    trust: bool,
) -> dict[str, float]:
    """What ``tools/test.py`` measures, in this process or in one per GPU."""
    config = str(ledger.root / str(row.config))
    if processes == 1:
        return test(config, str(path), work_dir=str(folder), tta=multi, cfg_options=dict(options), trust=trust)
    out = folder / 'metrics.json'
    command = ['bash', str(ledger.root / 'tools' / 'dist_test.sh'), config, str(path), str(processes)]
    command += ['--out', str(out), '--work-dir', str(folder), *(['--tta'] if multi else [])]
    command += [*(['--trust'] if trust else []), *option_arguments(options)]
    if run_tool(command):
        raise UserError(f'the evaluation of {path} on {processes} GPUs failed: the reason stands above')
    return json.loads(out.read_text(encoding='utf-8'))


def option_arguments(options: Mapping[str, Any]) -> list[str]:
    """Overrides as arguments of a command.

    Args:
        options: Values by dotted key.
    """
    if not options:
        return []
    texts = {
        key: '[' + ','.join(map(str, value)) + ']' if isinstance(value, list | tuple) else str(value)
        for key, value in options.items()
    }
    return ['--cfg-options', *(f'{key}={text}' for key, text in texts.items())]


def run_tool(command: list[str]) -> int:
    """Run one of the package's own commands.

    Args:
        command: The command and its arguments.

    Returns:
        Its exit code; of a failure it has told the reason itself.
    """
    print(f'$ {shlex.join(command)}', flush=True)
    with subprocess.Popen(command, env={**os.environ, 'PYTHON': sys.executable}) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # it reached the command as well, which has something to save


def check_checkout(ledger: Ledger, option: str) -> None:
    """Refuse what writes into the ledger's folder where that is an installed package.

    Args:
        ledger: The ledger.
        option: The argument that asked for it.

    Raises:
        UserError: It is one.
    """
    if ledger.root.name == '.mim':
        raise UserError(
            f'{option} writes into a checkout, and this is the installed package {ledger.root.parent}: run it in a '
            'clone of the repository'
        )


def file_in_results(ledger: Ledger, record: Record) -> str:
    """File a record under ``results/``.

    Args:
        ledger: The ledger.
        record: The record.

    Returns:
        Its path relative to the ledger's root.
    """
    path = filed_path(record)
    file_record(record, ledger.root / path)
    return path


def print_record(record: Record, why: str, console: Console) -> None:
    """Show what was measured, and what it is compared with.

    Args:
        record: The record.
        why: What the expected values are, or why there are none.
        console: Where to.
    """
    table = Table(title=f'{record.row} ({record.scale} scale)')
    for title in ('metric', 'measured', 'expected', 'difference'):
        table.add_column(title, justify='left' if title == 'metric' else 'right')
    for name in dict.fromkeys([*record.metrics, *record.expected]):
        cells = (record.metrics.get(name), record.expected.get(name), record.difference.get(name))
        texts = [
            '' if value is None else f'{value:+.2f}' if index == 2 else str(value) for index, value in enumerate(cells)
        ]
        table.add_row(name, *texts)
    console.print(table)
    console.print(f'expected: {why}; tolerance: {record.tolerance:g} points', soft_wrap=True)
    console.print(f'verdict: {record.verdict}')
