"""Optimizer wrappers beyond mmengine's: mixed precision on a CPU, and an optimizer for each part of a model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from torch import nn

from mmvit_ext.errors import UserError
from mmvit_ext.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

__all__ = ['CPUAmpOptimWrapper', 'MultiOptimWrapperConstructor']


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """An optimizer wrapper that runs the forward pass in bfloat16 on the CPU, where ``AmpOptimWrapper`` refuses to.

    bfloat16 has the exponent range of float32, so unlike float16 it needs no loss scaling. Weights, gradients and the
    optimizer stay in float32. Takes the arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of the forward pass."""
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MultiOptimWrapperConstructor:
    """An optimizer for each named part of a model, for parts that learn against each other.

    Args:
        optim_wrapper_cfg: A complete ``optim_wrapper`` by the name of the part that it optimizes.
        paramwise_cfg: Must be left out here; it belongs into the entry of a part.

    Raises:
        UserError: An entry is no ``optim_wrapper``, or there is a ``paramwise_cfg`` beside the entries.
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
        """Build the optimizers by name.

        Raises:
            UserError: The model has no such part.
        """
        if is_model_wrapper(model):
            model = cast('nn.Module', model.module)
        parts = dict(model.named_children())
        for name in self.optim_wrapper_cfg:
            if name not in parts:
                raise UserError(
                    f'optim_wrapper.{name} names no part of {type(model).__name__}, which has {", ".join(parts)}: '
                    'rename or remove it'
                )
        return OptimWrapperDict(
            **{name: build_optim_wrapper(parts[name], dict(entry)) for name, entry in self.optim_wrapper_cfg.items()}
        )
