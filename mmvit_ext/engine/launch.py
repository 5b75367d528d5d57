"""From the arguments of a command to a running mmengine ``Runner``, for mmseg, mmdet and mmpretrain configs alike.

The order is the point: everything that can be wrong is looked for before a folder is made, a model is built or a file
is written.
"""

import argparse
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.fileio import dump
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner

from .arguments import ConfigOptions
from .checkpoint_io import atomic_path, check_checkpoint_file, is_remote
from .config import check_num_classes, check_types, load_config, prepare_scope, set_tta_pipeline
from .data_checks import check_datasets
from .errors import UserError, same_on_every_process
from .hooks import BatchSizeHook, LabelRangeHook, SkippedSamplesHook, WeightsReportHook
from .newest_checkpoint import newest_checkpoint
from .nonfinite import NonFiniteHook
from .preemption import kept_signal_handlers
from .safe_loading import SafeFilesHook, install_safe_loading

__all__ = [
    'add_common_arguments',
    'discard_pretrained',
    'prepare_test',
    'prepare_train',
    'run_test',
    'run_train',
    'writable_folder',
]

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


# Arguments


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what training and testing have in common.

    Args:
        parser: The command's parser.
    """
    parser.add_argument('--work-dir', help='folder of logs and checkpoints (default: work_dirs/<name of the config>)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='override entries of the config, for example train_dataloader.batch_size=4; data_root=PATH is set in '
        'every dataset that uses it; a list is written key=a,b or key="[a,b]"',
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='how distributed processes were started')
    parser.add_argument(
        '--allow-partial-weights',
        action='store_true',
        help='go on when a checkpoint does not fit the model; only report',
    )
    parser.add_argument(
        '--trust',
        action='store_true',
        help='read checkpoints that hold more than tensors and plain values; this runs code from the files',
    )
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')
    # Old launchers hand the rank over as an argument.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=None, help=argparse.SUPPRESS)


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


def writable_folder(path: str | Path, option: str) -> Path:
    """Check that a folder exists or can be made, without making it.

    Args:
        path: The folder.
        option: The argument that named it, for the message.

    Returns:
        The path.

    Raises:
        UserError: There is a file of that name, or it cannot be written to.
    """
    folder = Path(path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f'{option} {folder} is a file: expected a folder, choose another name')
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f'{option} {folder} cannot be written to (at {existing}): choose a folder that you may write to'
        )
    return folder


def _complete_mmpretrain_loaders(cfg: Config) -> None:
    # mmpretrain's configs rely on its train script for this: without it the samples arrive as a list.
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if isinstance(loader, dict):
            loader.setdefault('collate_fn', ConfigDict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())


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


# Checks


def _iter_pretrained(node: Any, key: str) -> Iterable[tuple[str, str]]:
    if isinstance(node, Mapping):
        if node.get('type') == 'Pretrained' and isinstance(node.get('checkpoint'), str):
            yield f'{key}.checkpoint', node['checkpoint']
        elif isinstance(node.get('pretrained'), str):
            yield f'{key}.pretrained', node['pretrained']
        for name, entry in node.items():
            yield from _iter_pretrained(entry, f'{key}.{name}')
    elif isinstance(node, list | tuple):
        for index, entry in enumerate(node):
            yield from _iter_pretrained(entry, f'{key}.{index}')


def _check_files(cfg: Config) -> None:
    for key, path in _iter_pretrained(cfg.get('model'), 'model'):
        if not is_remote(path):
            section = key.rpartition('.')[0] if key.endswith('init_cfg.checkpoint') else key
            check_checkpoint_file(
                path,
                f'pretrained checkpoint ({key})',
                f'put it there, or start from random weights with --cfg-options {section}=None',
            )
    if cfg.get('load_from'):
        check_checkpoint_file(cfg.load_from, 'checkpoint')


def _check(cfg: Config, scope: str, splits: Sequence[str]) -> list[str]:
    """All checks of a config against its files; returns what is worth logging."""
    check_types(cfg, scope)
    _check_files(cfg)
    summaries = check_datasets(cfg, splits)
    check_num_classes(cfg, scope, {summary.key: summary.classes for summary in summaries})
    return [str(summary) for summary in summaries]


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
    return cfg, notes + _check(cfg, scope, splits)


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


def _set_tolerance(cfg: Config, updates: int | None, samples: float | None) -> None:
    if updates is not None:
        if updates < 0:
            raise UserError(f'--skip-nonfinite must be at least 0, got {updates}')
        hooks = cfg.setdefault('default_hooks', ConfigDict())
        hooks['nonfinite'] = ConfigDict(type='mmvit_ext.NonFiniteHook', max_skips=updates)
        for hook in cfg.get('custom_hooks') or []:
            if isinstance(hook, Mapping) and hook.get('type') == 'mmvit_ext.NonFiniteHook':
                hook['max_skips'] = updates  # type: ignore[index]
    if samples is not None:
        if not 0 < samples < float('inf'):
            raise UserError(f'--skip-bad-samples must be a number of samples or a fraction below 1, got {samples:g}')
        loader = cfg.train_dataloader
        loader.dataset = ConfigDict(type='mmvit_ext.SkipBadSamples', dataset=loader.dataset, limit=samples)


def _set_precision(cfg: Config, amp: bool) -> list[str]:
    wrapper = cfg.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    if amp and 'constructor' in wrapper and 'optimizer' not in wrapper:
        names = ', '.join(sorted(set(wrapper) - {'constructor'}))
        raise UserError(f'--amp works with one optimizer, the config has {names}: set the precision of each there')
    if amp and kind not in ('OptimWrapper', 'AmpOptimWrapper', 'mmvit_ext.CPUAmpOptimWrapper'):
        raise UserError(
            f'--amp works with optim_wrapper.type OptimWrapper, the config has {kind}: set its precision there'
        )
    if torch.cuda.is_available():
        if amp and kind == 'OptimWrapper':
            wrapper.type = 'AmpOptimWrapper'
            wrapper.setdefault('loss_scale', 'dynamic')
    elif (amp and kind == 'OptimWrapper') or kind == 'AmpOptimWrapper':
        wrapper.type = 'mmvit_ext.CPUAmpOptimWrapper'
        for name in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(name, None)
        return ['mixed precision on a CPU: bfloat16 without loss scaling']
    return []


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


# Testing


def prepare_test(args: argparse.Namespace) -> tuple[Config, str, list[str]]:
    """Read the config of a test run, apply the arguments and check everything.

    Args:
        args: The arguments of ``tools/test.py``.

    Returns:
        The config, its scope, and lines to log when the run has a log.

    Raises:
        UserError: Something is wrong with the arguments, the config or the files it names.
    """
    cfg, scope = _prepare(args)
    for key in ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'):
        if cfg.get(key) is None:
            raise UserError(f'{args.config} has no {key}: it is no test config, or lacks a base file')
    cfg.load_from, cfg.resume = args.checkpoint, False
    discard_pretrained(cfg.model)
    if args.out:
        _check_out(args.out, scope)
    if args.show_dir:
        _set_show_dir(cfg, scope, args.show_dir)
    lines = _check(cfg, scope, ['test'])
    if args.tta:
        _set_tta(cfg)
    # A test needs no training parts, and building their datasets would ask for data that may not be there.
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr'):
        cfg.pop(key, None)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg.pop(key, None)
    return cfg, scope, lines


def discard_pretrained(node: Any) -> None:
    """Remove pretrained weights from a model config, in place, where a checkpoint replaces them all anyway.

    Args:
        node: The model config or a part of it.
    """
    if isinstance(node, Mapping):
        config = node.get('init_cfg')
        if isinstance(config, Mapping) and config.get('type') == 'Pretrained':
            node['init_cfg'] = None  # type: ignore[index]
        if isinstance(node.get('pretrained'), str):
            node['pretrained'] = None  # type: ignore[index]
        for entry in node.values():
            discard_pretrained(entry)
    elif isinstance(node, list | tuple):
        for entry in node:
            discard_pretrained(entry)


def _check_out(out: str, scope: str) -> None:
    path = Path(out)
    if path.suffix in ('.json', '.pkl', '.pickle'):
        if path.is_dir():
            raise UserError(f'--out {path} is a folder: expected a file name for {path.suffix}')
        writable_folder(path.parent, '--out, folder')
    elif scope == 'mmseg' and not path.suffix:
        writable_folder(path, '--out')
    else:
        folder = ', or a folder for label maps' if scope == 'mmseg' else ''
        raise UserError(f'--out {path}: expected .json for metrics or .pkl for predictions{folder}')


def _set_show_dir(cfg: Config, scope: str, show_dir: str) -> None:
    folder = str(writable_folder(show_dir, '--show-dir').absolute())
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not isinstance(hook, dict):
        raise UserError(
            "--show-dir needs a visualization hook in the config: add default_hooks.visualization=dict(type='...') of "
            f'{scope}'
        )
    if scope == 'mmdet':
        hook.update(draw=True, test_out_dir=folder)
    elif scope == 'mmpretrain':
        hook.update(enable=True, out_dir=folder)
    else:
        hook.update(draw=True, interval=1)  # upstream's hook counts the interval in tests, too
        visualizer = cfg.setdefault('visualizer', ConfigDict(type='SegLocalVisualizer', name='visualizer'))
        visualizer.save_dir = folder
        # A visualizer of a known name is not built anew but returned as it was, with its old folder.
        visualizer.name = f'show_{time.monotonic_ns()}'
        visualizer.setdefault('vis_backends', [ConfigDict(type='LocalVisBackend')])


def _set_tta(cfg: Config) -> None:
    set_tta_pipeline(cfg)
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


def run_test(args: argparse.Namespace) -> dict[str, float]:
    """Test a checkpoint.

    Args:
        args: The arguments of ``tools/test.py``.

    Returns:
        The metrics by name.

    Raises:
        UserError: Something is wrong with the arguments, the config or the files it names.
    """
    with same_on_every_process():
        cfg, scope, lines = prepare_test(args)
    suffix = Path(args.out).suffix if args.out else ''
    if args.out and not suffix:
        for evaluator in cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]:
            evaluator.output_dir = args.out
    hooks = [WeightsReportHook(allow_partial=args.allow_partial_weights)]
    runner = _build_runner(cfg, hooks, lines, trust=args.trust)
    if suffix in ('.pkl', '.pickle'):
        runner.test_evaluator.metrics.append(_dumper(scope)(out_file_path=args.out))
    metrics = runner.test()
    if suffix == '.json' and runner.rank == 0:
        plain = {name: value if isinstance(value, str) else float(value) for name, value in metrics.items()}
        with atomic_path(args.out) as file:
            dump(plain, file, indent=2)
    _leave_process_group()
    return metrics


def _dumper(scope: str) -> type:
    if scope == 'mmdet':
        from mmdet.evaluation import DumpDetResults

        return DumpDetResults
    return DumpResults
