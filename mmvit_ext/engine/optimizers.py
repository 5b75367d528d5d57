"""Optimizers beyond mmengine's: mixed precision on a CPU, one for each part of a model, rates by depth."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, OptimWrapperDict, build_optim_wrapper
from torch import nn

from mmvit_ext.engine.hooks.reports import bare_model
from mmvit_ext.errors import UserError
from mmvit_ext.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

__all__ = ['CPUAmpOptimWrapper', 'LayerDecayConstructor', 'MultiOptimWrapperConstructor']

UNDECAYED = re.compile(r'bias$|(?:^|[._])(?:\w*token\w*|pos_embeds?(?:\.\d+)?|\w+_pos|\w*position\w*|rel_pos\w*)$')
"""Parameters without weight decay: biases, class tokens, registers, position embeddings and tables."""


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """An optimizer wrapper that runs the forward pass in bfloat16 on the CPU, where ``AmpOptimWrapper`` refuses to.

    bfloat16 needs no loss scaling. Weights, gradients and the optimizer stay in float32. Takes the arguments of
    :class:`mmengine.optim.OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield


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
            raise UserError(
                'optim_wrapper.paramwise_cfg is for one optimizer and this config has several: put it into the entry '
                f'of a part, for example optim_wrapper.{next(iter(optim_wrapper_cfg), "generator")}.paramwise_cfg'
            )
        for name, entry in optim_wrapper_cfg.items():
            if not isinstance(entry, Mapping) or 'optimizer' not in entry:
                raise UserError(
                    f'optim_wrapper.{name} is {entry!r}: expected the optim_wrapper of a part of the model, '
                    "dict(optimizer=dict(type='Adam', ...))"
                )
        self.optim_wrapper_cfg = optim_wrapper_cfg

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        model = bare_model(model)
        parts = dict(model.named_children())
        if unknown := [name for name in self.optim_wrapper_cfg if name not in parts]:
            raise UserError(
                f'optim_wrapper.{unknown[0]} names no part of {type(model).__name__}, which has {", ".join(parts)}: '
                'rename or remove it'
            )
        return OptimWrapperDict(
            **{name: build_optim_wrapper(parts[name], dict(entry)) for name, entry in self.optim_wrapper_cfg.items()}
        )


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(name=['LayerDecayConstructor', 'LearningRateDecayOptimizerConstructor'])
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Learning rates that fall with the depth, for any backbone with ``get_layer_depth``.

    mmseg's and mmdet's ``LearningRateDecayOptimizerConstructor``, whose name and arguments this one takes as well,
    decides by the name of the backbone's class and knows ConvNeXt, BEiT and MAE only. A parameter of layer i of n gets
    ``decay_rate ** (n - 1 - i)`` of the learning rate, so that heads keep it whole. Biases, norms and other parameters
    with one dimension, tokens and positions have no weight decay. There is one parameter group for each layer with and
    one without weight decay.

    Args:
        optim_wrapper_cfg: The ``optim_wrapper`` of the config.
        paramwise_cfg: ``decay_rate``, or ``layer_decay_rate`` as mmpretrain calls it; ``num_layers``, which may be left
            out, is compared with the backbone's number of blocks; ``custom_keys`` with a ``decay_mult`` for parameters
            whose name holds the key.

    Raises:
        UserError: There is no decay rate, or the backbone has another number of layers or does not know their depth.
    """

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **kwargs: Any) -> None:
        model = bare_model(module)
        get_depth = getattr(getattr(model, 'backbone', None), 'get_layer_depth', None)
        if get_depth is None:
            raise UserError(
                f'optim_wrapper.constructor needs a backbone with get_layer_depth, such as those of mmvit_ext; '
                f'{type(model).__name__} has {type(getattr(model, "backbone", None)).__name__}'
            )
        rate = self.paramwise_cfg.get('decay_rate', self.paramwise_cfg.get('layer_decay_rate'))
        if rate is None:
            raise UserError('optim_wrapper.paramwise_cfg needs decay_rate, for example decay_rate=0.9')
        wanted, custom = self.paramwise_cfg.get('num_layers'), self.paramwise_cfg.get('custom_keys', {})
        groups: dict[tuple[int, float], dict[str, Any]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            layer, num_layers = get_depth(name, 'backbone.')
            if wanted is not None and wanted != num_layers - 2:
                raise UserError(
                    f'optim_wrapper.paramwise_cfg.num_layers is {wanted}, but the backbone has '
                    f'{num_layers - 2} blocks: set that number or leave num_layers out'
                )
            matching = max((key for key in custom if key in name), key=len, default=None)
            decay = 0.0 if parameter.ndim == 1 or UNDECAYED.search(name) else self.base_wd or 0.0
            if matching is not None:
                decay = (self.base_wd or 0.0) * custom[matching].get('decay_mult', 1.0)
            scale = rate ** (num_layers - 1 - layer)
            options = {'params': [], 'lr': scale * self.base_lr, 'lr_scale': scale, 'weight_decay': decay}
            groups.setdefault((layer, decay), options)['params'].append(parameter)
        params.extend(groups[key] for key in sorted(groups))
