"""Stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmvit_ext.models.layers.open_sizes import is_traced

__all__ = ['DropPath']


class DropPath(nn.Module):
    """Leaves the branch of a whole image out with probability ``drop_prob``, in training, and scales what stays.

    Unlike in mmcv's module, what is kept is drawn and scaled in float32 at least, in two small kernels and one pass
    over the branch instead of three and two. The result has the type of the branch; under autocast it stays in float32.
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0 or not self.training:
            return x
        kept = 1 - self.drop_prob
        scale = x.new_empty(len(x), *(1,) * (x.ndim - 1), dtype=torch.promote_types(x.dtype, torch.float32))
        if is_traced():  # bernoulli_ would make the probability a constant, and every layer a graph of its own
            scale = (scale.uniform_() < kept) / kept
        else:
            scale.bernoulli_(kept).div_(kept)
        return x * scale if _is_autocast(x) else (x * scale).to(x.dtype)

    def extra_repr(self) -> str:
        return f'drop_prob={self.drop_prob}'


def _is_autocast(x: Tensor) -> bool:
    """Whether autocast is on for a tensor's device, or may be for the one that ``meta`` stands for."""
    if hasattr(torch, 'get_autocast_dtype'):  # torch before 2.4 asks in another way
        return x.device.type == 'meta' or torch.is_autocast_enabled(x.device.type)
    return torch.is_autocast_cpu_enabled() if x.device.type == 'cpu' else torch.is_autocast_enabled()
