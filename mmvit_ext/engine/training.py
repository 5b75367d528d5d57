"""From the arguments of a command to a running mmengine ``Runner``, for mmseg, mmdet and mmpretrain configs alike.

The order is the point: everything that can be wrong is looked for before a folder is made, a model is built or a file
is written.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner

from mmvit_ext.checkpoints.newest import newest_checkpoint
from mmvit_ext.checkpoints.safe_loading import SafeFilesHook, install_safe_loading
from mmvit_ext.checks.before_run import check_before_run
from mmvit_ext.config.adjust import _complete_mmpretrain_loaders, _set_precision, _set_tolerance
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.engine.hooks.nonfinite import NonFiniteHook
from mmvit_ext.engine.hooks.preemption import kept_signal_handlers
from mmvit_ext.engine.hooks.reports import BatchSizeHook, LabelRangeHook, SkippedSamplesHook, WeightsReportHook
from mmvit_ext.errors.user_error import UserError, same_on_every_process
from mmvit_ext.files import writable_folder

__all__ = [
    'prepare_train',
    'run_train',
]


def _prepare(args: argparse.Namespace) -> tuple[Config, str]:
    """Steps that training and testing share, up to the point where nothing has been built or written."""
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, args.cfg_options)
    scope = prepare_scope(cfg)
    init_default_scope(scope)
    if scope == 'mmpretrain':
        _complete_mmpretrain_loaders(cfg)
    work_dir = args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(args.config).stem)
    cfg.work_dir = str(writable_folder(work_dir, '--work-dir'))
    cfg.launcher = args.launcher
    if args.launcher != 'none':
        _prepare_distributed(cfg, args.launcher)
    return cfg, scope


def _prepare_distributed(cfg: Config, launcher: str) -> None:
    if launcher == 'pytorch':
        absent = [name for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR') if name not in os.environ]
        if absent:
            raise UserError(
                f'--launcher pytorch needs the variables of torchrun, {", ".join(absent)} not set: start the command '
                'with tools/dist_train.sh (or torchrun)'
            )
    if torch.cuda.is_available():
        return
    if launcher != 'pytorch':
        raise UserError(f'--launcher {launcher} needs a GPU and there is none: use --launcher pytorch or none')
    # mmengine selects a GPU when it starts the process group, and hands it to the wrapper: on a CPU neither exists.
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(backend='gloo')
    wrapper = cfg.setdefault('model_wrapper_cfg', ConfigDict(type='MMDistributedDataParallel', broadcast_buffers=False))
    wrapper.setdefault('find_unused_parameters', cfg.get('find_unused_parameters', False))
    wrapper['device_ids'] = None


# Training
def prepare_train(args: argparse.Namespace) -> tuple[Config, list[str]]:
    """Read the config of a training run, apply the arguments and check everything.

    Args:
        args: The arguments of ``tools/train.py``.

    Returns:
        The config, and lines to log when the run has a log.

    Raises:
        UserError: Something is wrong with the arguments, the config or the files it names.
    """
    cfg, scope = _prepare(args)
    for key in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'):
        if cfg.get(key) is None:  # an empty section, as in mmpretrain, is a complete one
            raise UserError(f'{args.config} has no {key}: it is no training config, or lacks a base file')
    notes = _set_resume(cfg, args.resume)
    if args.seed is not None:
        cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': args.seed}
    if args.compile and not cfg.get('compile'):  # the config may say how: compile=dict(mode=...)
        cfg.compile = True
    if args.auto_scale_lr:
        if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
            raise UserError(
                f'--auto-scale-lr needs auto_scale_lr.base_batch_size in {args.config}: the total batch size that its '
                'learning rate was chosen for'
            )
        cfg.auto_scale_lr.enable = True
    notes += _set_precision(cfg, args.amp)
    _set_tolerance(cfg, args.skip_nonfinite, args.skip_bad_samples)
    splits = ['train'] + (['val'] if cfg.get('val_cfg') is not None else [])
    return cfg, notes + check_before_run(cfg, scope, splits)


def _set_resume(cfg: Config, resume: str | None) -> list[str]:
    restarts = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', '0'))
    if resume is None and (restarts or (cfg.get('resume') and not cfg.get('load_from'))):
        resume = 'auto'
    if resume is None:
        return []
    cfg.resume = True
    if resume != 'auto' and not restarts:
        cfg.load_from = resume
        return []
    out_dir = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir')
    folders = [os.path.join(out_dir, os.path.basename(os.path.normpath(cfg.work_dir)))] if out_dir else []
    newest = newest_checkpoint(cfg.work_dir, folders)
    notes = [f'started again by the launcher ({restarts})'] if restarts else []
    if newest.path is not None:
        cfg.load_from = newest.path
        return notes + newest.notes()
    if resume != 'auto':
        cfg.load_from = resume
        return notes
    # load_from stays: a run that has not written a checkpoint yet starts as it did the first time.
    cfg.resume = False
    return [*notes, f'--resume: no checkpoint in {cfg.work_dir}, training starts from the beginning']


def run_train(args: argparse.Namespace) -> None:
    """Train.

    Args:
        args: The arguments of ``tools/train.py``.

    Raises:
        UserError: Something is wrong with the arguments, the config or the files it names.
    """
    with same_on_every_process():
        cfg, lines = prepare_train(args)
    hooks = [WeightsReportHook(allow_partial=args.allow_partial_weights), BatchSizeHook(), NonFiniteHook()]
    hooks.append(SkippedSamplesHook())
    runner = _build_runner(cfg, hooks, lines, trust=args.trust)
    with kept_signal_handlers():
        runner.train()
    _leave_process_group()


def _build_runner(cfg: Config, hooks: Sequence[Hook], lines: Sequence[str], *, trust: bool) -> Runner:
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    hooks = [*hooks, SafeFilesHook(trust=trust)]
    install_safe_loading(trust=trust, config=cfg.filename)  # a hook of the config does not know what was passed here
    if cfg.default_scope == 'mmseg':
        # Elsewhere label maps and the dataset's classes need not count the same things, as in panoptic segmentation.
        hooks = [*hooks, LabelRangeHook()]
    present = {type(hook) for hook in runner.hooks}
    for hook in hooks:
        if type(hook) not in present:
            runner.register_hook(hook)
    for line in lines:
        runner.logger.info(line)
    return runner


def _leave_process_group() -> None:
    # Only the group that was made here: mmengine's own is left to it.
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == 'gloo':
        torch.distributed.destroy_process_group()
