"""Checkpoints that are whole or absent whenever the process is killed, unlike mmengine's."""

import hashlib
import math
import os
import uuid
from collections import deque
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process, master_only
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader

from mmvit_ext.checkpoints.newest import RUN_ID, may_be_of_run
from mmvit_ext.checkpoints.reading import FORMAT
from mmvit_ext.files import PARTIAL_SUFFIX, atomic_path, is_remote
from mmvit_ext.registry import HOOKS

__all__ = ['ATOMIC_BACKEND', 'PREEMPTED_NAME', 'AtomicCheckpointHook', 'AtomicLocalBackend']

ATOMIC_BACKEND = 'mmvit_ext.atomic'
PREEMPTED_NAME = 'preempted.pth'


@register_backend(ATOMIC_BACKEND)
class AtomicLocalBackend(LocalBackend):
    """mmengine's backend of local files with whole writes."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        with atomic_path(filepath, durable=True) as temporary:
            temporary.write_bytes(obj)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's checkpoint hook, made so that a killed process leaves a loadable checkpoint behind.

    With local files, the regular and the best checkpoint and ``last_checkpoint`` are written to a temporary file,
    synced and renamed; one that ``max_keep_ckpts`` or a better metric makes superfluous is removed when its successor
    is whole, so for a moment there is one more. With files elsewhere (``out_dir='s3://...'``) or a ``backend_args`` of
    your own, whether a write is whole is up to that backend. DeepSpeed and FSDP write their files themselves.

    Each checkpoint has the id of its run in ``meta``, which a resumed run keeps, and ``work_dir/run_id`` has that of
    the latest run: ``--resume`` takes files of this run only, and files of another run are never removed.

    Before it saves, it calls the hooks' ``before_collective_save`` in every process.

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
        if not is_main_process():
            return
        with atomic_path(Path(runner.work_dir) / RUN_ID, durable=True) as temporary:
            temporary.write_text(self.run_id)
        if isinstance(self.file_backend, AtomicLocalBackend):
            for partial in Path(self.out_dir).glob(f'.*{PARTIAL_SUFFIX}'):
                partial.unlink(missing_ok=True)

    def _replace_stored_paths(self, info: dict[str, Any]) -> None:
        """Let the resumed paths of best checkpoints, removed later, name files of this run's own folder or nothing."""
        for key in [key for key in info if key.startswith('best_ckpt')]:
            name = os.path.basename(str(info[key]))
            path = self.file_backend.join_path(self.out_dir, name)
            ours = name.startswith('best_') and self.file_backend.isfile(path) and not os.path.islink(path)
            info[key] = path if ours and self._may_remove(path) else None
        if self.save_best is not None:
            stored = 'best_ckpt_{}' if len(self.key_indicators) > 1 else 'best_ckpt'
            self._best = {key: info.get(stored.format(key)) for key in self.key_indicators}

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        keep = self.max_keep_ckpts > 0
        if keep and step not in self.keep_ckpt_ids:
            # The outdated one is still listed in the file: if a kill prevents its removal, the resumed run removes it.
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.call_hook('before_collective_save')
        own = ('save_optimizer', 'save_param_scheduler', 'by_epoch', 'backend_args')
        options = {**{option: getattr(self, option) for option in own}, **self.args}
        runner.save_checkpoint(self.out_dir, name, self.file_client_args, meta=meta, **options)
        if is_main_process():
            write_last_checkpoint(runner, self.last_ckpt)
        if self.save_optimizer and self.save_param_scheduler:  # a run can go on from it
            self.saved_iteration = int(meta['iter'])
            self._remove(PREEMPTED_NAME)
        self._drop_outdated(runner)

    def _drop_outdated(self, runner: Runner) -> None:
        while 0 < self.max_keep_ckpts < len(self.keep_ckpt_ids):
            outdated = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
            self._remove(outdated)

    def _remove(self, name: str) -> None:
        """Remove a checkpoint of this run if it exists: a file, or the folder that DeepSpeed writes."""
        path = self.file_backend.join_path(self.out_dir, name)
        if is_main_process() and self._may_remove(path):
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):
                self.file_backend.rmtree(path)

    def _may_remove(self, path: str) -> bool:
        return not os.path.isfile(path) or may_be_of_run(path, self.run_id)

    def _save_best_checkpoint(self, runner: Runner, metrics: Mapping[str, Any]) -> None:
        if not self.save_best:
            return
        # mmengine removes the old ones before it writes, so it is not told of them.
        old, self._best = [*self._best.values()], dict.fromkeys(self.key_indicators)
        super()._save_best_checkpoint(runner, metrics)  # which replaces the key 'auto'
        self._best = {key: path or before for (key, path), before in zip(self._best.items(), old, strict=True)}
        for path in {*filter(None, old)} - {*self._best.values()}:
            self._remove(os.path.basename(path))

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        """Publish a checkpoint under a name with the hash of its file; mmengine takes that of its content."""
        content, file = CheckpointLoader.load_checkpoint(ckpt_path, map_location='cpu'), BytesIO()
        torch.save({key: content[key] for key in self.published_keys or () if key in content}, file)
        path = f'{os.path.splitext(ckpt_path)[0]}-{hashlib.sha256(file.getbuffer()).hexdigest()[:8]}.pth'
        self.file_backend.put(file.getvalue(), path)
        runner.logger.info(f'{ckpt_path} is published as {path}')

    @property
    def _best(self) -> dict[str, str | None]:
        """The paths of the best checkpoints by metric, which mmengine keeps in two ways."""
        several = len(self.key_indicators) > 1
        return self.best_ckpt_path_dict if several else {self.key_indicators[0]: self.best_ckpt_path}

    @_best.setter
    def _best(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) > 1:
            self.best_ckpt_path_dict = paths
        else:
            (self.best_ckpt_path,) = paths.values()


def write_last_checkpoint(runner: Runner, path: str) -> None:
    """Note in the work folder which checkpoint is the last one, where mmengine looks for it."""
    with atomic_path(Path(runner.work_dir) / 'last_checkpoint', durable=True) as temporary:
        temporary.write_text(path)


def optim_wrappers(runner: Runner) -> list[OptimWrapper]:
    """The one optimizer of a run, or those of its parts."""
    wrapper = runner.optim_wrapper
    return [*wrapper.values()] if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def accumulated_iterations(runner: Runner) -> int:
    """Over how many iterations a run accumulates gradients; they are not in a checkpoint of an iteration between."""
    return math.lcm(*(int(getattr(wrapper, '_accumulative_counts', 1)) for wrapper in optim_wrappers(runner)))
