"""First values of weights, as plain ViTs have them."""

from __future__ import annotations

from mmengine.model.weight_init import trunc_normal_
from torch import nn

__all__ = ['init_linears']


def init_linears(module: nn.Module, kinds: tuple[type[nn.Module], ...] = (nn.Linear,)) -> None:
    """Truncated normal of deviation 0.02 for the weights of linear layers, zero for their biases, in place.

    Args:
        module: the layers inside it are initialised, in the order of ``modules()``.
        kinds: which layers; ``nn.Conv2d`` may be among them.
    """
    for layer in module.modules():
        if isinstance(layer, kinds):
            trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
