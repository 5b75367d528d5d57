"""Multi-head attention through one fused entry point, and the two ways its projections are stored.

Shapes: B batch, N queries, L keys, C width, h heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmvit_ext.models.layers.compiling import is_compiling
from mmvit_ext.models.layers.linear import Linear, linear

__all__ = ['PackedAttention', 'SplitAttention', 'check_heads', 'multihead_attention']

RANDOM_LEVELS = 2**16
"""Resolution of the random numbers that decide which attention weights are zeroed on a CPU."""

MIN_QUERIES = 512
"""Queries are not cut into parts of fewer than these."""

BLOCK = 2**18
"""Attention weights handled at once on a CPU: what its cache holds."""


def check_heads(embed_dims: int, num_heads: int) -> None:
    """Raise ``ValueError`` unless ``num_heads`` is positive and divides ``embed_dims``."""
    if num_heads < 1 or embed_dims % num_heads:
        raise ValueError(f'num_heads must divide embed_dims, got num_heads={num_heads} and embed_dims={embed_dims}')


def multihead_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int, dropout: float = 0.0) -> Tensor:
    r"""Scaled dot-product attention of all heads, ``softmax(q k^T / sqrt(C / h)) v`` per head.

    Args:
        q: projected queries ``(B, N, C)``.
        k: projected keys ``(B, L, C)``.
        v: projected values ``(B, L, C)``.
        num_heads: number of heads h; divides C.
        dropout: probability with which an attention weight is zeroed; 0 outside training.

    Returns:
        ``(B, N, C)``, heads concatenated.

    Note:
        With dropout the CPU has no fused kernel, and the unfused one keeps three ``(B, h, N, L)`` tensors for the
        backward pass and draws random numbers one by one. :class:`_DropoutAttention` keeps one boolean tensor.
    """
    B, N, C = q.shape
    parts = _query_parts(q, num_heads)
    if parts > 1:
        q, k, v = q.reshape(B * parts, N // parts, C), k.repeat_interleave(parts, 0), v.repeat_interleave(parts, 0)
    q, k, v = (x.unflatten(-1, (num_heads, C // num_heads)).transpose(1, 2) for x in (q, k, v))  # (B, h, *, C/h)
    if dropout > 0 and q.device.type == 'cpu':
        out = _DropoutAttention.apply(q, k, v, dropout)
    else:
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    return out.transpose(1, 2).reshape(B, N, C)


def _query_parts(q: Tensor, num_heads: int) -> int:
    """Parts of the queries to treat as images of a batch.

    A CPU's backward kernel gives a thread whole images and heads; with few of them, some threads would have none.
    """
    B, N, _ = q.shape
    if is_compiling() or q.device.type != 'cpu' or not q.requires_grad:
        return 1
    threads = torch.get_num_threads()
    parts = threads // math.gcd(B * num_heads, threads)
    few = B * num_heads < 4 * threads
    return parts if few and N % parts == 0 and N // parts >= MIN_QUERIES else 1


class _DropoutAttention(torch.autograd.Function):
    """Attention with dropped weights on a CPU, in blocks that fit a cache; weights are computed again backwards."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        B, h, N, _ = q.shape
        scaled = (q * q.shape[-1] ** -0.5).flatten(0, 1)  # (B h, N, C/h)
        k, v = k.flatten(0, 1), v.flatten(0, 1)
        out = torch.empty_like(scaled)
        kept = scaled.new_empty(B * h, N, k.shape[1], dtype=torch.bool)
        rate = 1.0
        for heads, rows in _blocks(kept.shape):
            weights = torch.bmm(scaled[heads, rows], k[heads].transpose(1, 2)).softmax(-1)
            mask, rate = _random_mask(weights.shape, dropout)
            kept[heads, rows] = mask
            # Multiplying by floats is several times quicker than masked_fill or multiplying by booleans.
            out[heads, rows] = torch.bmm(weights.mul_(mask.to(weights.dtype)), v[heads])
        out.div_(rate)
        ctx.save_for_backward(scaled, k, v, kept, out)
        ctx.rate = rate
        return out.unflatten(0, (B, h))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scaled, k, v, kept, out = ctx.saved_tensors
        heads_shape, scale = grad.shape[:2], grad.shape[-1] ** -0.5
        grad = grad.flatten(0, 1)
        mean_grad = (grad * out).sum(-1, keepdim=True)  # = sum over keys of a weight times its gradient
        grad = grad / ctx.rate
        grad_q, grad_k, grad_v = torch.empty_like(scaled), torch.zeros_like(k), torch.zeros_like(v)
        for heads, rows in _blocks(kept.shape):
            q, part, mask = scaled[heads, rows], grad[heads, rows], kept[heads, rows].to(scaled.dtype)
            weights = torch.bmm(q, k[heads].transpose(1, 2)).softmax(-1)
            grad_scores = torch.bmm(part, v[heads].transpose(1, 2)).mul_(mask)
            grad_scores.sub_(mean_grad[heads, rows]).mul_(weights)
            grad_q[heads, rows] = torch.bmm(grad_scores, k[heads])
            grad_k[heads].baddbmm_(grad_scores.transpose(1, 2), q)
            grad_v[heads].baddbmm_(weights.mul_(mask).transpose(1, 2), part)
        return (*(x.unflatten(0, heads_shape) for x in (grad_q.mul_(scale), grad_k, grad_v)), None)


def _blocks(shape: torch.Size) -> Iterator[tuple[slice, slice]]:
    """Slices of heads and rows that cut ``(heads, rows, columns)`` into pieces of at most :data:`BLOCK` elements."""
    G, N, L = shape
    heads = max(1, BLOCK // (N * L))
    rows = min(N, max(1, BLOCK // L))
    for first_head in range(0, G, heads):
        for first_row in range(0, N, rows):
            yield slice(first_head, first_head + heads), slice(first_row, first_row + rows)


def _random_mask(shape: torch.Size, dropout: float) -> tuple[Tensor, float]:
    """Boolean tensor that is False with probability ``dropout``, and the exact share of True it is drawn with.

    Four 16-bit numbers are cut from each 64-bit draw, which is six times quicker than a draw for each weight.
    """
    levels = min(round(dropout * RANDOM_LEVELS), RANDOM_LEVELS - 1)
    count = shape.numel()
    draws = torch.randint(-(2**63), 2**63 - 1, (-(-count // 4),)).view(torch.int16)[:count]
    return (draws >= levels - RANDOM_LEVELS // 2).view(shape), 1 - levels / RANDOM_LEVELS


class PackedAttention(nn.Module):
    """Multi-head attention with one packed projection, in the parameter names of ``torch.nn.MultiheadAttention``.

    Args:
        embed_dims: width C of queries, keys, values and output.
        num_heads: number of heads; divides ``embed_dims``.
        bias: whether the input and output projections have a bias.
        dropout: probability with which an attention weight is zeroed in training.

    Raises:
        ValueError: if ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dims, embed_dims))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dims)) if bias else None
        self.out_proj = Linear(embed_dims, embed_dims, bias=bias)
        self.attn_drop = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, memory: Tensor | None = None) -> Tensor:
        """Attend from ``query`` to ``memory``, or to itself when there is none.

        Args:
            query: ``(B, N, C)``.
            memory: ``(B, L, C)``, source of keys and values.

        Returns:
            ``(B, N, C)``.
        """
        if memory is None:
            q, k, v = linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            C = query.shape[-1]
            bias = self.in_proj_bias
            q = linear(query, self.in_proj_weight[:C], None if bias is None else bias[:C])
            k, v = linear(memory, self.in_proj_weight[C:], None if bias is None else bias[C:]).chunk(2, dim=-1)
        dropout = self.attn_drop.p if self.training else 0.0
        return self.out_proj(multihead_attention(q, k, v, self.num_heads, dropout))


class SplitAttention(nn.Module):
    r"""Cross-attention with separate projections that can also tell its similarity map.

    The similarity is the pre-softmax scaled product, averaged over heads. The sum over heads of the per-head products
    is the full-width product, so it costs one matrix product and no ``(B, h, N, L)`` tensor:

    .. math:: S = \frac1h \sum_i \frac{q_i k_i^\top}{\sqrt{C/h}} = \frac{q k^\top}{h \sqrt{C/h}}

    Args:
        embed_dims: width C.
        num_heads: number of heads h; divides ``embed_dims``.
        dropout: probability with which an attention weight is zeroed in training.

    Raises:
        ValueError: if ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.q = Linear(embed_dims, embed_dims)
        self.k = Linear(embed_dims, embed_dims)
        self.v = Linear(embed_dims, embed_dims)
        self.proj = Linear(embed_dims, embed_dims)
        self.attn_drop = nn.Dropout(dropout)
        self.similarity_scale = 1.0 / (num_heads * (embed_dims / num_heads) ** 0.5)

    def forward(self, query: Tensor, memory: Tensor, need_similarity: bool = False) -> tuple[Tensor, Tensor | None]:
        """Attend from ``query`` to ``memory``.

        Args:
            query: ``(B, N, C)``.
            memory: ``(B, L, C)``.
            need_similarity: whether the similarity map is wanted.

        Returns:
            the attended queries ``(B, N, C)`` and the similarity ``(B, N, L)`` or ``None``.
        """
        q, k, v = self.q(query), self.k(memory), self.v(memory)
        dropout = self.attn_drop.p if self.training else 0.0
        out = self.proj(multihead_attention(q, k, v, self.num_heads, dropout))
        similarity = torch.matmul(q * self.similarity_scale, k.transpose(1, 2)) if need_similarity else None
        return out, similarity
