"""Stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmvit_ext.models.layers.open_sizes import is_traced

__all__ = ['DropPath']


class DropPath(nn.Module):
    """Leaves the branch of a whole image out with probability ``drop_prob``, in training, and scales what stays.

    Unlike in mmcv's module, what is kept is drawn and scaled in float32 at least, in two small kernels and one pass
    over the branch instead of three and two.
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
            return x * ((scale.uniform_() < kept) / kept)
        return x * scale.bernoulli_(kept).div_(kept)

    def extra_repr(self) -> str:
        return f'drop_prob={self.drop_prob}'
