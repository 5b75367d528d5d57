r"""Superpixel cross attention: superpixels and pixels update each other.

Paper: SPFormer, Mei et al., arXiv 2401.02931, section 3.2. One iteration, with positions added to both sides,

.. math::
    a_{i,s} = \frac{k_i^\top q_s}{\sqrt d}, \qquad
    S \leftarrow S + \gamma_S \sum_{i \in \mathrm{window}(s)} \mathrm{softmax}_i(a_{i,s})\, v_i, \qquad
    P \leftarrow P + \gamma_P \sum_{n=0}^{8} \mathrm{softmax}_n\!\Big(\frac{q_i^\top k_{n(i)}}{\sqrt d}\Big) v_{n(i)}

where q, k, v of the superpixels come from S before its update. The similarity :math:`a` is the superpixel
representation's association before its softmax.

Shapes: B batch, C channels, (h, w) pixels, (sh, sw) superpixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmvit_ext.models.kernels import may_fuse
from mmvit_ext.models.layers.attention import check_heads
from mmvit_ext.models.layers.open_sizes import is_traced
from mmvit_ext.models.layers.position_embedding import resize_position_embedding, track_position
from mmvit_ext.models.superpixels.grid import cell_similarity, cell_size, pool_cells, superpixel_to_pixel, to_cells

__all__ = ['PIXEL_QKV', 'POSITIONS', 'SCAIteration', 'SuperpixelCrossAttention']

PIXEL_QKV = ('identity', 'shared', 'separate')  # where the pixels' queries, keys and values come from
POSITIONS = ('cpe', 'learnable')  # how positions reach both sides of the attention


class ConvPosition(nn.Module):
    """Convolutional position embedding ``x + DWConv3x3(x)`` of a map ``(B, C, h, w)``."""

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class LearnedPosition(nn.Module):
    """Learned position embedding ``x + E`` of a map ``(B, C, h, w)``, resized where ``(h, w)`` is not ``grid``."""

    def __init__(self, embed_dims: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1], embed_dims))
        track_position(self, 'pos_embed', grid)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        return x + resize_position_embedding(self.pos_embed, self.grid, size).transpose(1, 2).unflatten(2, size)


class Projection(nn.Module):
    """Linear projection of every position to several parts of width C, each normalised over its channels."""

    def __init__(self, embed_dims: int, parts: int, norm_cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(embed_dims, parts * embed_dims)
        self.norms = nn.ModuleList(build_norm_layer(dict(norm_cfg), embed_dims)[1] for _ in range(parts))

    def forward(self, x: Tensor) -> list[Tensor]:
        """``(B, C, h, w)`` to maps of the same shape."""
        parts = self.linear(x.permute(0, 2, 3, 1)).chunk(len(self.norms), dim=-1)
        return [norm(part).permute(0, 3, 1, 2) for norm, part in zip(self.norms, parts, strict=True)]


class SCAIteration(nn.Module):
    """One iteration; ``grids`` are ``(h, w)`` of pixels and superpixels at training size, for learnable positions."""

    compiled_alone = compiled_for_fixed_sizes = True

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        pixel_qkv: str,
        positions: str,
        grids: tuple[tuple[int, int], tuple[int, int]],
        norm_cfg: Mapping[str, Any],
        layer_scale_init: float,
        update_pixels: bool,
    ) -> None:
        super().__init__()
        check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.pixel_position, self.superpixel_position = (
            ConvPosition(embed_dims) if positions == 'cpe' else LearnedPosition(embed_dims, grid) for grid in grids
        )
        self.superpixel_qkv = Projection(embed_dims, 3 if update_pixels else 1, norm_cfg)
        pixel_parts = {'identity': 0, 'shared': 1, 'separate': 3 if update_pixels else 2}[pixel_qkv]
        self.pixel_kvq = Projection(embed_dims, pixel_parts, norm_cfg) if pixel_parts else None
        self.superpixel_scale = nn.Parameter(torch.full((embed_dims,), layer_scale_init))
        self.pixel_scale = nn.Parameter(torch.full((embed_dims,), layer_scale_init)) if update_pixels else None

    def pixel_update_parts(self) -> list[nn.Module | nn.Parameter]:
        """Parts that only the pixels' update uses."""
        pixel_norms = () if self.pixel_kvq is None else self.pixel_kvq.norms[2:]
        return [] if self.pixel_scale is None else [self.pixel_scale, *self.superpixel_qkv.norms[1:], *pixel_norms]

    def heads(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` to ``(B, heads, C / heads, h, w)``."""
        return x.unflatten(1, (self.num_heads, x.shape[1] // self.num_heads))

    def forward(self, pixels: Tensor, superpixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels ``(B, C, h, w)`` and superpixels ``(B, C, sh, sw)``, updated, and their similarity."""
        grid = superpixels.shape[-2:]
        cell = cell_size(pixels.shape[-2:], grid)
        placed = self.pixel_position(pixels)
        parts = [placed] if self.pixel_kvq is None else self.pixel_kvq(placed)
        cells = [to_cells(self.heads(part), grid) for part in parts]  # (B, sh, sw, heads, ph * pw, C / heads) each
        k_p, v_p, q_p = cells[0], cells[1 % len(cells)], cells[2 % len(cells)]
        q_s, *kv_s = self.superpixel_qkv(self.superpixel_position(superpixels))  # (B, C, sh, sw) each

        if not is_traced() and may_fuse(k_p):
            from mmvit_ext.models.kernels.cells import fused_cells

            similarity, pooled = fused_cells(k_p, v_p, self.heads(q_s), cell)
        else:
            similarity = cell_similarity(k_p, self.heads(q_s), cell)  # (B, heads, 9, h, w)
            pooled = pool_cells(similarity, v_p)  # (B, heads, d, sh, sw)
        superpixels = superpixels + self.superpixel_scale[:, None, None] * pooled.flatten(1, 2)
        if self.pixel_scale is not None:
            association = cell_similarity(q_p, self.heads(kv_s[0]), cell).softmax(2)  # (B, heads, 9, h, w)
            pixels = pixels + superpixel_to_pixel(self.pixel_scale[:, None, None] * kv_s[1], association)
        return pixels, superpixels, similarity


class SuperpixelCrossAttention(nn.Module):
    """One SCA module: several times :class:`SCAIteration`; ``update_pixels`` is whether the last updates the pixels."""

    def __init__(
        self, embed_dims: int, num_heads: int, *, iterations: int, update_pixels: bool, **settings: Any
    ) -> None:
        super().__init__()
        self.iterations = nn.ModuleList(
            SCAIteration(embed_dims, num_heads, update_pixels=update_pixels or index < iterations - 1, **settings)
            for index in range(iterations)
        )

    def forward(self, pixels: Tensor, superpixels: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """``(B, C, h, w)`` and ``(B, C, sh, sw)`` to both updated, and the similarity of each iteration."""
        similarities = []
        for iteration in self.iterations:
            pixels, superpixels, similarity = iteration(pixels, superpixels)
            similarities.append(similarity)
        return pixels, superpixels, tuple(similarities)
