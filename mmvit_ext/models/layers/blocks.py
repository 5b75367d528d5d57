"""Blocks of a map as rows of a matrix, for layers that work inside blocks.

A map that the block's edge does not divide has smaller blocks at its right and bottom instead of padding. Blocks of one
size form a group, and attention runs over one group after the other.

Shapes: B batch, H and W the map's size, C width, e edge of a block in tokens, n tokens of a block, h heads, R = B H W
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvit_ext.models.layers.attention import check_heads, multihead_attention
from mmvit_ext.models.layers.compiling import is_compiling
from mmvit_ext.models.layers.linear import Linear, linear

__all__ = [
    'BlockAttention',
    'BlockDropPath',
    'BlockGroup',
    'Span',
    'block_groups',
    'from_blocks',
    'group_rows',
    'to_blocks',
]


class Span(NamedTuple):
    """``blocks`` neighbouring blocks of ``edge`` tokens along one side of the map, from token ``start`` on."""

    start: int
    blocks: int
    edge: int

    @property
    def tokens(self) -> slice:
        """The tokens of all the blocks."""
        return slice(self.start, self.start + self.blocks * self.edge)


class BlockGroup(NamedTuple):
    """Neighbouring blocks of the same size: all the whole ones, or those that the map's border cuts off."""

    down: Span
    right: Span

    @property
    def blocks(self) -> int:
        """Number of blocks in an image."""
        return self.down.blocks * self.right.blocks

    @property
    def tokens(self) -> int:
        """Tokens of a block."""
        return self.down.edge * self.right.edge


def block_groups(size: tuple[int, int], edge: int) -> tuple[BlockGroup, ...]:
    """Cut a map into blocks from its upper left corner on.

    Args:
        size: ``(H, W)`` of the map in tokens.
        edge: edge of a block in tokens.

    Returns:
        one group where the edge divides both sides, up to four otherwise. Every token is in one block of one group.
    """

    def spans(length: int) -> list[Span]:
        whole, rest = divmod(length, edge)
        found = [Span(0, whole, edge), Span(whole * edge, 1, rest)]
        return [span for span in found if span.blocks and span.edge]

    return tuple(BlockGroup(down, right) for down in spans(size[0]) for right in spans(size[1]))


def group_rows(groups: Sequence[BlockGroup], batch: int) -> list[int]:
    """Rows of each group, for all images."""
    return [batch * group.blocks * group.tokens for group in groups]


def to_blocks(x: Tensor, position: Tensor, edge: int) -> Tensor:
    """Tokens of a map in the order of its blocks, with their position embedding.

    Args:
        x: ``(B, H, W, C)``.
        position: ``(1, H, W, C)``.
        edge: edge of a block in tokens.

    Returns:
        ``(R, C)``: group after group, within it image after image, block after block, row by row.
    """
    if is_compiling():
        parts = [_blocks_of(x + position, group) for group in block_groups(_size(x), edge)]
        return torch.cat([part.reshape(-1, x.shape[-1]) for part in parts])
    return _ToBlocks.apply(x, position, edge)


def from_blocks(rows: Tensor, shape: Sequence[int], edge: int) -> Tensor:
    """The way back from :func:`to_blocks`, position embedding included.

    Args:
        rows: ``(R, C)``.
        shape: ``(B, H, W)``.
        edge: edge of a block in tokens.

    Returns:
        ``(B, H, W, C)``, contiguous.
    """
    B, H, W = shape
    if not is_compiling():
        return _FromBlocks.apply(rows, (B, H, W), edge)
    groups = block_groups((H, W), edge)
    images = [
        _rows_of(part, group, B).transpose(2, 3).flatten(1, 2).flatten(2, 3)
        for part, group in zip(rows.split(group_rows(groups, B)), groups, strict=True)
    ]  # (B, height, width, C) of each group
    across = len({group.right for group in groups})
    bands = [torch.cat(images[first : first + across], dim=2) for first in range(0, len(images), across)]
    return torch.cat(bands, dim=1)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[1], x.shape[2]


def _blocks_of(x: Tensor, group: BlockGroup) -> Tensor:
    """View of a map ``(B, H, W, C)``: ``(B, blocks down, blocks right, block height, block width, C)``."""
    x = x[:, group.down.tokens, group.right.tokens]
    down, right = (group.down.blocks, group.down.edge), (group.right.blocks, group.right.edge)
    return x.unflatten(1, down).unflatten(3, right).transpose(2, 3)


def _rows_of(rows: Tensor, group: BlockGroup, batch: int) -> Tensor:
    """View of a group's rows, in the shape of :func:`_blocks_of`."""
    down, right = group
    return rows.view(batch, down.blocks, right.blocks, down.edge, right.edge, rows.shape[-1])


class _ToBlocks(torch.autograd.Function):
    """Addition and new order in one pass over the map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, position: Tensor, edge: int) -> Tensor:
        B, H, W, C = x.shape
        ctx.shape, ctx.edge, ctx.dtypes = (B, H, W), edge, (x.dtype, position.dtype)
        groups = block_groups((H, W), edge)
        rows = x.new_empty(B * H * W, C, dtype=torch.result_type(x, position))
        for group, part in zip(groups, rows.split(group_rows(groups, B)), strict=True):
            torch.add(_blocks_of(x, group), _blocks_of(position, group), out=_rows_of(part, group, B))
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad = from_blocks(grad.contiguous(), ctx.shape, ctx.edge)
        return grad.to(ctx.dtypes[0]), grad.sum(0, keepdim=True).to(ctx.dtypes[1]), None


class _FromBlocks(torch.autograd.Function):
    """New order in one pass over the rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, shape: tuple[int, int, int], edge: int) -> Tensor:
        ctx.edge = edge
        x = rows.new_empty(*shape, rows.shape[-1])
        groups = block_groups(_size(x), edge)
        for group, part in zip(groups, rows.split(group_rows(groups, shape[0])), strict=True):
            _blocks_of(x, group).copy_(_rows_of(part, group, shape[0]))
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return to_blocks(grad, grad.new_zeros(()).expand(1, *grad.shape[1:]), ctx.edge), None, None


class BlockDropPath(nn.Module):
    """Stochastic depth: a branch is left out for whole images, whose rows lie in several places.

    Args:
        drop_prob: probability of leaving it out.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor, groups: Sequence[BlockGroup], batch: int) -> Tensor:
        """Rows ``(R, C)`` to the same."""
        if not self.training or self.drop_prob == 0:
            return x
        kept = (torch.rand(batch, 1, device=x.device) >= self.drop_prob).to(x.dtype) / (1 - self.drop_prob)
        return x * torch.cat([kept.expand(-1, group.blocks * group.tokens).reshape(-1, 1) for group in groups])


class BlockAttention(nn.Module):
    r"""Self-attention among the tokens of each block, with weights that all blocks share.

    Per block, :math:`\mathrm{softmax}(Q K^\top / \sqrt{C/h}) V` of every head (arXiv 2105.12723, equation 1); with
    multi-query attention all heads share one head of keys and values, as in the paper's networks for CIFAR.

    Args:
        embed_dims: width C.
        num_heads: number of heads h; divides C.
        multi_query: whether the heads share their keys and values.
        qkv_bias: whether queries, keys and values have a bias.
        attn_drop: dropout of attention weights, a probability.
        proj_drop: dropout of the output, a probability.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        multi_query: bool,
        qkv_bias: bool,
        attn_drop: float,
        proj_drop: float,
    ) -> None:
        super().__init__()
        check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.multi_query = multi_query
        self.kv_dims = embed_dims // num_heads if multi_query else embed_dims
        self.qkv = Linear(embed_dims, embed_dims + 2 * self.kv_dims, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, groups: Sequence[BlockGroup], batch: int) -> Tensor:
        """Rows ``(R, C)`` of the blocks of ``groups`` to the same, for ``batch`` images."""
        parts = self.qkv(x).split(group_rows(groups, batch))
        outs = [self._attend(part.unflatten(0, (-1, group.tokens))) for part, group in zip(parts, groups, strict=True)]
        # The released weights expect the output's channels with the heads innermost: columns are moved, not tokens.
        weight = self.proj.weight.unflatten(1, (-1, self.num_heads)).transpose(1, 2).flatten(1)  # (C, C)
        return self.proj_drop(linear(outs[0] if len(outs) == 1 else torch.cat(outs), weight, self.proj.bias))

    def _attend(self, qkv: Tensor) -> Tensor:
        """Projections ``(blocks, n, C + 2 kv)`` of blocks of one size to ``(blocks n, C)``."""
        q, k, v = qkv.split((qkv.shape[-1] - 2 * self.kv_dims, self.kv_dims, self.kv_dims), dim=-1)
        dropout = self.attn_drop.p if self.training else 0.0
        if not self.multi_query:
            return multihead_attention(q, k, v, self.num_heads, dropout).flatten(0, 1)
        q = q.unflatten(-1, (self.num_heads, self.kv_dims)).transpose(1, 2)  # (blocks, h, n, C/h)
        k, v = (shared.unsqueeze(1).expand_as(q) for shared in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return out.transpose(1, 2).reshape(-1, q.shape[1] * self.kv_dims)
