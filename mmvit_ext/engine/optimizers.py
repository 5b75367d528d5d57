"""Optimizers beyond mmengine's: mixed precision on a CPU, one for each part of a model, rates by depth."""

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.registry import OPTIMIZERS
from torch import nn

from mmvit_ext.engine.hooks.reports import bare_model
from mmvit_ext.errors import UserError
from mmvit_ext.machine import warn_of_emulated_bfloat16
from mmvit_ext.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

__all__ = ['CPUAmpOptimWrapper', 'LayerDecayConstructor', 'MergedGroupsConstructor', 'MultiOptimWrapperConstructor']

UNDECAYED = re.compile(r'bias$|(?:^|[._])(?:\w*token\w*|pos_embeds?(?:\.\d+)?|\w+_pos|\w*position\w*|rel_pos\w*)$')
"""Parameters without weight decay: biases, class tokens, registers, position embeddings and tables."""

NO_RATE = 'optim_wrapper.paramwise_cfg needs decay_rate, for example decay_rate=0.9'


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """mmengine's ``OptimWrapper`` with the forward pass in bfloat16 on the CPU, where ``AmpOptimWrapper`` refuses to.

    bfloat16 needs no loss scaling. Weights, gradients and the optimizer stay in float32.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        warn_of_emulated_bfloat16()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedGroupsConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor with one group of parameters for each setting instead of for each parameter.

    mmengine makes a group of every parameter as soon as there is a ``paramwise_cfg``, 504 for SegViT-L, and optimizers
    take their steps group by group. On a GPU the optimizer is ``fused=True`` where it can be and the config says
    nothing else.
    :class:`mmvit_ext.engine.ResumedConfigHook` resumes checkpoints with a group for each parameter, and the other way
    round.

    Args:
        optim_wrapper_cfg: As mmengine's: the ``optim_wrapper`` of the config.
        paramwise_cfg: As mmengine's.
    """

    optimizer_cfg: dict[str, Any]

    def __call__(self, model: nn.Module) -> OptimWrapper:
        self.optimizer_cfg = with_fused(self.optimizer_cfg, model)
        return super().__call__(model)

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, prefix: str = '', **kwargs: Any) -> None:
        super().add_params(params, module, prefix=prefix, **kwargs)
        if not prefix:
            params[:] = merged_groups(params)


def merged_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of parameters with those of equal options put together, in the order of their first parameters."""
    merged: list[dict[str, Any]] = []
    for group in groups:
        options = {**group, 'params': None}
        same = next((entry for entry in merged if {**entry, 'params': None} == options), None)
        if same is None:
            merged.append({**group, 'params': list(group['params'])})
        else:
            same['params'] += group['params']
    return merged


def with_fused(optimizer_cfg: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The config of a model's optimizer, on a GPU with all parameters updated by one kernel if its class can do so."""
    on_gpu = all(parameter.is_cuda for parameter in model.parameters())
    if not on_gpu or {'fused', 'foreach', 'differentiable'} & {*optimizer_cfg}:
        return optimizer_cfg
    kind = optimizer_cfg['type']
    with OPTIMIZERS.switch_scope_and_registry(None) as registry:
        kind = registry.get(kind) if isinstance(kind, str) else kind
    fuses = kind is not None and 'fused' in inspect.signature(kind).parameters
    return {**optimizer_cfg, 'fused': True} if fuses else optimizer_cfg


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MultiOptimWrapperConstructor:
    """An optimizer for each named part of a model, for parts that learn against each other.

    Args:
        optim_wrapper_cfg: A complete ``optim_wrapper`` by the name of the part that it optimizes.
        paramwise_cfg: Must be left out here; it belongs into the entry of a part.

    Raises:
        UserError: An entry is no ``optim_wrapper``, the model has no such part, or ``paramwise_cfg`` is here.
    """

    def __init__(self, optim_wrapper_cfg: Mapping[str, Any], paramwise_cfg: Mapping[str, Any] | None = None) -> None:
        if paramwise_cfg:
            part = f'optim_wrapper.{next(iter(optim_wrapper_cfg), "generator")}'
            raise UserError(f'optim_wrapper.paramwise_cfg is for one optimizer: write {part}.paramwise_cfg')
        for name, entry in optim_wrapper_cfg.items():
            if not isinstance(entry, Mapping) or 'optimizer' not in entry:
                wanted = "the optim_wrapper of a part of the model, dict(optimizer=dict(type='Adam', ...))"
                raise UserError(f'optim_wrapper.{name} is {entry!r}: expected {wanted}')
        self.optim_wrapper_cfg = optim_wrapper_cfg

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        model = bare_model(model)
        parts = dict(model.named_children())
        if unknown := [name for name in self.optim_wrapper_cfg if name not in parts]:
            known = f'{type(model).__name__}, which has {", ".join(parts)}'
            raise UserError(f'optim_wrapper.{unknown[0]} names no part of {known}: rename or remove it')
        default = {'constructor': 'mmvit_ext.MergedGroupsConstructor'}
        configs = {name: {**default, **cfg} for name, cfg in self.optim_wrapper_cfg.items()}
        wrappers = {name: build_optim_wrapper(parts[name], cfg) for name, cfg in configs.items()}
        return OptimWrapperDict(**wrappers)


def _refuse_ignored(options: Mapping[str, Any]) -> None:
    """Raise ``UserError`` for settings of a decay by layers that would have no effect."""
    known = {'decay_rate', 'layer_decay_rate', 'num_layers', 'custom_keys'}
    without = {'decay_type': 'layer_wise', 'norm_decay_mult': 0, 'bias_decay_mult': 0, 'flat_decay_mult': 0}
    for key, value in options.items():
        if key not in known and value != without.get(key, value if key == 'bypass_duplicate' else None):
            place = f'optim_wrapper.paramwise_cfg.{key}={value!r}'
            raise UserError(f'{place} has no effect with a decay by layers: remove it')
    for name, entry in options.get('custom_keys', {}).items():
        if ignored := [key for key in entry if key not in ('lr_mult', 'decay_mult')]:
            place = f'optim_wrapper.paramwise_cfg.custom_keys[{name!r}].{ignored[0]}'
            raise UserError(f'{place} has no effect with a decay by layers, lr_mult and decay_mult have: remove it')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(name=['LayerDecayConstructor', 'LearningRateDecayOptimizerConstructor'])
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Learning rates that fall with the depth, for any backbone with ``get_layer_depth``.

    It takes the arguments of mmseg's and mmdet's ``LearningRateDecayOptimizerConstructor``, which knows ConvNeXt, BEiT
    and MAE only. A parameter of layer i of n gets ``decay_rate ** (n - 1 - i)`` of the learning rate. Parameters with
    one dimension, tokens and positions have no weight decay. Each layer has a group with and one without, and one for
    each other setting.

    Args:
        optim_wrapper_cfg: The ``optim_wrapper`` of the config.
        paramwise_cfg: ``decay_rate``, or ``layer_decay_rate`` as mmpretrain calls it; ``num_layers``, which may be left
            out, is compared with the backbone's number of blocks; ``custom_keys`` with a ``decay_mult`` or ``lr_mult``
            for parameters whose name holds the key, such as ``dict(decode_head=dict(lr_mult=10))``.

    Raises:
        UserError: There is no decay rate, a setting has no effect, or the backbone has another number of layers or does
            not know their depth.
    """

    optimizer_cfg: dict[str, Any]

    def __call__(self, model: nn.Module) -> OptimWrapper:
        if not self.paramwise_cfg:  # mmengine would not ask for groups then
            raise UserError(NO_RATE)
        self.optimizer_cfg = with_fused(self.optimizer_cfg, model)
        return super().__call__(model)

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **kwargs: Any) -> None:
        model = bare_model(module)
        get_depth = getattr(getattr(model, 'backbone', None), 'get_layer_depth', None)
        if get_depth is None:
            found = f'{type(model).__name__} has {type(getattr(model, "backbone", None)).__name__}'
            raise UserError(f'optim_wrapper.constructor needs get_layer_depth of an mmvit_ext backbone; {found}')
        rate = self.paramwise_cfg.get('decay_rate', self.paramwise_cfg.get('layer_decay_rate'))
        if rate is None:
            raise UserError(NO_RATE)
        wanted, custom = self.paramwise_cfg.get('num_layers'), self.paramwise_cfg.get('custom_keys', {})
        _refuse_ignored(self.paramwise_cfg)
        groups: dict[tuple[int, float, float], dict[str, Any]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            layer, num_layers = get_depth(name, 'backbone.')
            if wanted is not None and wanted != num_layers - 2:
                found = f'is {wanted}, but the backbone has {num_layers - 2} blocks'
                raise UserError(f'optim_wrapper.paramwise_cfg.num_layers {found}: set that number or leave it out')
            matching = custom.get(max((key for key in custom if key in name), key=len, default=None), {})
            undecayed = parameter.ndim == 1 or UNDECAYED.search(name)
            decay = (self.base_wd or 0.0) * matching.get('decay_mult', 0.0 if undecayed else 1.0)
            scale, factor = rate ** (num_layers - 1 - layer), matching.get('lr_mult', 1.0)
            options = {'params': [], 'lr': scale * factor * self.base_lr, 'lr_scale': scale, 'weight_decay': decay}
            groups.setdefault((layer, decay, factor), options)['params'].append(parameter)
        params.extend(groups[key] for key in sorted(groups))
