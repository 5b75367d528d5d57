"""MLP of a transformer layer (linear, activation, linear) that never holds its wide activation as a whole on a CPU.

Written out, a training step keeps two tensors of the inner width: what the activation and the second linear map read.
Here one is kept, the output of the first map, and the activation is computed again backwards. On a CPU the rows are
taken in pieces whose inner width a cache holds, so that the activation reads and writes no main memory. Measured
figures are in docs/benchmarks.md.

Shapes: R rows (tokens of all images), C input width, D inner width, E output width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmcv.cnn import build_activation_layer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmvit_ext.models.layers.autocast import autocast_dtype
from mmvit_ext.models.layers.compiling import is_compiling
from mmvit_ext.models.layers.inverted_residual import Activation, activate
from mmvit_ext.models.layers.linear import Linear, linear, linear_backward

__all__ = ['MLP', 'mlp', 'plain_mlp']

PIECE_BYTES = 4 * 2**20
"""Inner activation handled at once on a CPU (measured between 1 and 16 MiB)."""


def piece_rows(x: Tensor, inner: int) -> int:
    """Rows of ``(R, C)`` to take at once: about equal pieces of at most :data:`PIECE_BYTES` of inner width on a CPU."""
    rows = max(len(x), 1)
    if x.device.type != 'cpu':
        return rows
    count = -(-rows * inner * x.element_size() // PIECE_BYTES)
    return -(-rows // count)


def plain_mlp(x: Tensor, fc1: nn.Linear, fc2: nn.Linear, act: Activation) -> Tensor:
    """:func:`mlp` as it reads."""
    return fc2(act(fc1(x)))


def mlp(x: Tensor, fc1: nn.Linear, fc2: nn.Linear, act: Activation) -> Tensor:
    """``fc2(act(fc1(x)))``.

    Args:
        x: ``(..., C)``.
        fc1: linear map from C to D, with bias.
        fc2: linear map from D to E, with bias.
        act: element-wise activation without parameters, not in place.

    Returns:
        ``(..., E)``. Differentiable once.
    """
    tensors: tuple[Any, ...] = (x.reshape(-1, x.shape[-1]), fc1.weight, fc1.bias, fc2.weight, fc2.bias)
    dtype = autocast_dtype(x)
    if dtype is None:
        out = _apply(act, *tensors)
    else:
        with torch.autocast(x.device.type, enabled=False):
            out = _apply(act, *(tensor.to(dtype) for tensor in tensors))
    return out.unflatten(0, x.shape[:-1]) if x.ndim != 2 else out


def _apply(act: Activation, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, weight1, bias1, weight2, bias2)):
        return _MLP.apply(x, weight1, bias1, weight2, bias2, act)
    return _forward(x, weight1, bias1, weight2, bias2, act, None)


def _forward(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    act: Activation,
    kept: list[Tensor] | None,
) -> Tensor:
    """Piece by piece; ``kept`` takes what the first map gave."""
    rows = piece_rows(x, len(bias1))
    out = x.new_empty(len(x), len(bias2)) if rows < len(x) else None
    narrow = x
    for start in range(0, max(len(x), 1), rows):
        wide = linear(x[start : start + rows], weight1, bias1)
        if kept is not None:
            kept.append(wide)
        narrow = linear(act(wide), weight2, bias2)
        if out is not None:
            out[start : start + rows] = narrow
    return narrow if out is None else out


class _MLP(torch.autograd.Function):
    """What ``fc1`` gave is kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, act: Activation
    ) -> Tensor:
        kept: list[Tensor] = []
        out = _forward(x, weight1, bias1, weight2, bias2, act, kept)
        ctx.save_for_backward(x, weight1, weight2, *kept)
        ctx.act = act
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight1, weight2, *kept = ctx.saved_tensors
        rows = len(kept[0])
        grad = grad.contiguous()
        grad_x = torch.empty_like(x) if len(kept) > 1 else None
        narrow = x
        totals: list[Tensor] = []
        for index, wide in enumerate(kept):
            piece = slice(index * rows, index * rows + rows)
            leaf, active = activate(wide, ctx.act)
            grad_wide, *grads2 = linear_backward(grad[piece], active.detach(), weight2)
            (grad_wide,) = torch.autograd.grad(active, leaf, grad_wide)
            narrow, *grads1 = linear_backward(grad_wide, x[piece], weight1)
            if grad_x is not None:
                grad_x[piece] = narrow
            parts = [*grads1, *grads2]
            totals = [total.add_(part) for total, part in zip(totals, parts, strict=True)] if totals else parts
        return (narrow if grad_x is None else grad_x, *totals, None)


class MLP(nn.Module):
    """``fc2(drop(act(fc1(x))))``, then dropout again, by way of :func:`mlp` wherever that computes the same.

    Args:
        embed_dims: width C of input and output.
        hidden_channels: inner width D.
        act_cfg: activation, mmcv style.
        drop: dropout of the activation and of the output, a probability.
    """

    def __init__(self, embed_dims: int, hidden_channels: int, *, act_cfg: Mapping[str, Any], drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(embed_dims, hidden_channels)
        self.fc2 = Linear(hidden_channels, embed_dims)
        self.act = build_activation_layer(dict(act_cfg))
        self.plain = any(True for _ in self.act.parameters()) or getattr(self.act, 'inplace', False)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to ``(..., C)``."""
        dropping = self.training and self.drop.p > 0
        if dropping or self.plain or is_compiling():
            return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
        # Not the module itself: its hooks would fire a second time when the activation is computed again.
        return mlp(x, self.fc1, self.fc2, self.act.forward)
