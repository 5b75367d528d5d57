"""Nested hierarchical transformer: layers inside blocks of the map, and convolutions that merge blocks.

Paper: Nested Hierarchical Transformer: Towards Accurate, Data-Efficient and Interpretable Visual Understanding,
Zhang et al., AAAI 2022, arXiv 2105.12723.

Deviations from the paper, none of which changes a number of its networks: images of any size, whose blocks at the
right and bottom are cut off where the map ends (attention then sees the tokens that exist, which is what padding to
whole blocks and masking would give, without the padding's cost); every level's map can be returned.

Shapes: B batch, C width of a level, H and W its map's size, e edge of a block in tokens, n tokens of a block (e e, or
fewer at the border), R = B H W rows: the tokens of all blocks of all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import PatchEmbed
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmvit_ext.models.layers.blocks import (
    BlockAttention,
    BlockDropPath,
    BlockGroup,
    block_groups,
    from_blocks,
    to_blocks,
)
from mmvit_ext.models.layers.indices import resolve_indices
from mmvit_ext.models.layers.initialisation import init_linears
from mmvit_ext.models.layers.mlp import MLP
from mmvit_ext.models.layers.position_embedding import resize_position_embedding, square_grid
from mmvit_ext.registry import MODELS

__all__ = ['NesT']

MLP_RATIO = 4


def level_settings(
    arch: str | Mapping[str, Sequence[int]], archs: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The settings of an architecture, given by name or as a dict.

    Args:
        arch: a name, or ``embed_dims``, ``num_heads`` and ``depths`` with a value per level.
        archs: those that have a name.

    Raises:
        ValueError: for an unknown name, missing or unknown settings, or settings that are not one per level.
    """
    if not isinstance(arch, Mapping):
        if arch not in archs:
            raise ValueError(f'arch must be one of {list(archs)} or a dict, got {arch!r}')
        return archs[arch]
    names = {'embed_dims', 'num_heads', 'depths'}
    if set(arch) != names:
        raise ValueError(f'arch: missing {sorted(names - set(arch))}, unknown {sorted(set(arch) - names)}')
    if not arch['depths'] or len({len(values) for values in arch.values()}) > 1:
        raise ValueError(f'arch: embed_dims, num_heads and depths must have one value per level, got {dict(arch)}')
    return arch


class NesTLayer(nn.Module):
    """Pre-norm layer: ``x + Attn(LN(x))``, then ``x + MLP(LN(x))``.

    Args:
        attn: the attention.
        mlp: the MLP.
        embed_dims: width C.
        norm_cfg: both norms, mmcv style.
        drop_path: stochastic depth of both branches, a probability.
    """

    def __init__(
        self, attn: BlockAttention, mlp: MLP, *, embed_dims: int, norm_cfg: Mapping[str, Any], drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = build_norm_layer(dict(norm_cfg), embed_dims)[1]
        self.attn = attn
        self.norm2 = build_norm_layer(dict(norm_cfg), embed_dims)[1]
        self.mlp = mlp
        self.drop_path = BlockDropPath(drop_path)

    def forward(self, x: Tensor, groups: Sequence[BlockGroup], batch: int) -> Tensor:
        """Rows ``(R, C)`` of the blocks of ``groups`` to the same, for ``batch`` images."""
        x = x + self.drop_path(self.attn(self.norm1(x), groups, batch), groups, batch)
        return x + self.drop_path(self.mlp(x, self.norm2), groups, batch)


class BlockAggregation(nn.Module):
    """Halve a map on the image plane: 3x3 convolution, norm, 3x3 max-pooling of stride 2.

    Both are padded as TensorFlow's "SAME" pads maps of even size: the convolution all around, the pooling at the bottom
    and right only. A map of odd size is first made even, so that window i always starts at row 2 i and what lies beyond
    the border changes nothing.

    Args:
        in_dims: width of the map.
        embed_dims: width of the result.
        norm_cfg: norm, mmcv style.
    """

    def __init__(self, in_dims: int, embed_dims: int, *, norm_cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dims, embed_dims, 3, padding=1)
        self.norm = build_norm_layer(dict(norm_cfg), embed_dims)[1]

    def forward(self, x: Tensor) -> Tensor:
        """Channels-last ``(B, C', H, W)`` to channels-last ``(B, C, ceil(H / 2), ceil(W / 2))``."""
        x = self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        odd = (x.shape[3] % 2, x.shape[2] % 2)
        if any(odd):
            x = F.pad(x, (0, odd[0], 0, odd[1]), value=-torch.inf)
        return F.max_pool2d(x, 3, 2, ceil_mode=True)


class NesTLevel(nn.Module):
    """A level of the hierarchy: aggregation (but in the first one), position embedding, layers in blocks.

    Args:
        aggregation: from the map of the level below, or None.
        layers: the layers.
        grid: ``(H, W)`` of the position embedding, in tokens.
        embed_dims: width C.
        block_size: edge of a block in tokens.
        drop: dropout after the position embedding, a probability.
        interpolate_mode: interpolation of the position embedding.
        with_cp: activation checkpointing of every layer.
    """

    def __init__(
        self,
        aggregation: BlockAggregation | None,
        layers: Sequence[NesTLayer],
        *,
        grid: tuple[int, int],
        embed_dims: int,
        block_size: int,
        drop: float,
        interpolate_mode: str,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.aggregation = aggregation
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1], embed_dims))
        self.pos_drop = nn.Dropout(drop)
        self.layers = nn.ModuleList(layers)
        self.grid = grid
        self.block_size = block_size
        self.interpolate_mode = interpolate_mode
        self.with_cp = with_cp
        self._register_load_state_dict_pre_hook(self._fit_state_dict)

    def _fit_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
        """Before any load: resize a position embedding of another training size."""
        name = f'{prefix}pos_embed'
        stored = state_dict.get(name)
        if stored is not None and stored.ndim == 3 and stored.shape[1] != self.pos_embed.shape[1]:
            grid = square_grid(stored.shape[1], name)
            state_dict[name] = resize_position_embedding(stored, grid, self.grid, mode=self.interpolate_mode)

    def forward(self, x: Tensor) -> Tensor:
        """Map of the level below (or embedded patches) to this level's ``(B, C, H, W)``, both channels-last."""
        if self.aggregation is not None:
            x = self.aggregation(x)
        B, _, H, W = x.shape
        position = resize_position_embedding(self.pos_embed, self.grid, (H, W), mode=self.interpolate_mode)
        groups = block_groups((H, W), self.block_size)
        rows = self.pos_drop(to_blocks(x.permute(0, 2, 3, 1), position.unflatten(1, (H, W)), self.block_size))  # (R, C)
        for layer in self.layers:
            if self.with_cp and self.training:
                rows = checkpoint(layer, rows, groups, B, use_reentrant=False)
            else:
                rows = layer(rows, groups, B)
        return from_blocks(rows, (B, H, W), self.block_size).permute(0, 3, 1, 2)


@MODELS.register_module()
class NesT(BaseModule):
    """Nested hierarchical transformer.

    Every level runs its layers inside blocks of ``block_size`` x ``block_size`` tokens; between two levels the map is
    halved on the image plane, so that four neighbouring blocks become one and information crosses their borders
    (arXiv 2105.12723, section 3 and figure 1). Attention is linear in the number of tokens.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'cifar-tiny'``, ``'cifar-small'``, ``'cifar-base'``, or a dict of
            ``embed_dims``, ``num_heads`` and ``depths``, a value per level. The next four are those of the named
            architecture when not given (224, 4, 14, False for a dict and outside the CIFAR ones, which have 32, 1, 4,
            True).
        img_size: training size in pixels, an edge or ``(H, W)``; it fixes the grids of the position embeddings only.
        patch_size: edge of a patch in pixels.
        block_size: edge of a block in tokens.
        multi_query: whether the heads of an attention share one head of keys and values.
        in_channels: image channels.
        out_indices: levels whose map is returned, in this order; negative values count from the top. All of them when
            not given.
        extra_dims: width of one more map on top, at twice the stride, made by an aggregation without layers; it is the
            last level for ``out_indices``. None for no such map.
        final_norm: whether the map of the last level that has layers is normalised when it is returned, as classifiers
            need it. The extra map is made of the one before the norm.
        qkv_bias: whether queries, keys and values have a bias.
        drop_rate: dropout after the position embeddings, the attention and in the MLP, a probability.
        attn_drop_rate: dropout of attention weights, a probability.
        drop_path_rate: stochastic depth of the last layer, growing linearly from 0 at the first, a probability.
        norm_cfg: all norms, mmcv style; ``dict(type='LN', eps=1e-6)`` when not given.
        act_cfg: activation of the MLP, mmcv style; ``dict(type='GELU')`` when not given.
        interpolate_mode: interpolation of the position embeddings.
        frozen_stages: 0 freezes the patch embedding, n > 0 the first n levels, too; -1 freezes nothing.
        with_cp: activation checkpointing of every layer.
        init_cfg: initialisation, mmengine style.

    Shape:
        input ``(B, in_channels, H, W)``, any H and W; outputs ``(B, C, ceil(H / s), ceil(W / s))`` with strides
        s = 4, 8, 16 (and 32), contiguous in memory; for CIFAR s = 1, 2, 4, 8.

    Raises:
        ValueError: for an unknown ``arch``, settings that are not one per level, an ``img_size`` below a patch, heads
            that do not divide the width, an output or frozen level that does not exist.

    Note:
        Levels above the highest output are not run, and what no output depends on has no gradient. The MLPs and so the
        network can be differentiated once.
    """

    ARCHS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
        # arXiv 2105.12723, table 1 (CIFAR) and table 2 (ImageNet), with appendix A.
        {
            **{
                name: MappingProxyType({'embed_dims': embed_dims, 'num_heads': num_heads, 'depths': depths})
                for name, embed_dims, num_heads, depths in (
                    ('tiny', (96, 192, 384), (3, 6, 12), (2, 2, 8)),
                    ('small', (96, 192, 384), (3, 6, 12), (2, 2, 20)),
                    ('base', (128, 256, 512), (4, 8, 16), (2, 2, 20)),
                )
            },
            **{
                f'cifar-{name}': MappingProxyType(
                    {
                        'embed_dims': (dims,) * 4,
                        'num_heads': (heads,) * 4,
                        'depths': (3,) * 4,
                        'img_size': 32,
                        'patch_size': 1,
                        'block_size': 4,
                        'multi_query': True,
                    }
                )
                for name, dims, heads in (('tiny', 192, 3), ('small', 384, 6), ('base', 768, 12))
            },
        }
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
        super().__init__(init_cfg=init_cfg)
        settings: dict[str, Any] = {'img_size': 224, 'patch_size': 4, 'block_size': 14, 'multi_query': False}
        settings |= level_settings(arch, self.ARCHS)
        given = {'img_size': img_size, 'patch_size': patch_size, 'block_size': block_size, 'multi_query': multi_query}
        settings |= {name: value for name, value in given.items() if value is not None}
        if settings['block_size'] < 1 or settings['patch_size'] < 1:
            raise ValueError(
                f'patch_size and block_size must be at least 1, got {settings["patch_size"]} and '
                f'{settings["block_size"]}'
            )
        self.patch_size = settings['patch_size']
        grid = self._grid(settings['img_size'], self.patch_size)
        depths = settings['depths']
        self.num_levels = len(depths)
        if not -1 <= frozen_stages <= self.num_levels:
            raise ValueError(f'frozen_stages must be -1 to {self.num_levels}, got {frozen_stages}')
        if extra_dims is not None and extra_dims < 1:
            raise ValueError(f'extra_dims must be a width of at least 1 or None, got {extra_dims}')
        self.embed_dims = (*settings['embed_dims'], *([] if extra_dims is None else [extra_dims]))
        count = len(self.embed_dims)
        self.out_indices = resolve_indices(range(count) if out_indices is None else out_indices, count, 'levels')
        self.frozen_stages = frozen_stages
        norm_cfg = dict(norm_cfg or {'type': 'LN', 'eps': 1e-6})
        act_cfg = dict(act_cfg or {'type': 'GELU'})

        self.patch_embed = PatchEmbed(
            in_channels=in_channels,
            embed_dims=self.embed_dims[0],
            kernel_size=self.patch_size,
            stride=self.patch_size,
            padding='corner',
        )
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist())
        self.levels = nn.ModuleList()
        for level, (dims, heads, depth) in enumerate(
            zip(settings['embed_dims'], settings['num_heads'], depths, strict=True)
        ):
            layers = [
                NesTLayer(
                    BlockAttention(
                        dims,
                        heads,
                        multi_query=settings['multi_query'],
                        qkv_bias=qkv_bias,
                        attn_drop=attn_drop_rate,
                        proj_drop=drop_rate,
                    ),
                    MLP(dims, MLP_RATIO * dims, act_cfg=act_cfg, drop=drop_rate),
                    embed_dims=dims,
                    norm_cfg=norm_cfg,
                    drop_path=next(rates),
                )
                for _ in range(depth)
            ]
            self.levels.append(
                NesTLevel(
                    BlockAggregation(self.embed_dims[level - 1], dims, norm_cfg=norm_cfg) if level else None,
                    layers,
                    grid=(-(-grid[0] // 2**level), -(-grid[1] // 2**level)),
                    embed_dims=dims,
                    block_size=settings['block_size'],
                    drop=drop_rate,
                    interpolate_mode=interpolate_mode,
                    with_cp=with_cp,
                )
            )
        if extra_dims is not None:
            self.extra_aggregation = BlockAggregation(self.embed_dims[-2], extra_dims, norm_cfg=norm_cfg)
        self.norm = build_norm_layer(norm_cfg, self.embed_dims[self.num_levels - 1])[1] if final_norm else None
        for part in (*self._frozen_parts(), *self._unused_parts()):
            part.requires_grad_(False)
        self._register_load_state_dict_pre_hook(self._fit_state_dict)

    @staticmethod
    def _grid(img_size: int | Sequence[int], patch_size: int) -> tuple[int, int]:
        size = (img_size,) if isinstance(img_size, int) else tuple(img_size)
        if len(size) not in (1, 2) or min(size) < patch_size:
            raise ValueError(f'img_size must be an edge or (H, W) of at least {patch_size} pixels, got {img_size!r}')
        return -(-size[0] // patch_size), -(-size[-1] // patch_size)

    def _frozen_parts(self) -> list[nn.Module]:
        return [] if self.frozen_stages < 0 else [self.patch_embed, *self.levels[: self.frozen_stages]]

    def _unused_parts(self) -> list[nn.Module]:
        """Parts that no output depends on: distributed training refuses parameters that get no gradient."""
        unused = list(self.levels[max(self.out_indices) + 1 :])
        if self.norm is not None and self.num_levels - 1 not in self.out_indices:
            unused.append(self.norm)
        if len(self.embed_dims) > self.num_levels and self.num_levels not in self.out_indices:
            unused.append(self.extra_aggregation)
        return unused

    def _fit_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
        """Before any load: leave out a final norm that this network does not have."""
        if self.norm is None:
            for part in ('weight', 'bias'):
                state_dict.pop(f'{prefix}norm.{part}', None)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Width of each output map."""
        return tuple(self.embed_dims[i] for i in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Stride of each output map in pixels."""
        return tuple(self.patch_size * 2**i for i in self.out_indices)

    def init_weights(self) -> None:
        """Load ``init_cfg``'s checkpoint, or initialise all weights and position embeddings as ViTs are."""
        if self.init_cfg:
            super().init_weights()
            return
        for level in self.levels:
            trunc_normal_(level.pos_embed, std=0.02)
        init_linears(self, (nn.Linear, nn.Conv2d))
        self._is_init = True

    def train(self, mode: bool = True) -> NesT:
        """Set the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    def level_maps(self, img: Tensor) -> list[Tensor]:
        """Maps of the levels from the lowest to the highest that an output needs, before the final norm.

        Unlike the outputs of :meth:`forward` these lie on the way to the higher levels: whatever is computed from
        :meth:`outputs` of them has a gradient with respect to each.

        Args:
            img: ``(B, in_channels, H, W)``.

        Returns:
            ``(B, C, H, W)`` each, channels-last in memory.
        """
        x, size = self.patch_embed(img.contiguous(memory_format=torch.channels_last))  # (B, H*W, C)
        x = x.unflatten(1, tuple(size)).permute(0, 3, 1, 2)
        maps = []
        for level in self.levels[: max(self.out_indices) + 1]:
            x = level(x)
            maps.append(x)
        return maps

    def outputs(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What :meth:`forward` returns, from what :meth:`level_maps` returned."""
        outs = dict(enumerate(maps))
        top = self.num_levels - 1
        if top + 1 in self.out_indices:
            outs[top + 1] = self.extra_aggregation(maps[top])
        if top in self.out_indices and self.norm is not None:
            outs[top] = self.norm(maps[top].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        # mmcv's RoIAlign reads a map's memory as if it were contiguous, and convolutions in between keep the layout.
        return tuple(outs[index].contiguous() for index in self.out_indices)

    def forward(self, img: Tensor) -> tuple[Tensor, ...]:
        """Maps of the levels named by ``out_indices``; see the class."""
        return self.outputs(self.level_maps(img))
