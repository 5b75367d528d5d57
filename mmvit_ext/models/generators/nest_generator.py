"""Generator of images that is NesT turned round: layers inside blocks, and blocks that split into four.

Paper: Nested Hierarchical Transformer, Zhang et al., AAAI 2022, arXiv 2105.12723. Published are the transposed
hierarchy, PixelShuffle between levels and five levels for 64x64 pixels. Our choices, since our source is silent: the
sizes of the levels; blocks of 4x4 tokens, with which five levels lead from one block to 64x64 tokens; the convolution
and norm after PixelShuffle, which mirror those of the block aggregation and let information cross the borders of
blocks; the norm, 3x3 convolution and tanh that end in the image.

Shapes: B batch, Z noise, C width of a level, H and W its map's size, e edge of a block in tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

from mmvit_ext.models.backbones.base import arch_settings, arch_table, checkpointed
from mmvit_ext.models.backbones.nest import NesTLayer
from mmvit_ext.models.layers.attention import check_counts
from mmvit_ext.models.layers.blocks import register_layout
from mmvit_ext.models.layers.mlp import init_linears
from mmvit_ext.registry import MODELS

__all__ = ['NesTGenerator']


class BlockDeaggregation(nn.Module):
    """Double a map on the image plane: PixelShuffle, 3x3 convolution, norm. A block becomes four."""

    def __init__(self, in_dims: int, embed_dims: int, *, norm_cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dims // 4, embed_dims, 3, padding=1)
        self.norm = build_norm_layer(dict(norm_cfg), embed_dims)[1]

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C')`` to ``(B, 2 H, 2 W, C)``."""
        x = F.pixel_shuffle(x.permute(0, 3, 1, 2), 2)  # (B, C' / 4, 2 H, 2 W)
        x = self.conv(x.contiguous(memory_format=torch.channels_last))
        return self.norm(x.permute(0, 2, 3, 1))


class GeneratorLevel(nn.Module):
    """A level of the hierarchy: de-aggregation (but in the first one), position embedding, layers in blocks."""

    def __init__(
        self,
        deaggregation: BlockDeaggregation | None,
        layers: Sequence[NesTLayer],
        edge: int,
        embed_dims: int,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.deaggregation, self.with_cp = deaggregation, with_cp
        self.pos_embed = nn.Parameter(torch.zeros(1, edge, edge, embed_dims))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map of the level above (or the first block) to this level's ``(B, H, W, C)``."""
        if self.deaggregation is not None:
            x = self.deaggregation(x)
        x = x + self.pos_embed
        for layer in self.layers:
            x = checkpointed(layer, x, with_cp=self.with_cp)
        return x


@MODELS.register_module()
class NesTGenerator(BaseModule):
    """Images from noise by a transposed nested hierarchy.

    Noise becomes one block of tokens; every level adds a position embedding and runs its layers inside blocks; between
    two levels PixelShuffle doubles the map, so that each block splits into four (arXiv 2105.12723).

    Args:
        arch: ``'32'``, ``'64'``, the edge of the images in pixels, or a dict of ``embed_dims``, ``num_heads`` and
            ``depths``, a value per level. Widths before the last one are multiples of 4.
        noise_dims: Numbers of a noise vector, Z.
        block_size: Edge of a block in tokens.
        out_channels: Image channels.
        multi_query: Whether the heads of an attention share one head of keys and values.
        qkv_bias: Whether queries, keys and values have a bias.
        norm_cfg: All norms, mmcv style; ``dict(type='LN', eps=1e-6)`` when not given.
        act_cfg: Activation of the MLP, mmcv style; ``dict(type='GELU')`` when not given.
        with_cp: Activation checkpointing of every layer.
        init_cfg: Initialisation, mmengine style.

    Shape:
        Input ``(B, noise_dims)``; output ``(B, out_channels, S, S)`` with values from -1 to 1, where S is
        ``block_size * 2 ** (levels - 1)`` pixels.

    Raises:
        ValueError: An argument is unknown, out of range, or contradicts another one.
    """

    ARCHS = arch_table(
        ('embed_dims', 'num_heads', 'depths'),
        **{'32': ((512, 256, 128, 64), (8, 4, 2, 1), (2,) * 4)},
        **{'64': ((1024, 512, 256, 128, 64), (16, 8, 4, 2, 1), (2,) * 5)},
    )

    def __init__(
        self,
        arch: str | Mapping[str, Sequence[int]] = '64',
        *,
        noise_dims: int = 128,
        block_size: int = 4,
        out_channels: int = 3,
        multi_query: bool = False,
        qkv_bias: bool = True,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = None,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        settings = arch_settings(arch, self.ARCHS)
        check_counts(noise_dims=noise_dims, block_size=block_size, out_channels=out_channels)
        dims = tuple(settings['embed_dims'])
        if any(width % 4 for width in dims[:-1]):
            raise ValueError(f'arch: PixelShuffle needs multiples of 4 as widths before the last one, got {dims}')
        norm_cfg = dict(norm_cfg or {'type': 'LN', 'eps': 1e-6})
        options: dict[str, Any] = {'norm_cfg': norm_cfg, 'act_cfg': dict(act_cfg or {'type': 'GELU'})}
        options |= {'block_size': block_size, 'multi_query': multi_query, 'qkv_bias': qkv_bias}
        self.noise_dims, self.block_size = noise_dims, block_size
        self.img_size = block_size * 2 ** (len(dims) - 1)

        self.stem = nn.Linear(noise_dims, block_size * block_size * dims[0])
        self.levels = nn.ModuleList()
        for level, (width, heads, depth) in enumerate(
            zip(dims, settings['num_heads'], settings['depths'], strict=True)
        ):
            layers = [NesTLayer(width, heads, **options) for _ in range(depth)]
            before = BlockDeaggregation(dims[level - 1], width, norm_cfg=norm_cfg) if level else None
            self.levels.append(GeneratorLevel(before, layers, block_size * 2**level, width, with_cp))
        self.norm = build_norm_layer(norm_cfg, dims[-1])[1]
        self.to_image = nn.Conv2d(dims[-1], out_channels, 3, padding=1)
        register_layout(self)

    def init_weights(self) -> None:
        """Load ``init_cfg``'s checkpoint, or initialise all weights and position embeddings as ViTs are."""
        if self.init_cfg:
            super().init_weights()
            return
        for level in self.levels:
            trunc_normal_(level.pos_embed, std=0.02)
        init_linears(self, (nn.Linear, nn.Conv2d))
        self._is_init = True

    def forward(self, noise: Tensor) -> Tensor:
        """Noise ``(B, Z)`` to images; see the class."""
        x = self.stem(noise).unflatten(1, (self.block_size, self.block_size, -1))  # (B, e, e, C)
        for level in self.levels:
            x = level(x)
        x = self.norm(x).permute(0, 3, 1, 2)  # channels-last in memory
        return self.to_image(x).tanh().contiguous()
