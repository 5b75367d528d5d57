"""Multi-head attention through one fused entry point, and the ways its projections are stored.

Shapes: B batch, N queries, L keys, C width, h heads.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ['PackedAttention', 'SelfAttention', 'SplitAttention', 'check_choices', 'check_counts', 'check_heads']
__all__ += ['check_rates', 'multihead_attention']

MAX_SEQUENCES = 65_535
"""Of one call of attention on a GPU: the most that the second and third dimension of a kernel's grid can have."""
SHORT = 256
"""Of queries or keys on a CPU: fewer are trained in 32 bit, as the backward pass of the fused kernel takes up to 8
times as long in 16."""


def check_heads(embed_dims: int, num_heads: int, *, names: tuple[str, str] = ('num_heads', 'embed_dims')) -> None:
    """Raise ``ValueError`` unless ``num_heads`` is positive and divides ``embed_dims``; ``names`` are the user's."""
    if num_heads < 1 or embed_dims % num_heads:
        heads, dims = names
        raise ValueError(f'{heads} must divide {dims}, got {heads}={num_heads} and {dims}={embed_dims}')


def check_rates(**given: float) -> None:
    """Raise ``ValueError`` unless each of the named arguments is a probability below 1."""
    for name, value in given.items():
        if not 0 <= value < 1:
            raise ValueError(f'{name} must be a probability from 0 to below 1, got {value}')


def check_counts(**given: int) -> None:
    """Raise ``ValueError`` unless each of the named arguments is at least 1."""
    for name, value in given.items():
        if value < 1:
            raise ValueError(f'{name} must be at least 1, got {value}')


def check_choices(**given: tuple[object, Collection[object]]) -> None:
    """Raise ``ValueError`` unless each of the named arguments is one of its choices."""
    for name, (value, choices) in given.items():
        if value not in choices:
            raise ValueError(f'{name} must be one of {tuple(choices)}, got {value!r}')


def multihead_attention(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, dropout: float = 0.0, mask: Tensor | None = None
) -> Tensor:
    r"""Attention :math:`\mathrm{softmax}(q k^\top / \sqrt{C/h}) v` of all heads; queries and result ``(B, N, C)``.

    Keys and values of the width of one head are shared by all of them. A ``mask`` says which keys exist
    ``(B, 1, 1, L)``, or which of them each query attends to ``(B, 1, N, L)``.
    """
    if q.is_cpu and q.requires_grad and q.itemsize == 2 and not dropout and min(q.shape[1], k.shape[1]) < SHORT:
        mask = mask.float() if mask is not None and mask.is_floating_point() else mask
        with torch.autocast('cpu', enabled=False):
            return multihead_attention(q.float(), k.float(), v.float(), num_heads, dropout, mask).to(q.dtype)
    width = q.shape[-1] // num_heads
    q, k, v = (x.unflatten(-1, (-1, width)).transpose(1, 2).expand(-1, num_heads, -1, -1) for x in (q, k, v))
    if dropout > 0 and mask is None and q.device.type == 'cpu':
        # The CPU has no fused kernel with dropout; its weights (B, h, N, L) are computed again rather than kept.
        out = checkpoint(_dropped_attention, q, k, v, dropout, use_reentrant=False)
    else:
        out = _fused_attention(q, k, v, mask, dropout)
    return out.transpose(1, 2).flatten(2)


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """PyTorch's attention, on a GPU of no more sequences at a time than the grid of its kernels has room for."""
    if q.device.type == 'cpu' or len(q) <= MAX_SEQUENCES:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout)
    masks = None if mask is None else mask.expand(len(q), -1, -1, -1)
    out = []
    for start in range(0, len(q), MAX_SEQUENCES):
        part = slice(start, start + MAX_SEQUENCES)
        piece = None if masks is None else masks[part]
        out.append(F.scaled_dot_product_attention(q[part], k[part], v[part], piece, dropout_p=dropout))
    return torch.cat(out)


def _dropped_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """What PyTorch's own form does without a mask, which it guards against rows of -inf in several passes."""
    weights = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-2, -1)).softmax(-1)  # (B, h, N, L)
    return torch.matmul(F.dropout(weights, dropout), v)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one linear layer for queries, keys and values."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        multi_query: bool = False,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(embed_dims, num_heads)
        self.num_heads, self.attn_drop = num_heads, attn_drop
        self.kv_dims = embed_dims // num_heads if multi_query else embed_dims
        self.qkv = nn.Linear(embed_dims, embed_dims + 2 * self.kv_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop)

    def attend(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, N, C)`` to the same, without the last projection."""
        q, k, v = self.qkv(x).split((x.shape[-1], self.kv_dims, self.kv_dims), dim=-1)
        return multihead_attention(q, k, v, self.num_heads, self.attn_drop if self.training else 0.0, mask)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_drop(self.proj(self.attend(x)))


class PackedAttention(nn.Module):
    """Multi-head attention with one packed projection, in the parameter names of ``torch.nn.MultiheadAttention``.

    The projection is a parameter: adapt it with ``torch.nn.utils.parametrize.register_parametrization``.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(embed_dims, num_heads)
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dims, embed_dims))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dims)) if bias else None
        self.out_proj = nn.Linear(embed_dims, embed_dims, bias=bias)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend from ``(B, N, C)`` to ``memory`` ``(B, L, C)``, or to itself when there is none."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if memory is None:
            q, k, v = F.linear(query, weight, bias).chunk(3, dim=-1)
        else:
            C = query.shape[-1]
            q_bias, kv_bias = (None, None) if bias is None else (bias[:C], bias[C:])
            q, (k, v) = F.linear(query, weight[:C], q_bias), F.linear(memory, weight[C:], kv_bias).chunk(2, dim=-1)
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(multihead_attention(q, k, v, self.num_heads, dropout, mask))


class SplitAttention(nn.Module):
    r"""Cross-attention with separate projections that can also tell its similarity map.

    The similarity is the scaled product before the softmax, averaged over heads, which one matrix product gives:

    .. math:: S = \frac1h \sum_i \frac{q_i k_i^\top}{\sqrt{C/h}} = \frac{q k^\top}{h \sqrt{C/h}}
    """

    def __init__(self, embed_dims: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(embed_dims, num_heads)
        self.num_heads, self.dropout = num_heads, dropout
        self.q = nn.Linear(embed_dims, embed_dims)
        self.k = nn.Linear(embed_dims, embed_dims)
        self.v = nn.Linear(embed_dims, embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.similarity_scale = 1.0 / (num_heads * (embed_dims / num_heads) ** 0.5)

    def forward(
        self, query: Tensor, memory: Tensor | tuple[Tensor, Tensor], need_similarity: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``(B, N, C)`` to ``(B, L, C)``, and give the similarity ``(B, N, L)`` if it is wanted.

        In the place of the memory may stand its keys and values.
        """
        q = self.q(query)
        k, v = memory if isinstance(memory, tuple) else (self.k(memory), self.v(memory))
        out = self.proj(multihead_attention(q, k, v, self.num_heads, self.dropout if self.training else 0.0))
        similarity = torch.matmul(q * self.similarity_scale, k.transpose(1, 2)) if need_similarity else None
        return out, similarity
