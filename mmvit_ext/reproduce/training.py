"""Train a row's recipe on the GPUs at hand, which are seldom those of the paper; what every run of a row needs."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmvit_ext.checks.before_run import batch_size_of
from mmvit_ext.checks.layouts import check_layout, draw_mini_data
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.errors.user_error import UserError

from .ledger import Ledger, Row

__all__ = ['TrainingPlan', 'load_row_config', 'plan_training', 'process_count', 'run_tool', 'train_row', 'work_folder']


def work_folder(row: Row, work_dir: str | None) -> Path:
    """The folder of a row's logs, checkpoints and unfiled records: ``work_dir``, or the default of training."""
    return Path(work_dir or Path('work_dirs') / row.name)


def load_row_config(
    ledger: Ledger, row: Row, data_root: str | None, cfg_options: Mapping[str, Any] | None
) -> tuple[Config, dict[str, Any]]:
    """The config of a row for the data at hand, and all overrides in it; missing mini data are drawn."""
    options = {**({'data_root': data_root} if data_root else {}), **(cfg_options or {})}
    cfg = load_config(ledger.root / str(row.config), options)
    if row.mini and draw_mini_data(cfg.data_root):
        print(f'The mini dataset was not there and has been drawn; it contains {cfg.data_root}.')
    prepare_scope(cfg)
    return cfg, options


def process_count(gpus: int | None) -> int:
    """The number of processes: one per wanted GPU, by default one per GPU of this machine, and 1 without a GPU."""
    available = torch.cuda.device_count()
    if gpus is not None and not 1 <= gpus <= max(1, available):
        raise UserError(f'--gpus {gpus}: this machine has {available} GPUs, expected 1 to {max(1, available)}')
    return gpus or max(1, available)


def run_tool(
    ledger: Ledger, name: str, files: Sequence[str], processes: int, arguments: Sequence[str], options: Mapping
) -> int:
    """Run ``tools/NAME.py``, or ``tools/dist_NAME.sh`` for several processes, and return the exit code."""
    single, several = (f'{ledger.root}/tools/{script}' for script in (f'{name}.py', f'dist_{name}.sh'))
    command = [sys.executable, single, *files] if processes == 1 else ['bash', several, *files, str(processes)]
    command += [*arguments, *(['--cfg-options'] if options else [])]
    for key, value in options.items():
        value = f'"{value}"' if isinstance(value, str) and (' ' in value or ',' in value) else value
        command.append(f'{key}=[{",".join(map(str, value))}]' if isinstance(value, list | tuple) else f'{key}={value}')
    print(f'$ {shlex.join(command)}', flush=True)
    with subprocess.Popen(command, env={**os.environ, 'PYTHON': sys.executable}) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the command has received it as well, and may have something to save


@dataclass(frozen=True)
class TrainingPlan:
    """How a recipe is run: images per process, the recipe's total batch size, overrides, and what differs in words."""

    processes: int
    per_process: int
    base: int
    options: Mapping[str, Any]
    changes: tuple[str, ...]

    @property
    def where(self) -> str:
        """The number of processes, in words."""
        return f'{self.processes} process' + ('es' if self.processes > 1 else '')

    @property
    def total(self) -> int:
        """Images per iteration."""
        return self.processes * self.per_process


def plan_training(cfg: Config, processes: int, images_per_gpu: int | None = None) -> TrainingPlan:
    """Fit a recipe to a number of GPUs: rate proportional to the total batch size, as many images in all."""
    size = batch_size_of(cfg, processes)
    if size is None or size.base is None:
        wanted = 'train_dataloader.batch_size or auto_scale_lr.base_batch_size'
        raise UserError(f'{cfg.filename} lacks {wanted}: a row needs both')
    per_process = size.per_process if images_per_gpu is None else images_per_gpu
    if per_process < 1:
        raise UserError(f'--images-per-gpu {per_process}: expected 1 or more')
    total, options, changes = processes * per_process, {}, []
    if per_process != size.per_process:
        options['train_dataloader.batch_size'] = per_process
        changes.append(f'images per GPU: {per_process} instead of {size.per_process}')
    if total != size.base:
        factor = total / size.base
        changes.append(f'total batch: {total} instead of {size.base}')
        # Several optimisers have several rates, all of which are scaled.
        rate = f'{factor:g} times' if size.lr is None else f'{size.lr * factor:g} instead of {size.lr:g}'
        changes.append(f'learning rate: {rate}')
        old = _counts_of_iterations(cfg)
        options |= (new := {key: max(1, round(value / factor)) for key, value in old.items()})
        if (key := 'train_cfg.max_iters') in new:
            changes.append(f'iterations: {new[key]} instead of {old[key]}, so that as many images are seen')
        elif new:
            changes.append('warm-up: as many images as in the recipe')
        keep = size.base // processes
        if keep * processes == size.base:
            changes.append(f'--images-per-gpu {keep} keeps all of this as in the recipe, where the memory allows it')
    return TrainingPlan(processes, per_process, size.base, options, tuple(changes))


def _counts_of_iterations(cfg: Config) -> dict[str, int]:
    """Whatever a schedule counts in iterations, by dotted key."""
    places: dict[str, Any] = {}
    loop = cfg.get('train_cfg') or {}
    if 'max_iters' in loop:
        places |= {f'train_cfg.{key}': loop.get(key) for key in ('max_iters', 'val_interval')}
        checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
        if not checkpoint.get('by_epoch', True):
            places['default_hooks.checkpoint.interval'] = checkpoint.get('interval')
    schedulers = cfg.get('param_scheduler') or []
    several = isinstance(schedulers, list | tuple)
    for index, scheduler in enumerate(schedulers if several else [schedulers]):
        name = f'param_scheduler.{index}' if several else 'param_scheduler'
        if not scheduler.get('by_epoch', True) and not scheduler.get('convert_to_iter_based'):
            places |= {f'{name}.{key}': scheduler.get(key) or None for key in ('begin', 'end', 'T_max')}
    return {key: value for key, value in places.items() if isinstance(value, int)}


def train_row(
    ledger: Ledger,
    row: Row,
    *,
    data_root: str | None = None,
    gpus: int | None = None,
    images_per_gpu: int | None = None,
    work_dir: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    seed: int | None = None,
    amp: bool | None = None,
) -> int:
    """Check the dataset, say what is scaled, train or resume in ``work_dir``, and return the exit code."""
    folder = work_folder(row, work_dir)
    cfg, options = load_row_config(ledger, row, data_root, cfg_options)
    for count in check_layout(cfg, row.dataset, ['train', 'val'], tested_on=row.tested_on):
        print(f'{row.dataset}, {count}')
    plan = plan_training(cfg, process_count(gpus), images_per_gpu)
    print(f'{plan.where} x {plan.per_process} images, recipe: {row.metadata.get("Training Resources")}')
    for change in plan.changes:
        print(f'  {change}')
    arguments = ['--work-dir', str(folder), '--resume', '--auto-scale-lr']
    arguments += [] if amp is None else ['--amp' if amp else '--no-amp']
    arguments += [] if seed is None else ['--seed', str(seed)]
    config = str(ledger.root / str(row.config))
    return run_tool(ledger, 'train', [config], plan.processes, arguments, {**plan.options, **options})
