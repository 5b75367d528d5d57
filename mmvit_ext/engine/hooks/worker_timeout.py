"""End a run whose data loader gives no batch."""

import os
import signal
import threading
from multiprocessing.queues import Queue
from typing import Any, NoReturn

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import get_worker_info

__all__ = ['WorkerTimeoutHook']

GRACE = 10  # seconds that the data loader's own timeout has to come first


class WorkerTimeoutHook(Hook):
    """Ends a wait for a batch that PyTorch's timeout of the data loader does not.

    PyTorch's ends when a worker announces a batch. A worker that cannot hand a batch over ends here.
    """

    priority = 'LOWEST'  # its clock runs after what the other hooks do

    def __init__(self) -> None:
        Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]

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


_print_traceback = Queue._on_queue_feeder_error  # type: ignore[attr-defined]


def _end_worker(error: Exception, item: Any) -> None:
    if get_worker_info() is None:
        _print_traceback(error, item)
        return
    os.write(2, f'a data loader worker cannot hand its batch over: {error}\n'.encode())
    os._exit(1)


def _end(seconds: float) -> NoReturn:
    raise RuntimeError(f'DataLoader timed out after {seconds:.0f} seconds')
