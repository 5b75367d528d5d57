"""Self-attention of very many very short sequences with narrow heads, such as the 16 words of a patch in TNT.

A fused kernel runs two matrix products for each head of each sequence, of 16 x 6 by 6 x 16 numbers there, for which it
was not made. On a CPU it is quicker to do all of them in one batched product, with queries, keys and
values stored transposed, ``(C / h, N)`` for each head: then every product of both passes has N columns instead of
C / h, which fills the vector registers. Only the input is kept for the backward pass, where it is projected again.
Measured figures are in docs/benchmarks.md.

Shapes: G sequences, N tokens of each, C width, h heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmvit_ext.models.layers.attention import check_heads, multihead_attention
from mmvit_ext.models.layers.autocast import autocast_dtype
from mmvit_ext.models.layers.compiling import is_compiling
from mmvit_ext.models.layers.linear import Linear, linear_backward

__all__ = ['SelfAttention', 'short_attention']

MIN_TOKENS, MAX_TOKENS = 8, 64
"""Lengths for which this is quicker than the fused kernel (measured: slower with 4 tokens, quicker with 16 and 64)."""

PIECE_WEIGHTS = 2**18
"""Attention weights handled at once: what a cache holds (measured between 2**16 and 2**22)."""


def short_attention(x: Tensor, weight: Tensor, bias: Tensor | None, num_heads: int) -> Tensor:
    """Heads of self-attention, concatenated, from the tokens before the projection to queries, keys and values.

    Args:
        x: ``(G, N, C)``.
        weight: packed projection ``(3 C, C)``.
        bias: ``(3 C,)`` or None.
        num_heads: number of heads h; divides C.

    Returns:
        ``(G, N, C)``. Differentiable once.
    """
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _ShortAttention.apply(x, weight, bias, num_heads)
    return _forward(x, weight, bias, num_heads)


def _pieces(x: Tensor, num_heads: int) -> Iterator[slice]:
    """Slices of the sequences with at most :data:`PIECE_WEIGHTS` attention weights each."""
    step = max(PIECE_WEIGHTS // (num_heads * x.shape[1] ** 2), 1)
    return (slice(start, start + step) for start in range(0, len(x), step))


def _project(x: Tensor, weight: Tensor, bias: Tensor | None, num_heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys and values ``(G h, C/h, N)``, and attention weights ``(G h, N, N)``."""
    G, N, C = x.shape
    packed = x.new_empty(3, G, C, N)
    for index, part in enumerate(weight.view(3, 1, C, C)):
        torch.bmm(part.expand(G, C, C), x.transpose(1, 2), out=packed[index])
    if bias is not None:
        packed += bias.view(3, 1, C, 1)
    q, k, v = packed.view(3, G * num_heads, C // num_heads, N)
    scale = (C // num_heads) ** -0.5
    scores = torch.baddbmm(x.new_empty(1, 1, 1), q.transpose(1, 2), k, beta=0, alpha=scale)
    return q, k, v, scores.softmax(-1)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, num_heads: int) -> Tensor:
    out = torch.empty_like(x)
    for piece in _pieces(x, num_heads):
        _, _, v, weights = _project(x[piece], weight, bias, num_heads)
        heads = torch.bmm(v, weights.transpose(1, 2))  # (G h, C/h, N)
        out[piece] = heads.view(-1, x.shape[2], x.shape[1]).transpose(1, 2)
    return out


class _ShortAttention(torch.autograd.Function):
    """Keeps its input only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, num_heads: int) -> Tensor:
        ctx.save_for_backward(x, weight, *([] if bias is None else [bias]))
        ctx.num_heads = num_heads
        return _forward(x, weight, bias, num_heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *biases = ctx.saved_tensors
        bias, h = biases[0] if biases else None, ctx.num_heads
        _, N, C = x.shape
        packed_grad = x.new_empty(*x.shape[:2], 3 * C)
        for piece in _pieces(x, h):
            q, k, v, weights = _project(x[piece], weight, bias, h)
            part = grad[piece].transpose(1, 2).reshape(q.shape)  # (G h, C/h, N)
            grads = q.new_empty(3, *q.shape)
            torch.bmm(part, weights, out=grads[2])
            grad_scores = torch._softmax_backward_data(torch.bmm(part.transpose(1, 2), v), weights, -1, x.dtype)
            grad_scores.mul_((C // h) ** -0.5)
            torch.bmm(k, grad_scores.transpose(1, 2), out=grads[0])
            torch.bmm(q, grad_scores, out=grads[1])
            packed_grad[piece] = grads.view(3, -1, C, N).permute(1, 3, 0, 2).flatten(2)
        grad_x, grad_weight, grad_bias = linear_backward(packed_grad.flatten(0, 1), x.flatten(0, 1), weight)
        return grad_x.view(x.shape), grad_weight, grad_bias if biases else None, None


class SelfAttention(nn.Module):
    """Multi-head self-attention that takes the quickest equal route for its shape.

    Args:
        embed_dims: width C.
        num_heads: number of heads; divides C.
        qkv_bias: whether queries, keys and values have a bias.
        attn_drop: dropout of attention weights, a probability.
        proj_drop: dropout of the output, a probability.

    Raises:
        ValueError: if ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, N, C)``."""
        dropout = self.attn_drop.p if self.training else 0.0
        if dropout == 0 and self._is_short(x):
            out = short_attention(x, self.qkv.weight, self.qkv.bias, self.num_heads)
        else:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            out = multihead_attention(q, k, v, self.num_heads, dropout)
        return self.proj_drop(self.proj(out))

    @staticmethod
    def _is_short(x: Tensor) -> bool:
        """Whether batched products are quicker than the fused kernel."""
        return (
            not is_compiling()
            and x.device.type == 'cpu'
            and x.dtype in (torch.float32, torch.float64)
            and autocast_dtype(x) is None
            and MIN_TOKENS <= x.shape[1] <= MAX_TOKENS
        )
