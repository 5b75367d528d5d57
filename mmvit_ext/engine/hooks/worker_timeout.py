"""End a run whose data loader gives no batch."""

import signal
import threading
from typing import Any, NoReturn

from mmengine.hooks import Hook
from mmengine.runner import Runner

__all__ = ['WorkerTimeoutHook']

GRACE = 10
"""Seconds that the data loader's own timeout has to come first."""


class WorkerTimeoutHook(Hook):
    """Ends a wait for a batch that PyTorch's timeout of the data loader does not.

    That timeout ends when a worker announces a batch. If the worker is stopped then, the main process waits for ever
    for the memory with the batch.
    """

    priority = 'LOWEST'  # its clock runs after what the other hooks do

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        seconds = getattr(runner, f'{mode}_dataloader').timeout
        if seconds and hasattr(signal, 'SIGALRM') and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGALRM, lambda number, frame: _end(seconds))
            signal.alarm(int(seconds) + GRACE)

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = 'train') -> None:
        if hasattr(signal, 'SIGALRM'):
            signal.alarm(0)

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = 'train'
    ) -> None:
        if mode == 'train' or batch_idx + 1 < len(getattr(runner, f'{mode}_dataloader')):
            self._before_epoch(runner, mode)

    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        self._before_iter(runner, 0)

    def after_run(self, runner: Runner) -> None:
        """Stop the clock."""
        self._before_iter(runner, 0)


def _end(seconds: float) -> NoReturn:
    raise RuntimeError(f'DataLoader timed out after {seconds:.0f} seconds')
