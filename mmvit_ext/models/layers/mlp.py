"""The MLP of a transformer layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcv.cnn import build_activation_layer
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

__all__ = ['MLP']


class MLP(nn.Module):
    """``drop(fc2(drop(act(fc1(x)))))``."""

    def __init__(self, embed_dims: int, hidden_channels: int, *, act_cfg: Mapping[str, Any], drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_channels)
        self.act = build_activation_layer(dict(act_cfg))
        self.fc2 = nn.Linear(hidden_channels, embed_dims)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


def init_linears(module: nn.Module, kinds: tuple[type[nn.Module], ...] = (nn.Linear,)) -> None:
    """Truncated normal of deviation 0.02 for the weights of layers of these kinds, zero for their biases, in place."""
    for layer in module.modules():
        if isinstance(layer, kinds):
            trunc_normal_(layer.weight, std=0.02)
            if isinstance(layer.bias, nn.Parameter):
                nn.init.zeros_(layer.bias)
