"""MLP of a transformer layer (norm, linear, activation, linear) that never holds its wide tensor as a whole on a CPU.

Written out, a training step keeps two tensors of the inner width, what the activation and the second linear map read,
and the normalised input. Here one is kept, the output of the first map; norm and activation are computed again
backwards, and the first map too where its input is so narrow that this costs less than keeping what it gave. On a CPU
the rows are taken in pieces whose inner width a cache holds, so that the activation reads and writes no main memory.
Measured figures are in docs/benchmarks.md.

Shapes: R rows (tokens of all images), C input width, D inner width, E output width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from mmcv.cnn import build_activation_layer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmvit_ext.models.layers.autocast import autocast_dtype
from mmvit_ext.models.layers.compiling import is_compiling
from mmvit_ext.models.layers.inverted_residual import Activation, activate
from mmvit_ext.models.layers.linear import ROW_MULTIPLE, Linear, linear, linear_backward

__all__ = ['MLP', 'mlp', 'plain_mlp']

PIECE_BYTES = 4 * 2**20
"""Inner activation handled at once on a CPU (measured between 1 and 16 MiB)."""


def piece_rows(x: Tensor, inner: int) -> int:
    """Rows of ``(R, C)`` to take at once: about equal pieces of at most :data:`PIECE_BYTES` of inner width on a CPU."""
    rows = max(len(x), 1)
    if x.device.type != 'cpu':
        return rows
    count = -(-rows * inner * x.element_size() // PIECE_BYTES)
    return -(-rows // count // ROW_MULTIPLE) * ROW_MULTIPLE


def plain_mlp(x: Tensor, fc1: nn.Linear, fc2: nn.Linear, act: Activation, norm: nn.LayerNorm | None = None) -> Tensor:
    """:func:`mlp` as it reads."""
    return fc2(act(fc1(x if norm is None else norm(x))))


def mlp(
    x: Tensor, fc1: nn.Linear, fc2: nn.Linear, act: Activation, norm: nn.LayerNorm | None = None, keep: bool = True
) -> Tensor:
    """``fc2(act(fc1(norm(x))))``.

    Args:
        x: ``(..., C)``.
        fc1: linear map from C to D, with bias.
        fc2: linear map from D to E, with bias.
        act: element-wise activation without parameters, not in place.
        norm: layer norm over the last dimension, with weight and bias; None for no norm.
        keep: whether the output of ``fc1`` is kept for the backward pass rather than computed again.

    Returns:
        ``(..., E)``. Differentiable once.
    """
    dtype = autocast_dtype(x)
    rows = x.reshape(-1, x.shape[-1])
    weights: tuple[Any, ...] = (fc1.weight, fc1.bias, fc2.weight, fc2.bias)
    if dtype is not None:
        rows = rows if norm is not None else rows.to(dtype)  # a norm is computed in the type of its input
        weights = tuple(weight.to(dtype) for weight in weights)
    norm_weights = (None, None) if norm is None else (norm.weight, norm.bias)
    eps = 0.0 if norm is None else norm.eps
    tensors = (rows, *weights, *norm_weights)
    with torch.autocast(x.device.type, enabled=False) if dtype is not None else nullcontext():
        if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
            out = _MLP.apply(*tensors, eps, act, keep)
        else:
            out = _forward(tensors, eps, act, None)
    return out.unflatten(0, x.shape[:-1]) if x.ndim != 2 else out


def _forward(tensors: Sequence[Any], eps: float, act: Activation, kept: list[Tensor] | None) -> Tensor:
    """Piece by piece; ``kept`` takes what the first map gave."""
    x, weight1, bias1, weight2, bias2, *norm_weights = tensors
    rows = piece_rows(x, len(bias1))
    out = weight2.new_empty(len(x), len(bias2)) if rows < len(x) else None
    narrow = x
    for start in range(0, max(len(x), 1), rows):
        part, _ = _normalize(x[start : start + rows], norm_weights, eps, weight1.dtype)
        wide = linear(part, weight1, bias1)
        if kept is not None:
            kept.append(wide)
        narrow = linear(act(wide), weight2, bias2)
        if out is not None:
            out[start : start + rows] = narrow
    return narrow if out is None else out


def _normalize(
    x: Tensor, norm_weights: Sequence[Any], eps: float, dtype: torch.dtype
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Layer norm of rows if it has weights, with their mean and inverse deviation."""
    if norm_weights[0] is None:
        return x, None
    out, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], norm_weights[0], norm_weights[1], eps)
    return out.to(dtype), (mean, rstd)


class _MLP(torch.autograd.Function):
    """What ``fc1`` gave is kept for the backward pass, or nothing."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, eps, act, keep = arguments
        kept: list[Tensor] = []
        out = _forward(tensors, eps, act, kept if keep else None)
        x, weight1, bias1, weight2, _, *norm_weights = tensors
        ctx.save_for_backward(x, weight1, bias1, weight2, *norm_weights, *kept)
        ctx.eps, ctx.act = eps, act
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Checkpointing lets them be read once.
        x, weight1, bias1, weight2, norm_weight, norm_bias, *kept = ctx.saved_tensors
        norm_weights = (norm_weight, norm_bias)
        rows = len(kept[0]) if kept else piece_rows(x, len(bias1))
        grad = grad.contiguous()
        grad_x = torch.empty_like(x) if rows < len(x) else None
        narrow = x
        totals: list[Tensor] = []
        for index, start in enumerate(range(0, max(len(x), 1), max(rows, 1))):
            piece = slice(start, start + rows)
            part, statistics = _normalize(x[piece], norm_weights, ctx.eps, weight1.dtype)
            leaf, active = activate(kept[index] if kept else linear(part, weight1, bias1), ctx.act)
            grad_wide, *grads2 = linear_backward(grad[piece], active.detach(), weight2)
            (grad_wide,) = torch.autograd.grad(active, leaf, grad_wide)
            narrow, *grads1 = linear_backward(grad_wide, part, weight1)
            grads = [*grads1, *grads2]
            if statistics is not None:
                narrow, *norm_grads = torch.ops.aten.native_layer_norm_backward(
                    narrow.to(x.dtype), x[piece], x.shape[-1:], *statistics, *norm_weights, [True, True, True]
                )
                grads += norm_grads
            if grad_x is not None:
                grad_x[piece] = narrow
            totals = [total.add_(part) for total, part in zip(totals, grads, strict=True)] if totals else grads
        no_norm = [] if norm_weight is not None else [None, None]
        return (narrow if grad_x is None else grad_x, *totals, *no_norm, None, None, None)


class MLP(nn.Module):
    """``fc2(drop(act(fc1(x))))``, then dropout again, by way of :func:`mlp` wherever that computes the same.

    Args:
        embed_dims: width C of input and output.
        hidden_channels: inner width D.
        act_cfg: activation, mmcv style.
        drop: dropout of the activation and of the output, a probability.
        keep: whether the output of the first map is kept for the backward pass rather than computed again; not to keep
            it is quicker on a CPU where C is a few dozen.
    """

    def __init__(
        self,
        embed_dims: int,
        hidden_channels: int,
        *,
        act_cfg: Mapping[str, Any],
        drop: float = 0.0,
        keep: bool = True,
    ) -> None:
        super().__init__()
        self.fc1 = Linear(embed_dims, hidden_channels)
        self.fc2 = Linear(hidden_channels, embed_dims)
        self.act = build_activation_layer(dict(act_cfg))
        self.plain = any(True for _ in self.act.parameters()) or getattr(self.act, 'inplace', False)
        self.drop = nn.Dropout(drop)
        self.keep = keep

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """``(..., C)`` to ``(..., C)``; a ``norm`` is applied first, and not kept for the backward pass if it may."""
        dropping = self.training and self.drop.p > 0
        by_pieces = not (dropping or self.plain or is_compiling())
        fused = None
        if type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None and by_pieces:
            fused = norm
        elif norm is not None:
            x = norm(x)
        if not by_pieces:
            return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
        # Not the module itself: its hooks would fire a second time when the activation is computed again.
        return mlp(x, self.fc1, self.fc2, self.act.forward, fused, self.keep)
