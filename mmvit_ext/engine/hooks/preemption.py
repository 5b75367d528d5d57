"""A training run that receives a signal to end saves first, and ends with an exit code of its own."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import torch
from mmengine.dist import all_reduce, barrier, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import Runner

from mmvit_ext.errors import EXIT_PREEMPTED
from mmvit_ext.files import is_remote
from mmvit_ext.registry import HOOKS

from .checkpoint import ATOMIC_BACKEND, PREEMPTED_NAME, accumulated_iterations, write_last_checkpoint

__all__ = ['PreemptionHook', 'kept_signal_handlers']


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Saves a checkpoint when the process receives a signal to end, and ends it with exit code 75.

    The iteration in progress is finished and the state is saved as ``preempted.pth``, from which ``--resume`` continues
    and which the next regular checkpoint removes. A second signal has its usual effect. During a validation a single
    process saves at once and the validation is lost; several processes finish it first, one with ``EMAHook`` too.

    Args:
        signals: Names of the signals. A batch system may send another one some time ahead, for example ``'SIGUSR1'``.
        interval: After how many optimizer steps several processes agree on whether one received a signal; 1 or more.
    """

    priority = 'LOWEST'  # after the checkpoint hook, which may just have saved this iteration

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGINT'), interval: int = 10) -> None:
        if isinstance(signals, str) or not all(hasattr(signal, name) for name in signals) or interval < 1:
            wanted = 'names such as SIGTERM, and at least 1'
            raise ValueError(f'PreemptionHook(signals={signals!r}, interval={interval}): expected {wanted}')
        self.signals = [signal.Signals[name] for name in signals]
        self.interval = interval
        self._received: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def before_train(self, runner: Runner) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # whoever started the thread decides about signals
        self._previous = {number: signal.signal(number, self._on_signal) for number in self.signals}
        loaders = [runner.train_dataloader] + ([runner.val_dataloader] if runner.val_loop is not None else [])
        for loader in loaders:
            loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)

    def after_train(self, runner: Runner | None = None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.after_train()
        self._received = signal.Signals(number).name
        # not print(): the signal may have come in the middle of one
        os.write(2, f'{self._received}: saving at the end of this iteration, a second one ends at once\n'.encode())

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        steps, rest = divmod(runner.iter + 1, accumulated_iterations(runner))
        if rest or (runner.world_size > 1 and steps % self.interval):
            return
        told = self._received is not None
        if runner.world_size > 1:
            flag = torch.tensor(int(told))
            all_reduce(flag, op='max')
            told = bool(flag)
        if told and runner.iter + 1 < runner.max_iters:
            self._end(runner, runner.iter + 1)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if not any(isinstance(hook, EMAHook) for hook in runner.hooks):  # which puts the mean in place of the weights
            self.after_val(runner)

    def after_val(self, runner: Runner) -> None:
        alone = self._received is not None and runner.world_size == 1
        if alone and 0 < runner.iter < runner.max_iters and not runner.iter % accumulated_iterations(runner):
            self._end(runner, runner.iter)

    def _end(self, runner: Runner, iteration: int) -> NoReturn:
        path = _save(runner, iteration)
        barrier()  # a launcher ends the others as soon as one is gone
        if runner.world_size > 1:
            for number in self.signals:
                signal.signal(number, signal.SIG_IGN)
        told = f'told to end by {self._received or "another process"}: iteration {iteration} is saved in {path}'
        runner.logger.warning(f'{told}, --resume continues from there (exit code {EXIT_PREEMPTED})')
        runner.visualizer.close()
        raise SystemExit(EXIT_PREEMPTED)


def _save(runner: Runner, iteration: int) -> str:
    hook: Any = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    if getattr(hook, 'saved_iteration', None) == iteration:
        return str(hook.last_ckpt)
    folder = str(hook.out_dir) if hook is not None else str(runner.work_dir)
    local = not is_remote(folder) and getattr(hook, 'file_client_args', None) is None
    backend_args = {'backend': ATOMIC_BACKEND} if local else getattr(hook, 'backend_args', None)
    runner.call_hook('before_collective_save')
    meta = {'epoch': runner.epoch, 'iter': iteration}
    runner.save_checkpoint(folder, PREEMPTED_NAME, meta=meta, by_epoch=False, backend_args=backend_args)
    path = f'{folder.rstrip("/")}/{PREEMPTED_NAME}'
    if is_main_process():
        write_last_checkpoint(runner, path)
    return path


def _start_worker(init: Callable[[int], None] | None, worker_id: int) -> None:
    """Let a data loader's worker outlive signals that its whole process group receives, but not its main process's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):
        # A signal handler in Python is not told who sent the signal; a thread that waits for it is.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()
    if init is not None:
        init(worker_id)


def _obey(parent: int) -> NoReturn:
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            os._exit(0)


@contextmanager
def kept_signal_handlers() -> Iterator[None]:
    """Restores the handlers of SIGTERM and SIGINT after the block, however it ends, and stops the alarm of a hook."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if hasattr(signal, 'alarm'):
            signal.alarm(0)
        with suppress(ValueError):  # not in the main thread, where none was changed either
            for number, handler in before.items():
                signal.signal(number, handler)
