"""The total batch size against the one that the recipe's learning rate was chosen for."""

from typing import NamedTuple

from mmengine.config import Config

__all__ = ['BatchSize', 'batch_size_of']


class BatchSize(NamedTuple):
    """What one optimiser step sees, beside what the recipe's learning rate was chosen for."""

    processes: int  # GPUs
    per_process: int  # images per process and forward pass
    accumulation: int  # forward passes per optimiser step
    base: int | None  # the recipe's total batch size, None when the config does not state it
    lr: float | None  # in the config, None when it does not state one
    scaled: bool  # whether mmengine scales the learning rate to the batch size (--auto-scale-lr)

    @property
    def total(self) -> int:
        return self.processes * self.per_process * self.accumulation

    @property
    def factor(self) -> float | None:
        return self.total / self.base if self.base else None

    @property
    def used_lr(self) -> float | None:
        """The learning rate that training starts from; mmengine's scaling leaves the accumulation out."""
        if self.lr is None or not self.scaled or not self.base:
            return self.lr
        return self.lr * self.processes * self.per_process / self.base

    def __str__(self) -> str:
        parts = f'{self.processes} processes x {self.per_process} images x {self.accumulation} accumulated'
        text = f'total batch size {self.total} = {parts}'
        text += f', recipe {self.base}' if self.base else ', recipe unknown (no auto_scale_lr.base_batch_size)'
        if self.used_lr is not None:
            text += f', learning rate {self.used_lr:g}'
            if self.scaled and self.used_lr != self.lr:
                text += f' (scaled from {self.lr:g})'
        return text

    def warning(self) -> str | None:
        """A warning for a batch size and learning rate that do not belong together, ``None`` when they do."""
        if self.factor is None or self.lr is None or (self.accumulation if self.scaled else self.factor) == 1:
            return None
        fitting = f'{self.lr * self.factor:g}'
        if self.scaled:
            fault = f'--auto-scale-lr leaves the {self.accumulation} accumulated passes out'
            return f'{fault}: the learning rate is {self.used_lr:g}, a total batch size of {self.total} needs {fitting}'
        fault = (
            f"the total batch size is {self.factor:g} times the recipe's {self.base}, but the learning rate {self.lr:g}"
        )
        remedy = f'pass --auto-scale-lr to use {fitting}, or change train_dataloader.batch_size or accumulative_counts'
        return f'{fault} belongs to {self.base}: {remedy}'


def batch_size_of(cfg: Config, processes: int) -> BatchSize | None:
    """Read the batch size of a run with so many processes from a config, ``None`` when it does not state one."""
    loader = cfg.get('train_dataloader') or {}
    per_process = loader.get('batch_size') or (loader.get('batch_sampler') or {}).get('batch_size')
    if not isinstance(per_process, int):
        return None
    scaling = cfg.get('auto_scale_lr') or {}
    wrapper = cfg.get('optim_wrapper') or {}
    lr = (wrapper.get('optimizer') or {}).get('lr')
    rate = float(lr) if isinstance(lr, int | float) else None
    accumulation, scaled = int(wrapper.get('accumulative_counts', 1)), bool(scaling.get('enable', False))
    return BatchSize(processes, per_process, accumulation, scaling.get('base_batch_size'), rate, scaled)
