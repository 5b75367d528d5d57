"""Starting a row's recipe on the GPUs at hand, which are seldom those of the paper."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from mmvit_ext.checks.batch_size import batch_size_of
from mmvit_ext.checks.layouts import check_layout
from mmvit_ext.errors.user_error import UserError

from .ledger import Ledger, Row
from .rescore import load_row_config, option_arguments, process_count, run_tool, work_folder

__all__ = ['TrainingPlan', 'plan_training', 'train_row']


@dataclass(frozen=True)
class TrainingPlan:
    """How a recipe is run.

    Args:
        processes: One per GPU.
        per_process: Images per process and iteration.
        base: The recipe's total batch size.
        options: Overrides of the config by dotted key.
        changes: What differs from the recipe, in words; empty when nothing does.
    """

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
    """Fit a recipe to a number of GPUs.

    Each GPU gets as many images as in the recipe unless told otherwise. The learning rate follows the total batch size
    in proportion, and a schedule in iterations becomes longer or shorter so that as many images are seen.

    Args:
        cfg: The recipe.
        processes: GPUs, or 1 for the CPU.
        images_per_gpu: Images per GPU and iteration.

    Returns:
        The plan.

    Raises:
        UserError: The config does not say what its batch size is.
    """
    size = batch_size_of(cfg, processes)
    if size is None or size.base is None:
        raise UserError(
            f'{cfg.filename} does not tell train_dataloader.batch_size and auto_scale_lr.base_batch_size: a row needs '
            'both'
        )
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
        scaled = _scaled_schedule(cfg, size.base / total)
        for key, (old, new) in scaled.items():
            options[key] = new
            if key == 'train_cfg.max_iters':
                changes.append(f'iterations: {new} instead of {old}, so that as many images are seen')
        if scaled and 'train_cfg.max_iters' not in scaled:
            changes.append('warm-up: as many images as in the recipe')
        keep = size.base // processes
        if keep * processes == size.base:
            changes.append(f'--images-per-gpu {keep} keeps all of this as in the recipe, where the memory allows it')
    return TrainingPlan(processes, per_process, size.base, options, tuple(changes))


def _scaled_schedule(cfg: Config, factor: float) -> dict[str, tuple[int, int]]:
    """Old and new value of whatever counts iterations, by dotted key."""
    places: dict[str, int] = {}
    loop = cfg.get('train_cfg') or {}
    in_iterations = 'max_iters' in loop
    if in_iterations:
        places |= {
            f'train_cfg.{key}': loop[key] for key in ('max_iters', 'val_interval') if isinstance(loop.get(key), int)
        }
        checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
        if isinstance(checkpoint.get('interval'), int) and not checkpoint.get('by_epoch', True):
            places['default_hooks.checkpoint.interval'] = checkpoint['interval']
    schedulers = cfg.get('param_scheduler') or []
    many = isinstance(schedulers, list | tuple)
    for index, scheduler in enumerate(schedulers if many else [schedulers]):
        if scheduler.get('by_epoch', True) or scheduler.get('convert_to_iter_based'):
            continue
        prefix = f'param_scheduler.{index}' if many else 'param_scheduler'
        for key in ('begin', 'end', 'T_max'):
            if isinstance(scheduler.get(key), int) and scheduler[key] > 0:
                places[f'{prefix}.{key}'] = scheduler[key]
    return {key: (old, max(1, round(old * factor))) for key, old in places.items()}


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
    amp: bool = False,
) -> int:
    """Check the dataset, say what is scaled and train.

    Args:
        ledger: The ledger.
        row: The row.
        data_root: Where the dataset is; by default where the config says.
        gpus: Processes, one per GPU; by default one for each GPU, and one on the CPU without any.
        images_per_gpu: Images per GPU and iteration, by default the recipe's.
        work_dir: Folder of the logs and checkpoints. An interrupted training in it is gone on with.
        cfg_options: Further overrides of the config.
        seed: Of every random generator.
        amp: Mixed precision.

    Returns:
        The exit code of the training.

    Raises:
        UserError: The dataset is not complete.
    """
    folder = work_folder(row, work_dir)
    cfg, options = load_row_config(ledger, row, data_root, cfg_options)
    for count in check_layout(cfg, row.dataset, ['train', 'val'], tested_on=row.tested_on):
        print(f'{row.dataset}, {count}')
    plan = plan_training(cfg, process_count(gpus), images_per_gpu)
    print(f'{plan.where} x {plan.per_process} images, recipe: {row.metadata.get("Training Resources")}')
    for change in plan.changes:
        print(f'  {change}')
    config, tools = str(ledger.root / str(row.config)), ledger.root / 'tools'
    if plan.processes == 1:
        command = [sys.executable, str(tools / 'train.py'), config]
    else:
        command = ['bash', str(tools / 'dist_train.sh'), config, str(plan.processes)]
    command += ['--work-dir', str(folder), '--resume', '--auto-scale-lr', *(['--amp'] if amp else [])]
    command += [] if seed is None else ['--seed', str(seed)]
    return run_tool([*command, *option_arguments({**plan.options, **options})])
