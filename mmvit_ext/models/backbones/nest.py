"""Nested hierarchical transformer: layers inside blocks of the map, and convolutions that merge blocks.

Paper: Nested Hierarchical Transformer: Towards Accurate, Data-Efficient and Interpretable Visual Understanding,
Zhang et al., AAAI 2022, arXiv 2105.12723.

Deviations from the paper, none of which changes a number of its networks: images of any size, whose blocks at the
right and bottom are cut off where the map ends, as if padded and masked; every level's map can be returned.

Shapes: B batch, C width of a level, H and W its map's size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

from mmvit_ext.models.backbones.base import Backbone, arch_table, channels_last, checkpointed, token_grid
from mmvit_ext.models.layers.attention import check_choices, check_counts, check_rates
from mmvit_ext.models.layers.blocks import BlockAttention, register_layout
from mmvit_ext.models.layers.drop import DropPath
from mmvit_ext.models.layers.mlp import MLP, init_linears
from mmvit_ext.models.layers.open_sizes import PatchEmbed, is_open
from mmvit_ext.models.layers.position_embedding import INTERPOLATIONS, resize_position_embedding, track_position
from mmvit_ext.registry import MODELS

__all__ = ['NesT']

MLP_RATIO = 4


class NesTLayer(nn.Module):
    """Pre-norm layer on a map ``(B, H, W, C)``: ``x + Attn(LN(x))`` inside blocks, then ``x + MLP(LN(x))``."""

    compiled_for_fixed_sizes = True

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_cfg: Mapping[str, Any],
        act_cfg: Mapping[str, Any],
        **attention: Any,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm_layer(dict(norm_cfg), embed_dims)[1]
        self.attn = BlockAttention(embed_dims, num_heads, proj_drop=drop_rate, **attention)
        self.norm2 = build_norm_layer(dict(norm_cfg), embed_dims)[1]
        self.mlp = MLP(embed_dims, MLP_RATIO * embed_dims, act_cfg=act_cfg, drop=drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class BlockAggregation(nn.Module):
    """Halve a map: 3x3 convolution, norm, 3x3 max-pooling of stride 2, whose window i always starts at row 2 i."""

    def __init__(self, in_dims: int, embed_dims: int, *, norm_cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dims, embed_dims, 3, padding=1)
        self.norm = build_norm_layer(dict(norm_cfg), embed_dims)[1]

    def forward(self, x: Tensor) -> Tensor:
        """Channels-last ``(B, C', H, W)`` to channels-last ``(B, C, ceil(H / 2), ceil(W / 2))``."""
        x = self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        odd = (x.shape[3] % 2, x.shape[2] % 2)
        if is_open(*odd) or any(odd):
            x = F.pad(x, (0, odd[0], 0, odd[1]), value=-torch.inf)
        return F.max_pool2d(x, 3, 2, ceil_mode=True)


class NesTLevel(nn.Module):
    """A level of the hierarchy: aggregation (but in the first one), position embedding, layers in blocks."""

    def __init__(
        self,
        aggregation: BlockAggregation | None,
        layers: Sequence[NesTLayer],
        grid: tuple[int, int],
        embed_dims: int,
        *,
        drop: float,
        mode: str,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.aggregation = aggregation
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1], embed_dims))
        self.pos_drop = nn.Dropout(drop)
        self.layers = nn.ModuleList(layers)
        self.grid, self.interpolate_mode, self.with_cp = grid, mode, with_cp

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map of the level below (or embedded patches) to those after each layer, ``(B, C, H, W)``, channels-last."""
        if self.aggregation is not None:
            x = self.aggregation(x)
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        H, W = x.shape[1:3]
        position = resize_position_embedding(self.pos_embed, self.grid, (H, W), mode=self.interpolate_mode)
        x = self.pos_drop(x + position.unflatten(1, (H, W)))
        maps = []
        for layer in self.layers:
            x = checkpointed(layer, x, with_cp=self.with_cp)
            maps.append(x.permute(0, 3, 1, 2))
            x = maps[-1].permute(0, 2, 3, 1)  # the map lies on the way
        return maps


@MODELS.register_module()
class NesT(Backbone):
    """Nested hierarchical transformer.

    Every level runs its layers inside blocks of ``block_size`` x ``block_size`` tokens; between two levels the map is
    halved on the image plane, so that four neighbouring blocks become one (arXiv 2105.12723, section 3 and figure 1).

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'cifar-tiny'``, ``'cifar-small'``, ``'cifar-base'``, or a dict of
            ``embed_dims``, ``num_heads`` and ``depths``, a value per level. The next four are 32, 1, 4, True in the
            CIFAR ones and 224, 4, 14, False in all others when not given.
        img_size: Training size in pixels, an edge or ``(H, W)``, of the position embeddings.
        patch_size: Edge of a patch in pixels.
        block_size: Edge of a block in tokens.
        multi_query: Whether the heads of an attention share one head of keys and values.
        in_channels: Image channels.
        out_indices: Levels whose map is returned, in this order; negative values count from the top. None for all.
        out_type: ``'featmap'`` for maps, ``'avg_featmap'`` for their mean ``(B, C)`` over the plane.
        extra_dims: Width of one more level on top, an aggregation without layers. None for no such level.
        final_norm: Whether the last level with layers returns a normalised map; the extra level takes it before that.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_rate: Dropout after the position embeddings, the attention and in the MLP, a probability.
        attn_drop_rate: Dropout of attention weights, a probability.
        drop_path_rate: Stochastic depth of the last layer, growing linearly from 0 at the first, a probability.
        norm_cfg: All norms, mmcv style; ``dict(type='LN', eps=1e-6)`` when not given.
        act_cfg: Activation of the MLP, mmcv style; ``dict(type='GELU')`` when not given.
        interpolate_mode: Interpolation of the position embeddings.
        frozen_stages: 0 freezes the patch embedding, n > 0 the first n levels, too; -1 freezes nothing.
        with_cp: Activation checkpointing of every layer.
        init_cfg: Initialisation, mmengine style.

    Shape:
        Input ``(B, in_channels, H, W)``, any H and W; outputs ``(B, C, ceil(H / s), ceil(W / s))`` with strides
        s = 4, 8, 16 (and 32), contiguous in memory; for CIFAR s = 1, 2, 4, 8.

    Raises:
        ValueError: An argument is unknown, out of range, or contradicts another one.
    """

    UNIT = 'level'
    # arXiv 2105.12723, table 1 (CIFAR) and table 2 (ImageNet), with appendix A.
    ARCHS = arch_table(
        ('embed_dims', 'num_heads', 'depths'),
        tiny=((96, 192, 384), (3, 6, 12), (2, 2, 8)),
        small=((96, 192, 384), (3, 6, 12), (2, 2, 20)),
        base=((128, 256, 512), (4, 8, 16), (2, 2, 20)),
    ) | arch_table(
        ('embed_dims', 'num_heads', 'depths', 'img_size', 'patch_size', 'block_size', 'multi_query'),
        **{
            f'cifar-{name}': ((dims,) * 4, (heads,) * 4, (3,) * 4, 32, 1, 4, True)
            for name, dims, heads in (('tiny', 192, 3), ('small', 384, 6), ('base', 768, 12))
        },
    )

    def __init__(
        self,
        arch: str | Mapping[str, Sequence[int]] = 'tiny',
        *,
        img_size: int | Sequence[int] | None = None,
        patch_size: int | None = None,
        block_size: int | None = None,
        multi_query: bool | None = None,
        in_channels: int = 3,
        out_indices: int | Sequence[int] | None = None,
        out_type: str = 'featmap',
        extra_dims: int | None = None,
        final_norm: bool = True,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = None,
        interpolate_mode: str = 'bicubic',
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(out_type=out_type, frozen_stages=frozen_stages, with_cp=with_cp, init_cfg=init_cfg)
        defaults = {'img_size': 224, 'patch_size': 4, 'block_size': 14, 'multi_query': False}
        replaced = dict(img_size=img_size, patch_size=patch_size, block_size=block_size, multi_query=multi_query)
        settings = self.arch_settings(arch, defaults, **replaced)
        self.patch_size, self.block_size = patch, block = settings['patch_size'], settings['block_size']
        check_counts(patch_size=patch, block_size=block)
        check_rates(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        check_choices(interpolate_mode=(interpolate_mode, INTERPOLATIONS))
        if extra_dims is not None and extra_dims < 1:
            raise ValueError(f'extra_dims must be a width of at least 1 or None, got {extra_dims}')
        grid, depths = token_grid(settings['img_size'], self.patch_size), settings['depths']
        self.num_levels = len(depths)
        self.embed_dims = (*settings['embed_dims'], *([] if extra_dims is None else [extra_dims]))
        norm_cfg, act_cfg = dict(norm_cfg or {'type': 'LN', 'eps': 1e-6}), dict(act_cfg or {'type': 'GELU'})

        self.patch_embed = PatchEmbed(patch, 'corner', in_channels=in_channels, embed_dims=self.embed_dims[0])
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist())
        options: dict[str, Any] = {'block_size': block, 'multi_query': settings['multi_query'], 'qkv_bias': qkv_bias}
        options |= {'drop_rate': drop_rate, 'attn_drop': attn_drop_rate, 'norm_cfg': norm_cfg, 'act_cfg': act_cfg}
        self.levels = nn.ModuleList()
        for level, (dims, heads) in enumerate(zip(settings['embed_dims'], settings['num_heads'], strict=True)):
            before = BlockAggregation(self.embed_dims[level - 1], dims, norm_cfg=norm_cfg) if level else None
            layers = [NesTLayer(dims, heads, drop_path_rate=next(rates), **options) for _ in range(depths[level])]
            size = (-(-grid[0] // 2**level), -(-grid[1] // 2**level))
            place: dict[str, Any] = {'drop': drop_rate, 'mode': interpolate_mode, 'with_cp': with_cp}
            self.levels.append(NesTLevel(before, layers, size, dims, **place))
            track_position(self, f'levels.{level}.pos_embed', size, mode=interpolate_mode)
        if extra_dims is not None:
            self.extra_aggregation = BlockAggregation(self.embed_dims[-2], extra_dims, norm_cfg=norm_cfg)
        self.norm = build_norm_layer(norm_cfg, self.embed_dims[self.num_levels - 1])[1] if final_norm else None
        infos = [(dims, patch * 2**level) for level, dims in enumerate(self.embed_dims)]
        extra = {} if extra_dims is None else {'extra_aggregation': infos[-1]}
        tops = [f'levels.{level}.layers.{depth - 1}' for level, depth in enumerate(depths)]
        self.declare(
            {f'levels.{i}.layers.{j}': infos[i] for i, depth in enumerate(depths) for j in range(depth)},
            range(len(self.embed_dims)) if out_indices is None else out_indices,
            stages=[*tops, *extra],
            num_frozen_stages=self.num_levels,
            others=extra,
            last=('norm', 'extra_aggregation'),
        )
        self.freeze()
        register_layout(self)

    def stage_parts(self, stage: int) -> list[nn.Module | nn.Parameter]:
        if stage == 0:
            return [self.patch_embed]
        return [self.levels[stage - 1] if stage <= self.num_levels else self.extra_aggregation]

    def unused_parts(self) -> list[nn.Module | nn.Parameter]:
        unused = super().unused_parts()
        return [*unused, self.norm] if self.norm is not None and self.num_levels - 1 not in self.out_indices else unused

    def init_parameters(self) -> None:
        """First values as in a plain ViT."""
        for level in self.levels:
            trunc_normal_(level.pos_embed, std=0.02)
        init_linears(self, (nn.Linear, nn.Conv2d))

    def collect(self, img: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        x, size = self.patch_embed(channels_last(img))  # (B, H*W, C)
        found = self.run_stages(self.levels, x.unflatten(1, tuple(size)).permute(0, 3, 1, 2), names)
        top = self.stage_names[self.num_levels - 1]
        if 'extra_aggregation' in names:
            found['extra_aggregation'] = self.extra_aggregation(found[top])
        if top in found and self.norm is not None and top in self.out_names:
            found[top] = self.norm(found[top].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return found
