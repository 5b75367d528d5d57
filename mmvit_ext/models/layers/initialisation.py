"""First values of weights, as plain ViTs have them."""

from __future__ import annotations

from mmengine.model.weight_init import trunc_normal_
from torch import nn

__all__ = ['init_linears']


def init_linears(module: nn.Module, kinds: tuple[type[nn.Module], ...] = (nn.Linear,)) -> None:
    """Truncated normal of deviation 0.02 for the weights of layers of these kinds, zero for their biases, in place."""
    for layer in module.modules():
        if isinstance(layer, kinds):
            trunc_normal_(layer.weight, std=0.02)
            if isinstance(layer.bias, nn.Parameter):
                nn.init.zeros_(layer.bias)
