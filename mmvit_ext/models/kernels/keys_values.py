"""Keys and values of all layers of an ATM stage in one matrix product: they look at the same tokens.

A decoder of few queries is bound by the launches of its kernels. One product takes the place of six in a stage of three
layers, forwards and twice backwards, and no gradients of the tokens are added up. The weights are copied side by side
in each step. The plain form are the layers' own ``k`` and ``v``.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from mmvit_ext.models.layers.attention import SplitAttention

__all__ = ['keys_values']


def keys_values(attentions: Sequence[SplitAttention], tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values ``(B, L, D)`` of every attention, from the tokens ``(B, L, D)`` that all of them look at."""
    linears = [linear for attention in attentions for linear in (attention.k, attention.v)]
    weight, bias = torch.cat([linear.weight for linear in linears]), torch.cat([linear.bias for linear in linears])
    parts = F.linear(tokens, weight, bias).chunk(len(linears), -1)
    return list(zip(parts[::2], parts[1::2], strict=True))
