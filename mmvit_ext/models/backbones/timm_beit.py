"""BEiT's relative position bias at any grid; imported where such a network is built, because it needs timm.

Shapes: (h, w) grid of tokens, N = 1 + h*w tokens with the class token, heads the number of attention heads.
"""

from __future__ import annotations

from typing import Any

from timm.layers import resize_rel_pos_bias_table
from timm.models.beit import Attention, Beit, RelativePositionBias, gen_relative_position_index
from torch import Tensor

__all__ = ['follow_grid', 'tell_grid']


def bias_of(module: Any, grid: tuple[int, int]) -> Tensor:
    """The bias ``(heads, N, N)`` of a table that was made for ``module.window_size``, at another grid."""
    table = module.relative_position_bias_table
    rows = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3
    table = resize_rel_pos_bias_table(table, grid, (rows, table.shape[1]), tuple(module.window_size))
    index = gen_relative_position_index(grid, device=table.device)
    return table[index].permute(2, 0, 1).contiguous()


class GridAttention(Attention):
    """BEiT's attention with the bias of the grid that the image has."""

    grid: tuple[int, int] | None = None

    def _get_rel_pos_bias(self) -> Tensor:
        if self.grid in (None, tuple(self.window_size)):
            return super()._get_rel_pos_bias()
        return bias_of(self, self.grid)[None]


class GridBias(RelativePositionBias):
    """The bias that all blocks of a BEiT share, for the grid that the image has."""

    grid: tuple[int, int] | None = None

    def forward(self) -> Tensor:
        return super().forward() if self.grid in (None, tuple(self.window_size)) else bias_of(self, self.grid)


def follow_grid(network: Beit) -> None:
    """Have every relative position bias of a network follow the grid of the image."""
    for module in network.modules():
        if type(module) is Attention and module.relative_position_bias_table is not None:
            module.__class__ = GridAttention
        elif type(module) is RelativePositionBias:
            module.__class__ = GridBias


def tell_grid(network: Beit, img: Tensor) -> None:
    """State the grid of an image ``(B, in_channels, H, W)`` to all relative position biases."""
    grid = network.patch_embed.dynamic_feat_size(tuple(img.shape[-2:]))
    for module in network.modules():
        if isinstance(module, GridAttention | GridBias):
            module.grid = grid
