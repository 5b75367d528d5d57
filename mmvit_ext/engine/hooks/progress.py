"""A progress bar of a training or a test, for a terminal."""

import logging
import sys
from contextlib import ExitStack
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.progress import Progress

from mmvit_ext.machine import progress_bar

__all__ = ['ProgressHook']


class ProgressHook(Hook):
    """Shows iterations done, their share and the time that is left below the log's lines, where there is a terminal.

    As a context manager it gives the terminal back, also after an error.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._bar: Progress | None = None

    def __enter__(self) -> 'ProgressHook':
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Begin where the run begins, which may be in the middle of it."""
        self._begin(runner, 'training', runner.max_iters, runner.iter)

    @master_only
    def before_test(self, runner: Runner) -> None:
        """Begin with the first batch."""
        self._begin(runner, 'testing', len(runner.test_dataloader), 0)

    def _begin(self, runner: Runner, title: str, total: int, completed: int) -> None:
        if not (sys.stdout.isatty() and sys.stderr.isatty()):  # a file would be full of it
            return
        terminal = sys.stdout
        self._bar = self._stack.enter_context(progress_bar(title))
        self._task = self._bar.add_task('', total=total, completed=completed)
        for handler in runner.logger.handlers:  # the bar has put itself in the place of the terminal
            if isinstance(handler, logging.StreamHandler) and handler.stream is terminal:
                handler.setStream(sys.stdout)
                self._stack.callback(handler.setStream, terminal)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Count."""
        if self._bar is not None:
            self._bar.update(self._task, completed=runner.iter + 1)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Count."""
        if self._bar is not None:
            self._bar.update(self._task, completed=batch_idx + 1)
