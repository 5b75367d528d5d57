"""BEiT's and SAM's relative positions at any grid; imported where such a network is built, because it needs timm.

Shapes: (h, w) grid of tokens, N = 1 + h*w tokens with the class token, heads the number of attention heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from timm.layers import resample_abs_pos_embed_nhwc, resize_rel_pos_bias_table
from timm.models.beit import Attention, RelativePositionBias, gen_relative_position_index
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mmvit_ext.models.layers.position_embedding import track_position

__all__ = ['call_every_layer', 'prepare_blocks', 'tell_grid', 'track_tables']


def resized_table(table: Tensor, old: tuple[int, int] | None, new: tuple[int, int]) -> Tensor:
    """BEiT's table ``(positions, heads)`` of one grid at another one; the old grid is square when not given."""
    rows = (2 * new[0] - 1) * (2 * new[1] - 1) + 3
    return resize_rel_pos_bias_table(table, new, (rows, table.shape[1]), old)


def bias_of(module: Any, grid: tuple[int, int]) -> Tensor:
    """The bias ``(heads, N, N)`` of a table that was made for ``module.window_size``, at another grid."""
    table = resized_table(module.relative_position_bias_table, tuple(module.window_size), grid)
    return table[gen_relative_position_index(grid, device=table.device)].permute(2, 0, 1).contiguous()


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


class _Prepared(nn.Module):
    """Blocks, a slice of which is what ``prepare`` makes of them for the image that is looked at.

    Activation checkpointing calls what the slice gave once more, when other images may have come in between.
    """

    prepare: Callable[[nn.Module], Callable[..., Tensor]] | None = None

    def __getitem__(self, index: Any) -> Any:
        blocks = list(self._modules.values())[index]
        return [self.prepare(block) for block in blocks] if self.prepare and isinstance(index, slice) else blocks


class PreparedList(_Prepared, nn.ModuleList):
    """A list of prepared blocks."""


class PreparedSequential(_Prepared, nn.Sequential):
    """A sequence of prepared blocks."""


def prepare_blocks(network: Any) -> None:
    """Have a network call what ``network.blocks.prepare`` makes of its blocks, which is to be set for every image."""
    network.blocks.__class__ = PreparedSequential if isinstance(network.blocks, nn.Sequential) else PreparedList


def run_on_grid(grid: tuple[int, int], block: nn.Module, *arguments: Any, **keywords: Any) -> Tensor:
    """Call a block, whose attention is told the grid of this image."""
    for module in block.modules():
        if isinstance(module, GridAttention):
            module.grid = grid
    return block(*arguments, **keywords)


def call_every_layer(network: Any) -> None:
    """Have every relative position bias follow the grid of the image, and every attention call its linear layers."""
    for module in network.modules():
        if type(module) is Attention and module.relative_position_bias_table is not None:
            module.__class__ = GridAttention
        elif type(module) is RelativePositionBias:
            module.__class__ = GridBias
        if hasattr(module, 'qkv_bias_separate'):  # otherwise timm takes the weight and passes the layer by
            module.qkv_bias_separate = True
    if any(isinstance(module, GridAttention) for module in network.modules()):
        prepare_blocks(network)


def tell_grid(network: Any, img: Tensor) -> None:
    """State the grid of an image ``(B, in_channels, H, W)`` to all relative position biases."""
    grid = network.patch_embed.dynamic_feat_size(tuple(img.shape[-2:]))
    if isinstance(network.rel_pos_bias, GridBias):
        network.rel_pos_bias.grid = grid
    else:
        network.blocks.prepare = partial(partial, run_on_grid, grid)


def track_tables(network: Any) -> None:
    """Resize relative positions, and SAM's absolute ones, in every state dict that is loaded.

    The grid is told in the metadata of every state dict that is made; where it is not, BEiT's tables are of a square.
    """
    track_position(network, 'relative_positions', tuple(network.patch_embed.grid_size))  # no tensor: tells the grid
    network._register_load_state_dict_pre_hook(partial(fit_tables, network))


def fit_tables(
    network: Any, state_dict: dict[str, Tensor], prefix: str, local_metadata: Mapping[str, Any], *_: Any
) -> None:
    """Before any load: resize the tables in the state dict."""
    old, wanted = local_metadata.get('grids', {}).get('relative_positions'), network.state_dict()
    for key in [key for key in state_dict if key.startswith(prefix) and key[len(prefix) :] in wanted]:
        name, value = key[len(prefix) :], state_dict[key]
        shape = wanted[name].shape
        if name.endswith('relative_position_bias_table'):
            window = tuple(network.get_submodule(name.rpartition('.')[0]).window_size)
            state_dict[key] = resized_table(value, old and tuple(old), window)
        elif name.endswith(('.rel_pos_h', '.rel_pos_w')) and value.shape != shape:
            state_dict[key] = interpolate(value.T[None].float(), size=shape[0], mode='linear')[0].T.to(value)
        elif name == 'pos_embed' and value.ndim == 4:
            state_dict[key] = resample_abs_pos_embed_nhwc(value, list(shape[1:3]))
