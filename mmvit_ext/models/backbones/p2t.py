"""Pyramid pooling transformer for classification, segmentation and detection.

Paper: P2T: Pyramid Pooling Transformer for Scene Understanding, Wu et al., TPAMI 2022, arXiv 2106.12011.

Deviations from the paper, all of them those of the released weights: blocks are pre-norm, while the paper's equations
print post-norm; the linear maps of queries, keys and values have biases; pooled sizes are rounded as Python rounds
(halves to even) and are at least 1.

Shapes: B batch, C width of a stage, H and W its map's size, N = H W tokens, M pooled tokens, r expansion of the FFN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks.transformer import PatchEmbed
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

from mmvit_ext.models.backbones.base import Backbone, arch_table, channels_last, checkpointed
from mmvit_ext.models.layers.attention import check_choices, check_heads, check_rates, multihead_attention
from mmvit_ext.models.layers.drop import DropPath
from mmvit_ext.models.layers.mlp import MLP
from mmvit_ext.models.layers.open_sizes import is_open, pool_windows
from mmvit_ext.registry import MODELS

__all__ = ['P2T', 'pooled_size']

PATCH_STRIDES = (4, 2, 2, 2)
OVERLAPPED_KERNELS = (7, 3, 3, 3)
POOLINGS: Mapping[str, Callable[..., Tensor]] = {'avg': F.adaptive_avg_pool2d, 'max': F.adaptive_max_pool2d}


def pooled_size(size: tuple[int, int], ratio: int) -> tuple[int, int]:
    """Size of a map ``(H, W)`` pooled by ``ratio``: rounded as Python rounds, at least 1 x 1."""

    def pooled(edge: int) -> int:
        if not is_open(edge):
            return max(round(edge / ratio), 1)
        # A half goes to the even neighbour; an odd ratio has no halves.
        half_up = edge // ratio % 2 if ratio % 2 == 0 else 1
        return torch.sym_max((2 * edge + ratio - 1 + half_up) // (2 * ratio), 1)

    return pooled(size[0]), pooled(size[1])


def pool_map(x: Tensor, size: tuple[int, int], pool_type: str) -> tuple[Tensor, Tensor | None]:
    """Adaptive pooling ``'avg'`` or ``'max'`` of ``(B, C, H, W)`` to a size; of an open one also which places exist."""
    if not is_open(*size):
        return POOLINGS[pool_type](x, size), None
    down, right = (torch.arange(edge + 1, device=x.device) < edge for edge in size)
    return pool_windows(x, size, largest=pool_type == 'max'), (down[:, None] & right).flatten()


def as_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """View tokens ``(B, H*W, C)`` as a map ``(B, C, H, W)`` that is channels-last in memory."""
    return x.unflatten(1, size).permute(0, 3, 1, 2)


def as_tokens(x: Tensor) -> Tensor:
    """View a channels-last map ``(B, C, H, W)`` as tokens ``(B, H*W, C)``."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class PyramidPoolingAttention(nn.Module):
    r"""P-MHSA: attention from all tokens to those of several average-pooled maps.

    With :math:`P_i = \mathrm{pool}_i(X)` and the stage's depthwise convolutions as relative position encoding
    (arXiv 2106.12011, equations 2 to 5),

    .. math::
        P = \mathrm{LN}(\mathrm{concat}_i(P_i + \mathrm{DWConv}_i(P_i))), \qquad
        \mathrm{softmax}(X W_q (P W_k)^\top / \sqrt{C/h})\, P W_v
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        pool_ratios: Sequence[int],
        pool_type: str,
        qkv_bias: bool,
        attn_drop: float,
        proj_drop: float,
    ) -> None:
        super().__init__()
        check_heads(embed_dims, num_heads)
        self.num_heads, self.attn_drop = num_heads, attn_drop
        self.pool_ratios, self.pool_type = tuple(pool_ratios), pool_type
        self.q = nn.Linear(embed_dims, embed_dims, bias=qkv_bias)
        self.kv = nn.Linear(embed_dims, 2 * embed_dims, bias=qkv_bias)
        self.norm = nn.LayerNorm(embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, size: tuple[int, int], rpe_convs: nn.ModuleList | None) -> Tensor:
        """``(B, H*W, C)`` to the same; the stage's convolutions encode positions, if there are any."""
        feature = as_map(x, size)  # (B, C, H, W)
        pools, exist = zip(
            *(pool_map(feature, pooled_size(size, ratio), self.pool_type) for ratio in self.pool_ratios), strict=True
        )
        if rpe_convs is not None:
            pools = tuple(pooled + conv(pooled) for pooled, conv in zip(pools, rpe_convs, strict=True))
        pyramid = self.norm(torch.cat([as_tokens(pooled) for pooled in pools], dim=1))  # (B, M, C)
        q = self.q(x)  # (B, H*W, C)
        k, v = self.kv(pyramid).chunk(2, dim=-1)  # (B, M, C) each
        mask = None if exist[0] is None else torch.cat(exist)[None, None, None]
        out = multihead_attention(q, k, v, self.num_heads, self.attn_drop if self.training else 0.0, mask)
        return self.proj_drop(self.proj(out))


class InvertedResidualFFN(nn.Module):
    """FFN as an inverted bottleneck (IRB): 1x1 convolution, 3x3 depthwise convolution, 1x1 convolution."""

    def __init__(self, embed_dims: int, hidden_channels: int, *, act_cfg: Mapping[str, Any], drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(embed_dims, hidden_channels, 1)
        self.conv = nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1, groups=hidden_channels)
        self.fc2 = nn.Conv2d(hidden_channels, embed_dims, 1)
        self.act = build_activation_layer(dict(act_cfg))
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``(B, H*W, C)`` to ``(B, H*W, C)``."""
        x = self.act(self.fc1(as_map(x, size)))  # (B, r C, H, W)
        x = self.act(self.conv(x))
        return self.drop(as_tokens(self.fc2(x)))


class PlainFFN(MLP):
    """FFN without the depthwise convolution: the paper's ablation of the inverted bottleneck."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        return super().forward(x)


FFNS: Mapping[str, Callable[..., nn.Module]] = {'irb': InvertedResidualFFN, 'mlp': PlainFFN}


class P2TBlock(nn.Module):
    """Pre-norm block on tokens ``(B, H*W, C)``: ``x + P-MHSA(LN(x))``, then ``x + FFN(LN(x))``."""

    compiled_for_fixed_sizes = True

    def __init__(
        self, embed_dims: int, attn: nn.Module, ffn: nn.Module, *, norm_cfg: Mapping[str, Any], drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = build_norm_layer(dict(norm_cfg), embed_dims)[1]
        self.attn = attn
        self.norm2 = build_norm_layer(dict(norm_cfg), embed_dims)[1]
        self.ffn = ffn
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int], rpe_convs: nn.ModuleList | None) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), size, rpe_convs))
        return x + self.drop_path(self.ffn(self.norm2(x), size))


class P2TStage(nn.Module):
    """Patch embedding, blocks, and the position encoding (a convolution for each ratio) that the blocks share."""

    def __init__(
        self, patch_embed: nn.Module, blocks: Sequence[nn.Module], rpe_convs: nn.ModuleList | None, *, with_cp: bool
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = nn.ModuleList(blocks)
        self.rpe_convs = rpe_convs
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map of the stage before, ``(B, C', H', W')``, to the maps ``(B, C, H, W)`` of the stage's blocks."""
        x, size = self.patch_embed(x)  # (B, H*W, C)
        maps = []
        for block in self.blocks:
            x = checkpointed(block, x, size, self.rpe_convs, with_cp=self.with_cp)
            maps.append(as_map(x, size))
        return maps


@MODELS.register_module()
class P2T(Backbone):
    """Pyramid pooling transformer: four stages of pooling-based self-attention.

    Each stage halves the map (the first one quarters it) and runs :class:`P2TBlock` on it (arXiv 2106.12011, figure 3
    and table 1), with keys and values pooled to M tokens: ``(N + 2M) C^2 + 2 N M C`` multiply-adds.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, or a dict of ``embed_dims``, ``num_heads``, ``depths``
            and ``mlp_ratios``, four values each.
        in_channels: Image channels.
        out_indices: Stages whose map is returned, in this order; negative values count from the end.
        pool_ratios: Pooling ratios of each of the four stages, edge over pooled edge.
        pool_type: ``'avg'`` or ``'max'``.
        with_rpe: Whether pooled maps get a relative position encoding.
        ffn_type: ``'irb'``, with a depthwise convolution between the linear maps, or ``'mlp'``, without.
        overlapped: Whether patches overlap (kernels 7, 3, 3, 3, padded) or not (kernel = stride, no padding).
        qkv_bias: Whether queries, keys and values have a bias.
        drop_rate: Dropout after the attention and the FFN, a probability.
        attn_drop_rate: Dropout of attention weights, a probability.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0 at the first, a probability.
        norm_cfg: Norms of the blocks (not of pooled tokens and patches); ``dict(type='LN', eps=1e-6)`` when not given.
        act_cfg: Activation of the FFN, mmcv style; ``dict(type='HSwish')`` when not given.
        out_type: ``'featmap'`` for maps, ``'avg_featmap'`` for their means ``(B, C)``.
        frozen_stages: 0 freezes the first patch embedding, n > 0 the first n stages; -1 freezes nothing.
        with_cp: Activation checkpointing of every block.
        init_cfg: Initialisation, mmengine style.

    Shape:
        Input ``(B, in_channels, H, W)``, any H and W; outputs ``(B, C, ceil(H / s), ceil(W / s))`` with strides
        s = 4, 8, 16, 32 (rounded down where patches do not overlap), contiguous in memory.

    Raises:
        ValueError: An argument is unknown, out of range, or contradicts another one.
    """

    # arXiv 2106.12011, table 1.
    ARCHS = arch_table(
        ('embed_dims', 'num_heads', 'depths', 'mlp_ratios'),
        tiny=((48, 96, 240, 384), (1, 2, 5, 8), (2, 2, 6, 3), (8, 8, 4, 4)),
        small=((64, 128, 320, 512), (1, 2, 5, 8), (2, 2, 9, 3), (8, 8, 4, 4)),
        base=((64, 128, 320, 512), (1, 2, 5, 8), (3, 4, 18, 3), (8, 8, 4, 4)),
        large=((64, 128, 320, 640), (1, 2, 5, 8), (3, 8, 27, 3), (8, 8, 4, 4)),
    )
    UNIT = 'stage'

    def __init__(
        self,
        arch: str | Mapping[str, Sequence[int]] = 'small',
        *,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        pool_ratios: Sequence[Sequence[int]] = ((12, 16, 20, 24), (6, 8, 10, 12), (3, 4, 5, 6), (1, 2, 3, 4)),
        pool_type: str = 'avg',
        with_rpe: bool = True,
        ffn_type: str = 'irb',
        overlapped: bool = True,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = None,
        out_type: str = 'featmap',
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(out_type=out_type, frozen_stages=frozen_stages, with_cp=with_cp, init_cfg=init_cfg)
        settings = self.arch_settings(arch)
        num_stages, depths = len(PATCH_STRIDES), settings['depths']
        if len(depths) != num_stages:
            raise ValueError(f'arch: depths must have {num_stages} values, one per stage, got {depths!r}')
        if len(pool_ratios) != num_stages or any(not ratios or min(ratios) < 1 for ratios in pool_ratios):
            raise ValueError(f'pool_ratios must be {num_stages} sequences of ratios of at least 1, got {pool_ratios!r}')
        check_choices(pool_type=(pool_type, POOLINGS), ffn_type=(ffn_type, FFNS))
        check_rates(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        self.embed_dims = tuple(settings['embed_dims'])
        self.overlapped = overlapped
        norm_cfg, act_cfg = dict(norm_cfg or {'type': 'LN', 'eps': 1e-6}), dict(act_cfg or {'type': 'HSwish'})

        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist())
        widths = (in_channels, *self.embed_dims)
        self.stages = nn.ModuleList()
        for stage, dims in enumerate(self.embed_dims):
            stride = PATCH_STRIDES[stage]
            kernel, padding = (OVERLAPPED_KERNELS[stage], OVERLAPPED_KERNELS[stage] // 2) if overlapped else (stride, 0)
            patch_embed = PatchEmbed(
                widths[stage], dims, kernel_size=kernel, stride=stride, padding=padding, norm_cfg={'type': 'LN'}
            )
            attention: dict[str, Any] = {'pool_ratios': pool_ratios[stage], 'pool_type': pool_type}
            attention |= {'qkv_bias': qkv_bias, 'attn_drop': attn_drop_rate, 'proj_drop': drop_rate}
            hidden, blocks = int(dims * settings['mlp_ratios'][stage]), []
            for _ in range(depths[stage]):
                attn = PyramidPoolingAttention(dims, settings['num_heads'][stage], **attention)
                ffn = FFNS[ffn_type](dims, hidden, act_cfg=act_cfg, drop=drop_rate)
                blocks.append(P2TBlock(dims, attn, ffn, norm_cfg=norm_cfg, drop_path=next(rates)))
            convs = (nn.Conv2d(dims, dims, 3, padding=1, groups=dims) for _ in pool_ratios[stage])
            rpe_convs = nn.ModuleList(convs) if with_rpe else None
            self.stages.append(P2TStage(patch_embed, blocks, rpe_convs, with_cp=with_cp))
        infos = [(dims, 4 * 2**stage) for stage, dims in enumerate(self.embed_dims)]
        self.declare(
            {f'stages.{i}.blocks.{j}': infos[i] for i, depth in enumerate(depths) for j in range(depth)},
            out_indices,
            stages=[f'stages.{stage}.blocks.{depth - 1}' for stage, depth in enumerate(depths)],
            owners={'stages.0.rpe_convs': 'stages.0.blocks.0'},
        )
        self.freeze()

    def stage_parts(self, stage: int) -> list[nn.Module | nn.Parameter]:
        return [self.stages[stage - 1] if stage else self.stages[0].get_submodule('patch_embed')]

    def init_parameters(self) -> None:
        """Give linear maps and convolutions the first values that pyramid transformers have."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Conv2d):
                # Each group of a depthwise convolution has one channel to give, not all of them.
                fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def collect(self, img: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        if not self.overlapped and min(img.shape[-2:]) < 32:
            raise ValueError(f'overlapped=False needs images of at least 32 x 32 pixels, got {tuple(img.shape[-2:])}')
        # Channels last in memory: tokens and maps are then views of each other all the way.
        return self.run_stages(self.stages, channels_last(img), names)
