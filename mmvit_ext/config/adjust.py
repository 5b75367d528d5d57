"""Changes that an argument of a command makes to a config: precision, tolerance of faults, test-time augmentation."""

import copy
from collections.abc import Mapping

import torch
from mmengine.config import Config, ConfigDict

from mmvit_ext.config.walking import iter_dataset_cfgs
from mmvit_ext.errors.user_error import UserError

__all__ = [
    'set_tta_pipeline',
]


def set_tta_pipeline(cfg: Config) -> None:
    """Let the test dataset make the views of ``tta_pipeline``, in place.

    Args:
        cfg: A config with a ``test_dataloader``.

    Raises:
        UserError: It has no test-time augmentation.
    """
    absent = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if absent:
        raise UserError(
            f'--tta: {cfg.filename} has no {" and no ".join(absent)}: add them to the config, they say which views are '
            'merged and how'
        )
    for _, dataset in iter_dataset_cfgs((cfg.get('test_dataloader') or {}).get('dataset'), 'test'):
        dataset['pipeline'] = copy.deepcopy(cfg.tta_pipeline)


def _complete_mmpretrain_loaders(cfg: Config) -> None:
    # mmpretrain's configs rely on its train script for this: without it the samples arrive as a list.
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if isinstance(loader, dict):
            loader.setdefault('collate_fn', ConfigDict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())


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
