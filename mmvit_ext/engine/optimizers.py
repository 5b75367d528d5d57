"""Several optimizers in one config, for models whose parts learn against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from torch import nn

from mmvit_ext.errors.user_error import UserError

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS

__all__ = ['MultiOptimWrapperConstructor']


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MultiOptimWrapperConstructor:
    """An optimizer for each named part of a model.

    Args:
        optim_wrapper_cfg: a complete ``optim_wrapper`` by the name of the part that it optimizes.
        paramwise_cfg: must be left out here; it belongs into the entry of a part.

    Raises:
        UserError: an entry is no ``optim_wrapper``, or there is a ``paramwise_cfg`` beside the entries.
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
        """Build them.

        Args:
            model: the model, whose parts the entries name.

        Returns:
            the optimizers by name.

        Raises:
            UserError: the model has no such part.
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
