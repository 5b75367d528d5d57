"""Checkpoints that are whole or absent, whenever the process is killed.

mmengine opens the final file and writes into it, and deletes the oldest checkpoint before the new one is written. Here
the content goes to a temporary file, which is synced and renamed, and an outdated file is removed only afterwards.
"""

import os
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmvit_ext.checkpoints.newest import RUN_ID, may_be_of_run
from mmvit_ext.checkpoints.reading import FORMAT
from mmvit_ext.files import PARTIAL_SUFFIX, atomic_path, is_remote
from mmvit_ext.registry import HOOKS

__all__ = ['ATOMIC_BACKEND', 'PREEMPTED_NAME', 'AtomicCheckpointHook', 'AtomicLocalBackend']

ATOMIC_BACKEND = 'mmvit_ext.atomic'
PREEMPTED_NAME = 'preempted.pth'


@register_backend(ATOMIC_BACKEND)
class AtomicLocalBackend(LocalBackend):
    """mmengine's backend of local files with whole writes, and with removals that can wait."""

    def __init__(self) -> None:
        super().__init__()
        self._postponed: list[str] | None = None

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file, see :func:`mmvit_ext.files.atomic_path`."""
        with atomic_path(filepath, durable=True) as temporary:
            temporary.write_bytes(obj)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file, now or at the end of :meth:`removal_postponed`."""
        if self._postponed is None:
            super().remove(filepath)
        else:
            self._postponed.append(str(filepath))

    def rmtree(self, dir_path: str | Path) -> None:
        """Remove a folder, now or at the end of :meth:`removal_postponed`."""
        if self._postponed is None:
            super().rmtree(dir_path)
        else:
            self._postponed.append(str(dir_path))

    @contextmanager
    def removal_postponed(self) -> Iterator[list[str]]:
        """Collect the paths that the block removes, and remove those in the list when the block has succeeded."""
        self._postponed = paths = list[str]()
        try:
            yield paths
        finally:
            self._postponed = None
        for path in paths:
            remove_checkpoint(self, path)


def remove_checkpoint(backend: Any, path: str) -> None:
    """Remove a checkpoint through mmengine's file backend if it exists: a file, or the folder that DeepSpeed writes."""
    if backend.isfile(path):
        backend.remove(path)
    elif backend.isdir(path):
        backend.rmtree(path)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's checkpoint hook, made so that a killed process leaves a loadable checkpoint behind.

    With local files, the regular and the best checkpoint and ``last_checkpoint`` are written to a temporary file,
    synced and renamed; one that ``max_keep_ckpts`` or a better metric makes superfluous is removed when its successor
    is whole, so for a moment there is one more. With files elsewhere (``out_dir='s3://...'``) or a ``backend_args`` of
    your own, whether a write is whole is up to that backend, but the order still holds for regular checkpoints.
    DeepSpeed and FSDP write their files themselves and not whole.

    Each checkpoint has the id of its run in ``meta``, which a resumed run keeps, and ``work_dir/run_id`` has that of
    the latest run: ``--resume`` takes files of this run only, and files of another run are never removed.

    Before it saves, it calls the hooks' ``before_collective_save`` in every process, where mmengine's
    ``before_save_checkpoint`` reaches the first process only.

    Args:
        *args: As those of mmengine's ``CheckpointHook``.
        **kwargs: As those of mmengine's ``CheckpointHook``.
    """

    backend_args: dict[str, Any] | None
    keep_ckpt_ids: deque[int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.saved_iteration: int | None = None
        self.run_id = uuid.uuid4().hex

    def after_load_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        """Let a resumed run keep its id."""
        if runner._resume and runner._train_loop is not None:
            self.run_id = str(checkpoint['meta'].get(RUN_ID) or self.run_id)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Note whose checkpoint it is."""
        checkpoint['meta'].update({RUN_ID: self.run_id, **FORMAT})

    def before_train(self, runner: Runner) -> None:
        """Choose where and how files are written, and clear away what a kill left behind."""
        target = str(self.out_dir or runner.work_dir)
        if self.file_client_args is None and self.backend_args is None and not is_remote(target):
            self.backend_args = {'backend': ATOMIC_BACKEND}
        info = runner.message_hub.runtime_info
        steps = info.pop('keep_ckpt_ids', None)
        super().before_train(runner)
        self._replace_stored_paths(info)
        # mmengine's queue drops the oldest as soon as a new one is added
        self.keep_ckpt_ids = deque(step for step in steps if type(step) is int) if isinstance(steps, list) else deque()
        self._drop_outdated(runner)
        if is_main_process():
            with atomic_path(Path(runner.work_dir) / RUN_ID, durable=True) as temporary:
                temporary.write_text(self.run_id)
        if is_main_process() and self._is_atomic:
            for partial in Path(self.out_dir).glob(f'.*{PARTIAL_SUFFIX}'):
                partial.unlink(missing_ok=True)

    def _replace_stored_paths(self, info: dict[str, Any]) -> None:
        """Let the paths of best checkpoints name files of this run's own folder, or nothing.

        They come from the resumed checkpoint, which may be a copy or somebody else's, and are removed later.
        """
        for key in [key for key in info if key.startswith('best_ckpt')]:
            name = os.path.basename(str(info[key]))
            path = self.file_backend.join_path(self.out_dir, name)
            ours = name.startswith('best_') and self.file_backend.isfile(path) and not os.path.islink(path)
            info[key] = path if ours and self._may_remove(path) else None
        if self.save_best is not None and len(self.key_indicators) == 1:
            self.best_ckpt_path = info.get('best_ckpt')
        elif self.save_best is not None:
            self.best_ckpt_path_dict = {key: info.get(f'best_ckpt_{key}') for key in self.key_indicators}

    @property
    def _is_atomic(self) -> bool:
        return isinstance(self.file_backend, AtomicLocalBackend)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        keep = self.max_keep_ckpts > 0
        if keep and step not in self.keep_ckpt_ids:
            # The outdated one is still listed in the file: if a kill prevents its removal, the resumed run removes it.
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        iteration = int(meta['iter'])
        runner.call_hook('before_collective_save')
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self.saved_iteration = iteration
        if is_main_process():
            write_last_checkpoint(runner, self.last_ckpt)
        self._remove(PREEMPTED_NAME)
        self._drop_outdated(runner)

    def _drop_outdated(self, runner: Runner) -> None:
        while 0 < self.max_keep_ckpts < len(self.keep_ckpt_ids):
            outdated = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
            self._remove(outdated)

    def _remove(self, name: str) -> None:
        path = self.file_backend.join_path(self.out_dir, name)
        if is_main_process() and self._may_remove(path):
            remove_checkpoint(self.file_backend, path)

    def _may_remove(self, path: str) -> bool:
        return not os.path.isfile(path) or may_be_of_run(path, self.run_id)

    def _save_best_checkpoint(self, runner: Runner, metrics: Mapping[str, Any]) -> None:
        if not self.save_best or not self._is_atomic:
            super()._save_best_checkpoint(runner, metrics)
            return
        with self.file_backend.removal_postponed() as paths:
            super()._save_best_checkpoint(runner, metrics)
            best = {getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()}
            paths[:] = [path for path in paths if path not in best]  # the same name has been written anew


def write_last_checkpoint(runner: Runner, path: str) -> None:
    """Note in the work folder which checkpoint is the last one, where mmengine looks for it."""
    with atomic_path(Path(runner.work_dir) / 'last_checkpoint', durable=True) as temporary:
        temporary.write_text(path)


def accumulated_iterations(runner: Runner) -> int:
    """Over how many iterations a run accumulates gradients; they are not in a checkpoint of an iteration between."""
    return int(getattr(runner.optim_wrapper, '_accumulative_counts', 1))
