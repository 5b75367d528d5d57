"""From a config file to mmengine's ``Runner``: what training and testing have in common."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmvit_ext.checkpoints.safe_loading import SafeFilesHook, install_safe_loading
from mmvit_ext.config.adjust import prepare_loaders, set_work_dir
from mmvit_ext.config.labels import ignored_label
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.engine.hooks.precision import MixedPrecisionHook
from mmvit_ext.engine.hooks.preemption import kept_signal_handlers
from mmvit_ext.engine.hooks.reports import LabelRangeHook
from mmvit_ext.engine.hooks.worker_timeout import WorkerTimeoutHook
from mmvit_ext.errors import DISK_FULL, UserError, printable
from mmvit_ext.files import is_remote, sole_use

__all__ = ['build_runner', 'load_run', 'running']


def load_run(
    config: str, cfg_options: Mapping | None, kind: str, sections: Sequence[str], work_dir: str | None, launcher: str
) -> Config:
    """Read the config of a ``kind`` of run, which needs these sections, and set where and with what it runs."""
    cfg = load_config(config, cfg_options)
    prepare_scope(cfg)
    set_work_dir(cfg, work_dir)
    prepare_loaders(cfg)
    _join_processes(cfg, launcher)
    for key in sections:
        if cfg.get(key) is None:  # an empty section, as in mmpretrain, is a complete one
            raise UserError(f'{config} has no {key}: it is no {kind} config, or lacks a base file')
    return cfg


def _join_processes(cfg: Config, launcher: str) -> None:
    """Prepare a config for distributed processes, and join them where mmengine cannot: on a CPU."""
    cfg.launcher = launcher
    if launcher == 'none':
        return
    wanted = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR')
    absent = ', '.join(name for name in wanted if name not in os.environ)
    if launcher == 'pytorch' and absent:
        raise UserError(f'--launcher pytorch: {absent} not set: start the command with tools/dist_train.sh or torchrun')
    if torch.cuda.is_available():
        return
    if launcher != 'pytorch':
        raise UserError(f'--launcher {launcher} needs a GPU and there is none: use --launcher pytorch or none')
    # mmengine selects a GPU when it starts the process group, and passes it to the wrapper: on a CPU neither exists.
    if not torch.distributed.is_initialized():
        seconds = ((cfg.get('env_cfg') or {}).get('dist_cfg') or {}).get('timeout')  # as mmengine does on a GPU
        # PyTorch 2.1 takes no None.
        limit: dict[str, Any] = {} if seconds is None else {'timeout': timedelta(seconds=seconds)}
        torch.distributed.init_process_group('gloo', **limit)
    wrapper = cfg.setdefault('model_wrapper_cfg', ConfigDict(type='MMDistributedDataParallel', broadcast_buffers=False))
    wrapper.setdefault('find_unused_parameters', cfg.get('find_unused_parameters', False))
    wrapper['device_ids'] = None


@contextmanager
def running(launcher: str, folders: Mapping[str, str | None]) -> Iterator[None]:
    """Keep other runs from using folders, by the options that named them; keep signal handlers; leave the processes."""
    ranks = [os.environ.get(name) for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')]
    first = launcher == 'none' or next(filter(None, ranks), '0') == '0'  # which does it for all
    with ExitStack() as stack:
        for option, folder in folders.items():
            if first and folder and not is_remote(folder):
                stack.enter_context(sole_use(folder, option))
        stack.enter_context(kept_signal_handlers())
        yield
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == 'gloo':  # others are mmengine's own
        torch.distributed.destroy_process_group()


def build_runner(
    cfg: Config, hooks: Sequence[Hook], notes: Sequence[str], warnings: Sequence[str], *, trust: bool = False
) -> Runner:
    """Build the runner of a config with these hooks, unless the config has one of their class; log the lines."""
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    install_safe_loading(trust=trust, config=cfg.filename)  # a hook of the config does not know what was passed here
    hooks = [*hooks, SafeFilesHook(trust=trust), WorkerTimeoutHook(), MixedPrecisionHook()]
    if cfg.default_scope == 'mmseg':
        # Elsewhere label maps and the dataset's classes need not count the same things, as in panoptic segmentation.
        hooks.append(LabelRangeHook(ignored_label(cfg)))
    runner.logger.addFilter(_spell_out)
    for hook in hooks:
        if type(hook) not in {type(present) for present in runner.hooks}:
            runner.register_hook(hook)
    for handler in runner.logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = partial(_on_lost_line, handler)  # type: ignore[method-assign]
    for line in notes:
        runner.logger.info(line)
    for line in warnings:
        runner.logger.warning(line)
    return runner


def _on_lost_line(handler: logging.FileHandler, record: logging.LogRecord) -> None:
    """End the run where its log cannot be written because the disk is full; Python would print a traceback per line."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        error.filename = handler.baseFilename
        raise error
    logging.Handler.handleError(handler, record)


def _spell_out(record: logging.LogRecord) -> bool:
    """Let a log show names from elsewhere without their control characters."""
    record.msg, record.args = printable(record.getMessage(), keep='\n\t'), ()
    return True
