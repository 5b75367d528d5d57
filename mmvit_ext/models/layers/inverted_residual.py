"""Inverted bottleneck (1x1, depthwise 3x3, 1x1 convolution) that never holds its wide map as a whole on a CPU.

Written out, a training step keeps four maps of the inner width: what each activation and the convolution after it read.
Here one is kept, the output of the first convolution, and the others are computed again backwards; an element-wise
function and a depthwise convolution cost a few per cent of the two products. On a CPU the wide map is made in pieces
that its cache holds, whole images or strips of rows. Measured figures are in
docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmvit_ext.models.layers.autocast import autocast_dtype

__all__ = ['inverted_residual', 'plain_inverted_residual']

PIECE_BYTES = 6 * 2**20
"""Inner map handled at once on a CPU (measured between 1 and 8 MiB)."""

Activation = Callable[[Tensor], Tensor]


class Piece(NamedTuple):
    """Rows ``start`` to ``stop`` of ``images``; the depthwise convolution reads the rows of ``halo``."""

    images: slice
    start: int
    stop: int
    halo: slice

    @property
    def margins(self) -> tuple[int, int]:
        """Rows of the halo above and below the piece."""
        return self.start - self.halo.start, self.halo.stop - self.stop

    @property
    def inner(self) -> slice:
        """The rows without their neighbours, counted from the first row of the halo."""
        return slice(self.start - self.halo.start, self.stop - self.halo.start)


def pieces(x: Tensor, inner_channels: int) -> list[Piece]:
    """Cut a batch of maps ``(B, C, H, W)`` so that a piece has at most :data:`PIECE_BYTES` of inner map on a CPU."""
    B, _, H, W = x.shape
    row_bytes = W * inner_channels * x.element_size()
    images = max(PIECE_BYTES // (H * row_bytes), 1) if x.device.type == 'cpu' else B
    strips = -(-H * row_bytes // PIECE_BYTES) if x.device.type == 'cpu' else 1
    rows = -(-H // min(strips, H))
    return [
        Piece(slice(first, first + images), start, stop, slice(max(start - 1, 0), min(stop + 1, H)))
        for first in range(0, B, images)
        for start, stop in ((start, min(start + rows, H)) for start in range(0, H, rows))
    ]


def activate(x: Tensor, act: Activation) -> tuple[Tensor, Tensor]:
    """The input as a leaf, and its activation with a graph of this one step."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        return leaf, act(leaf)


def convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *, with_bias: bool = True
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of input, weight and bias of a 1x1 or a depthwise convolution that keeps the map's size."""
    padding, groups = weight.shape[-1] // 2, x.shape[1] // weight.shape[1]
    backward = torch.ops.aten.convolution_backward
    wanted = [True, True, with_bias]
    return backward(grad, x, weight, [len(weight)], [1, 1], [padding] * 2, [1, 1], False, [0, 0], groups, wanted)


def plain_inverted_residual(x: Tensor, fc1: nn.Conv2d, conv: nn.Conv2d, fc2: nn.Conv2d, act: Activation) -> Tensor:
    """:func:`inverted_residual` as it reads."""
    return fc2(act(conv(act(fc1(x)))))


def inverted_residual(x: Tensor, fc1: nn.Conv2d, conv: nn.Conv2d, fc2: nn.Conv2d, act: Activation) -> Tensor:
    """``fc2(act(conv(act(fc1(x)))))``.

    Args:
        x: ``(B, C, H, W)``; channels-last memory is quickest.
        fc1: 1x1 convolution from C to D channels, with bias.
        conv: depthwise 3x3 convolution of D channels with one pixel of zero padding, with bias.
        fc2: 1x1 convolution from D to E channels, with bias.
        act: element-wise activation without parameters, not in place.

    Returns:
        ``(B, E, H, W)``, channels-last. Differentiable once.
    """
    tensors: tuple[Any, ...] = (x, fc1.weight, fc1.bias, conv.weight, conv.bias, fc2.weight, fc2.bias)
    dtype = autocast_dtype(x)
    if dtype is None:
        return _InvertedResidual.apply(*tensors, act)
    with torch.autocast(x.device.type, enabled=False):
        return _InvertedResidual.apply(*(tensor.to(dtype) for tensor in tensors), act)


class _InvertedResidual(torch.autograd.Function):
    """Piece by piece; of the inner maps, only what ``fc1`` gave is kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        weight: Tensor,
        bias: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        act: Activation,
    ) -> Tensor:
        B, _, H, W = x.shape
        out = x.new_empty(B, H, W, weight2.shape[0]).permute(0, 3, 1, 2)
        kept, cut = [], pieces(x, len(bias1))
        for piece in cut:
            wide = F.conv2d(x[piece.images, :, piece.halo], weight1, bias1)
            if any(ctx.needs_input_grad):
                kept.append(wide)
            wide = act(F.conv2d(act(wide), weight, bias, padding=1, groups=len(bias)))
            narrow = F.conv2d(wide[:, :, piece.inner], weight2, bias2)
            if len(cut) == 1:
                out = narrow
            else:
                out[piece.images, :, piece.start : piece.stop] = narrow
        ctx.save_for_backward(x, weight1, weight, bias, weight2, *kept)
        ctx.act = act
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight1, weight, bias, weight2, *kept = ctx.saved_tensors
        grad_x = torch.zeros_like(x)
        totals: list[Any] = []
        for piece, wide in zip(pieces(x, len(bias)), kept, strict=True):
            part = x[piece.images, :, piece.halo]
            # Zero outside the piece: narrow rows are padded instead of wide ones.
            grad_out = F.pad(grad[piece.images, :, piece.start : piece.stop], (0, 0, *piece.margins))
            grad_part, *parts = _piece_backward(grad_out, part, wide, weight1, weight, bias, weight2, ctx.act)
            grad_x[piece.images, :, piece.halo] += grad_part
            totals = [total.add_(part) for total, part in zip(totals, parts, strict=True)] if totals else parts
        return (grad_x, *totals, grad.sum((0, 2, 3)), None)


def _piece_backward(
    grad: Tensor,
    x: Tensor,
    wide: Tensor,
    weight1: Tensor,
    weight: Tensor,
    bias: Tensor,
    weight2: Tensor,
    act: Activation,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None, Tensor]:
    """Gradients of a piece's input and of both weights and biases before ``bias2``; ``wide`` is what ``fc1`` gave.

    Names are used again so that each wide map is freed before the next one is made: a cache holds a few of them.
    """
    wide1, active1 = activate(wide, act)
    hidden = active1.detach()
    wide, active = activate(F.conv2d(hidden, weight, bias, padding=1, groups=len(bias)), act)
    grad, grad_weight2, _ = convolution_backward(grad, active.detach(), weight2, with_bias=False)
    (grad,) = torch.autograd.grad(active, wide, grad)
    del wide, active
    grad, grad_weight, grad_bias = convolution_backward(grad, hidden, weight)
    (grad,) = torch.autograd.grad(active1, wide1, grad)
    grad_x, grad_weight1, grad_bias1 = convolution_backward(grad, x, weight1)
    return grad_x, grad_weight1, grad_bias1, grad_weight, grad_bias, grad_weight2
