"""Changes that an argument of a command makes to a config, each in place."""

import copy
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from mmvit_ext.config.labels import ignored_label
from mmvit_ext.config.walking import iter_dataset_cfgs, iter_heads, step_name
from mmvit_ext.errors import UserError
from mmvit_ext.files import writable_folder
from mmvit_ext.machine import open_files_limit

__all__ = ['WORKER_TIMEOUT', 'prepare_loaders', 'reduced_precision', 'set_layer_decay', 'set_lr_scaling']
__all__ += ['set_optimizer', 'set_precision', 'set_show_dir', 'set_tolerance', 'set_tta', 'set_tta_pipeline']
__all__ += ['set_work_dir']

WORKER_TIMEOUT = 600  # seconds after which a data loader without a batch ends the run: its workers hang
LEAST_OPEN_FILES = 256  # usual limits are 1024 and more; workers that reach theirs lose batches
LAYER_DECAY = ('LearningRateDecayOptimizerConstructor', 'LayerDecayOptimizerConstructor')
"""Constructors of optimizers with rates by layer, of mmseg and mmdet."""

MIXED = ('AmpOptimWrapper', 'CPUAmpOptimWrapper')
"""Wrappers of an optimizer with mixed precision."""


def set_work_dir(cfg: Config, work_dir: str | None) -> None:
    """Set the folder of logs and checkpoints: the argument, the config's own or ``work_dirs/NAME_OF_THE_CONFIG``."""
    folder = work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(cfg.filename).stem)
    cfg.work_dir = str(writable_folder(folder, '--work-dir'))


def prepare_loaders(cfg: Config) -> None:
    """Let no data loader wait for ever, refuse workers that run out of files, pin memory for a GPU, choose a collation.

    Segmentation's lets the workers look for the classes in the labels, where nothing changes labels afterwards.
    """
    preprocessor = cfg.get('data_preprocessor') or (cfg.get('model') or {}).get('data_preprocessor') or {}
    padding, kind = preprocessor.get('seg_pad_val', 255), step_name(preprocessor).rpartition('.')[2]
    unchanged = kind == 'SegDataPreProcessor' and not preprocessor.get('batch_augments')
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if not isinstance(loader, dict):
            continue
        if cfg.default_scope == 'mmpretrain':
            loader.setdefault('collate_fn', ConfigDict(type='default_collate'))
        elif cfg.default_scope == 'mmseg' and unchanged and padding == ignored_label(cfg):
            loader.setdefault('collate_fn', ConfigDict(type='mmvit_ext.collate_labels', ignore_index=padding))
        loader.setdefault('pin_memory', torch.cuda.is_available())
        if loader.get('num_workers'):
            loader.setdefault('timeout', WORKER_TIMEOUT)
            if open_files_limit() < LEAST_OPEN_FILES:
                found = f'num_workers={loader["num_workers"]}, and a process may open {open_files_limit()} files only'
                remedy = 'raise the limit (ulimit -n 4096), or set num_workers=0 and persistent_workers=False'
                raise UserError(f'{split}_dataloader.{found}, a few for each batch: {remedy}')


def set_lr_scaling(cfg: Config) -> None:
    """Scale the learning rate by (processes x batch size) / ``auto_scale_lr.base_batch_size``."""
    if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
        wanted = f'auto_scale_lr.base_batch_size in {cfg.filename}'
        raise UserError(f'--auto-scale-lr needs {wanted}: the total batch size that its learning rate was chosen for')
    cfg.auto_scale_lr.enable = True


def set_layer_decay(cfg: Config) -> list[str]:
    """Let ours take the place of mmseg's and mmdet's rates by layer, which refuse every backbone of ours.

    They decide by the name of its class, and name three. Returns lines to log.
    """
    constructor = cfg.optim_wrapper.get('constructor')
    kind = step_name({'type': constructor}).rpartition('.')[2]
    backbone = cfg.model.get('backbone')
    ours = isinstance(backbone, Mapping) and _is_ours(backbone.get('type'))
    by_layer = 'layer_wise' in str((cfg.optim_wrapper.get('paramwise_cfg') or {}).get('decay_type', 'layer_wise'))
    if not ours or not by_layer or _is_ours(constructor) or kind not in LAYER_DECAY:
        return []
    cfg.optim_wrapper.constructor = 'mmvit_ext.LayerDecayConstructor'
    return [
        f'optim_wrapper.constructor: {kind} knows ConvNeXt, BEiT and MAE of its own library only, '
        'mmvit_ext.LayerDecayConstructor takes its place and its arguments'
    ]


def _is_ours(kind: Any) -> bool:
    """Whether a type, as text or as class, is of this package."""
    return (kind if isinstance(kind, str) else getattr(kind, '__module__', '')).startswith('mmvit_ext.')


def set_optimizer(cfg: Config) -> None:
    """Let an optimizer have one group of parameters for each setting, unless the config says who builds it."""
    if 'optimizer' in cfg.optim_wrapper:
        cfg.optim_wrapper.setdefault('constructor', 'mmvit_ext.MergedGroupsConstructor')


def reduced_precision(device: str) -> torch.dtype:
    """The type of mixed precision: bfloat16 where it is computed as such, otherwise float16."""
    fits = device != 'cuda' or torch.cuda.get_device_capability()[0] >= 8  # earlier GPUs only emulate bfloat16
    return torch.bfloat16 if fits else torch.float16


def set_precision(cfg: Config, amp: bool | None) -> list[str]:
    """Choose mixed precision as ``amp`` and the config ask for it and the device supports it; returns lines to log.

    On a GPU it is the default of configs with one optimizer that do not say anything else. Where ``amp`` is False, what
    the config says of it is taken out.
    """
    wrapper = cfg.optim_wrapper
    kind = step_name({'type': 'OptimWrapper', **wrapper}).rpartition('.')[2]  # text, with its scope or not, or a class
    if amp and 'constructor' in wrapper and 'optimizer' not in wrapper:
        names = ', '.join(sorted(set(wrapper) - {'constructor'}))
        raise UserError(f'--amp works with one optimizer, the config has {names}: set the precision of each there')
    if amp and kind not in ('OptimWrapper', *MIXED):
        raise UserError(
            f'--amp works with optim_wrapper.type OptimWrapper, not {kind}: set the precision in the config'
        )
    if amp is False:
        for part in [part for part in (wrapper, *wrapper.values()) if isinstance(part, Mapping)]:
            if step_name(part).rpartition('.')[2] in MIXED:
                _set_wrapper(part, 'OptimWrapper')
    elif torch.cuda.is_available():
        if kind == 'OptimWrapper' and 'optimizer' in wrapper:
            name = str(reduced_precision('cuda')).removeprefix('torch.')
            # bfloat16 has the range of float32; without a scaler there is one wait less in each iteration.
            scale = ConfigDict(enabled=False) if name == 'bfloat16' else 'dynamic'
            wrapper.update(type='AmpOptimWrapper', dtype=name, loss_scale=scale)
            return [f'mixed precision: {name}, --no-amp trains in float32']
    elif (amp and kind == 'OptimWrapper') or kind == 'AmpOptimWrapper':
        _set_wrapper(wrapper, 'mmvit_ext.CPUAmpOptimWrapper')
        return ['mixed precision on a CPU: bfloat16 without loss scaling']
    return []


def _set_wrapper(wrapper: Any, kind: str) -> None:
    """Set the type of an ``optim_wrapper``, without what only mmengine's mixed precision takes."""
    wrapper['type'] = kind
    for name in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(name, None)


def set_tolerance(cfg: Config, updates: int | None, samples: float | None) -> None:
    """Set how many non-finite updates and unreadable samples (below 1: a fraction) are skipped before a run stops."""
    if updates is not None:
        if updates < 0:
            raise UserError(f'--skip-nonfinite must be at least 0, got {updates}')
        hooks = cfg.setdefault('default_hooks', ConfigDict())
        hooks['nonfinite'] = ConfigDict(type='mmvit_ext.NonFiniteHook', max_skips=updates)
        for hook in cfg.get('custom_hooks') or []:
            if isinstance(hook, Mapping) and step_name(hook).endswith('NonFiniteHook'):
                hook['max_skips'] = updates  # type: ignore[index]
    if samples is not None:
        if not 0 < samples < float('inf'):
            raise UserError(f'--skip-bad-samples must be a number of samples or a fraction below 1, got {samples:g}')
        loader = cfg.train_dataloader
        loader.dataset = ConfigDict(type='mmvit_ext.SkipBadSamples', dataset=loader.dataset, limit=samples)


def set_tta_pipeline(cfg: Config) -> None:
    """Let the test dataset make the views of ``tta_pipeline``; a config without them is an error."""
    absent = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if absent:
        remedy = 'add what says which views are merged and how'
        raise UserError(f'--tta: {cfg.filename} has no {" and no ".join(absent)}: {remedy}')
    for _, dataset in iter_dataset_cfgs((cfg.get('test_dataloader') or {}).get('dataset'), 'test'):
        dataset['pipeline'] = copy.deepcopy(cfg.tta_pipeline)


def set_tta(cfg: Config) -> None:
    """Test with the views of ``tta_pipeline``, merged by ``tta_model``."""
    set_tta_pipeline(cfg)
    one_map = [key for key, head in iter_heads(cfg, 'mmseg') if head.get('out_channels') == 1]
    if one_map and step_name(cfg.tta_model).endswith('SegTTAModel'):
        reason = f'{one_map[0]} has out_channels=1, of whose probabilities SegTTAModel takes the sigmoid once more'
        raise UserError(f"--tta: {reason}: set tta_model=dict(type='mmvit_ext.ScoreTTAModel')")
    cfg.tta_model.module, cfg.model = cfg.model, cfg.tta_model


def set_show_dir(cfg: Config, show_dir: str) -> None:
    """Draw the predictions of a test into a folder, with the config's visualization hook."""
    scope, folder = cfg.default_scope, str(writable_folder(show_dir, '--show-dir').absolute())
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not isinstance(hook, dict):
        raise UserError(f"--show-dir needs default_hooks.visualization=dict(type='...') of {scope} in the config")
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
