r"""Self-attention inside the blocks of a map.

A map that the block's edge does not divide has smaller blocks at its right and bottom. Attention runs over one group of
blocks of the same size after the other.

Shapes: B batch, H and W the map's size, C width, e edge of a block in tokens, n tokens of a block, h heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvit_ext.models.layers.attention import SelfAttention
from mmvit_ext.models.layers.open_sizes import is_open

__all__ = ['BlockAttention', 'block_groups', 'from_blocks', 'heads_outermost', 'register_layout', 'to_blocks']

LAYOUT_VERSION = 2


class Span(NamedTuple):
    """``blocks`` neighbouring blocks of ``edge`` tokens along one side of the map, from token ``start`` on."""

    start: int
    blocks: int
    edge: int

    @property
    def tokens(self) -> slice:
        return slice(self.start, self.start + self.blocks * self.edge)


class BlockGroup(NamedTuple):
    """Neighbouring blocks of the same size: all the whole ones, or those that the map's border cuts off."""

    down: Span
    right: Span


def block_groups(size: tuple[int, int], edge: int) -> tuple[BlockGroup, ...]:
    """Cut a map ``(H, W)`` into up to four groups of blocks; every token is in one block of one group."""

    def spans(length: int) -> list[Span]:
        whole, rest = divmod(length, edge)
        return [span for span in (Span(0, whole, edge), Span(whole * edge, 1, rest)) if span.blocks and span.edge]

    return tuple(BlockGroup(down, right) for down in spans(size[0]) for right in spans(size[1]))


def to_blocks(x: Tensor, groups: Sequence[BlockGroup]) -> list[Tensor]:
    """Tokens of a map ``(B, H, W, C)`` block by block: ``(B blocks, n, C)`` for each group."""
    parts = []
    for down, right in groups:
        part = x[:, down.tokens, right.tokens]
        part = part.unflatten(1, (down.blocks, down.edge)).unflatten(3, (right.blocks, right.edge))
        parts.append(part.transpose(2, 3).reshape(-1, down.edge * right.edge, x.shape[-1]))
    return parts


def from_blocks(parts: Sequence[Tensor], groups: Sequence[BlockGroup]) -> Tensor:
    """The way back from :func:`to_blocks`: ``(B, H, W, C)``."""
    bands: dict[int, list[Tensor]] = {}
    for part, (down, right) in zip(parts, groups, strict=True):
        part = part.view(-1, down.blocks, right.blocks, down.edge, right.edge, part.shape[-1]).transpose(2, 3)
        bands.setdefault(down.start, []).append(part.flatten(3, 4).flatten(1, 2))  # (B, height, width, C)
    rows = [band[0] if len(band) == 1 else torch.cat(band, dim=2) for band in bands.values()]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


class BlockAttention(SelfAttention):
    """Self-attention among the tokens of each block, with weights that all share (arXiv 2105.12723, equation 1)."""

    def __init__(
        self, embed_dims: int, num_heads: int, *, block_size: int, qkv_bias: bool = True, **settings: Any
    ) -> None:
        super().__init__(embed_dims, num_heads, qkv_bias=qkv_bias, **settings)
        self.block_size = block_size

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` to the same."""
        if is_open(x.shape[1], x.shape[2]):
            return self.proj_drop(self.proj(self.attend_padded(x)))
        groups = block_groups((x.shape[1], x.shape[2]), self.block_size)
        blocks = [self.attend(part) for part in to_blocks(x, groups)]
        return self.proj_drop(self.proj(from_blocks(blocks, groups)))

    def attend_padded(self, x: Tensor) -> Tensor:
        """Attention among ``(B, H, W, C)`` of open size, with masked padding to whole blocks and one more, as not 1."""
        _, H, W, _ = x.shape
        edge = self.block_size
        exists = F.pad(torch.ones_like(x[..., :1]), (0, 0, 0, -W % edge, 0, -H % edge))
        exists = F.pad(exists, (0, 0, 0, edge, 0, edge), value=1.0)
        x = F.pad(x, (0, 0, 0, exists.shape[2] - W, 0, exists.shape[1] - H))
        group = BlockGroup(*(Span(0, length // edge, edge) for length in exists.shape[1:3]))
        (blocks,), (exists,) = (to_blocks(part, [group]) for part in (x, exists))
        return from_blocks([self.attend(blocks, exists[:, None, None, :, 0] > 0)], [group])[:, :H, :W]


def heads_outermost(weight: Tensor, num_heads: int) -> Tensor:
    """Columns of an attention's last projection ``(C, C)``, moved from heads innermost to heads outermost."""
    return weight.unflatten(1, (-1, num_heads)).transpose(1, 2).flatten(1)


def register_layout(network: nn.Module) -> None:
    """Let a network with :class:`BlockAttention` tell the layout of its files in a buffer, and load the first layout.

    In that one, also of the released weights, the columns of ``attn.proj.weight`` have the heads innermost. Weights
    without the buffer are of the second layout.
    """
    network.register_buffer('layout_version', torch.tensor(LAYOUT_VERSION))
    network._register_load_state_dict_pre_hook(_upgrade, with_module=True)


def _upgrade(network: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Before any load: bring a file that says it is of the first layout to the second."""
    version = state_dict.get(f'{prefix}layout_version')
    if version is None or version.numel() != 1 or version.is_meta or version.item() == LAYOUT_VERSION:
        return
    if version.item() > LAYOUT_VERSION:
        known = f'(layout {version.item()} of {prefix or "the network"}, this one knows {LAYOUT_VERSION})'
        raise ValueError(f'the weights are of a newer version of mmvit_ext {known}: update mmvit_ext')
    for name, module in network.named_modules():
        if isinstance(module, BlockAttention) and (key := f'{prefix}{name}.proj.weight') in state_dict:
            state_dict[key] = heads_outermost(state_dict[key], module.num_heads)
    state_dict[f'{prefix}layout_version'] = torch.tensor(LAYOUT_VERSION)
