"""Plain vision transformer for dense prediction, with fused attention.

Paper: An Image is Worth 16x16 Words, Dosovitskiy et al., arXiv 2010.11929; used as SegViT's encoder (arXiv 2210.05844,
section 3.1). Parameter names, outputs, and arguments but ``norm_eval`` and ``pretrained`` are those of
mmsegmentation's ``VisionTransformer``, so that its checkpoints (AugReg, DeiT and trained segmentors) load strictly.

Deviations from mmsegmentation's class, none of which changes an evaluated output: attention never materialises its
weights; stochastic depth acts on both branches of a layer; layers above the highest output are not run; a stored
position embedding is resized by whichever loader reads it.

Shapes: B batch, C width, H and W input size in pixels, (h, w) token grid = ceil(H / patch), ceil(W / patch).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from mmengine.model.weight_init import kaiming_init, trunc_normal_
from torch import Tensor, nn

from mmvit_ext.models.backbones.base import Backbone, Tokens, arch_table, checkpointed, token_grid
from mmvit_ext.models.layers.attention import PackedAttention, check_choices, check_counts, check_rates
from mmvit_ext.models.layers.drop import DropPath
from mmvit_ext.models.layers.open_sizes import PatchEmbed, cover
from mmvit_ext.models.layers.position_embedding import INTERPOLATIONS, resize_position_embedding, track_position
from mmvit_ext.registry import MODELS

__all__ = ['ViT', 'ViTLayer']

PATCH_PADS = ('corner', 'same')


class ViTAttention(nn.Module):
    """Self-attention of one layer and dropout of its output."""

    def __init__(self, embed_dims: int, num_heads: int, *, bias: bool, attn_drop: float, proj_drop: float) -> None:
        super().__init__()
        self.attn = PackedAttention(embed_dims, num_heads, bias=bias, dropout=attn_drop)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self.proj_drop(self.attn(x, memory, mask))


class ViTFeedForward(nn.Module):
    """FFN of one layer, with dropout of its output, in the parameter names of mmcv's ``FFN``."""

    def __init__(
        self, embed_dims: int, hidden_channels: int, *, num_fcs: int, act_cfg: Mapping[str, Any], dropout: float
    ) -> None:
        super().__init__()
        if num_fcs < 2:
            raise ValueError(f'num_fcs must be at least 2, got {num_fcs}')
        widths = [embed_dims] + [hidden_channels] * (num_fcs - 1)
        hidden = (
            nn.Sequential(nn.Linear(before, after), build_activation_layer(dict(act_cfg)), nn.Dropout(dropout))
            for before, after in pairwise(widths)
        )
        self.layers = nn.Sequential(*hidden, nn.Linear(hidden_channels, embed_dims), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ViTLayer(BaseModule):
    """Pre-norm encoder layer: ``x + Attn(LN(x))``, then ``x + FFN(LN(x))``."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        *,
        num_fcs: int = 2,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_cfg: Mapping[str, Any],
        act_cfg: Mapping[str, Any],
    ) -> None:
        super().__init__()
        norm1, norm2 = (build_norm_layer(dict(norm_cfg), embed_dims, postfix=place) for place in (1, 2))
        self.norm_names = (norm1[0], norm2[0])
        self.add_module(*norm1)
        self.attn = ViTAttention(embed_dims, num_heads, bias=qkv_bias, attn_drop=attn_drop_rate, proj_drop=drop_rate)
        self.add_module(*norm2)
        self.ffn = ViTFeedForward(embed_dims, feedforward_channels, num_fcs=num_fcs, act_cfg=act_cfg, dropout=drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    norm1 = property(lambda self: getattr(self, self.norm_names[0]))
    norm2 = property(lambda self: getattr(self, self.norm_names[1]))

    def forward(self, x: Tensor, size: tuple[int, int] | None = None, mask: Tensor | None = None) -> Tensor:
        """``(B, N, C)`` to the same; the grid of the tokens matters to layers that change it."""
        x = x + self.drop_path(self.attn(self.norm1(x), mask=mask))
        return x + self.drop_path(self.ffn(self.norm2(x)))


@MODELS.register_module()
class ViT(Backbone):
    r"""Plain vision transformer that returns feature maps of chosen layers.

    With :math:`x_0 = \mathrm{patches}(I) + p`, every layer l computes (arXiv 2010.11929, equations 2 and 3)

    .. math:: x'_l = x_{l-1} + \mathrm{MSA}(\mathrm{LN}(x_{l-1})), \qquad x_l = x'_l + \mathrm{FFN}(\mathrm{LN}(x'_l))

    and the layers named by ``out_indices`` leave the network as maps.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, or a dict of ``embed_dims``, ``num_layers``,
            ``num_heads`` and, if not 4, ``mlp_ratio``; the four keywords below replace single entries.
        embed_dims: Width C.
        num_layers: Number of layers.
        num_heads: Number of attention heads; divides C.
        mlp_ratio: Hidden width of the FFN over C.
        img_size: Training size in pixels, an edge or ``(H, W)``, of the position embedding.
        patch_size: Edge of a patch in pixels.
        patch_pad: ``'corner'`` (bottom and right, to whole patches), ``'same'`` (all around) or a padding in pixels.
        in_channels: Image channels.
        out_origin: Whether the embedded patches are returned as a first map.
        out_indices: Layers whose output is returned, in this order; negative values count from the end.
        out_type: ``'featmap'`` for maps, ``'cls_token'`` or ``'avg_featmap'``, the mean over patches, for ``(B, C)``.
        qkv_bias: Whether the attention's projections have a bias.
        drop_rate: Dropout, a probability.
        attn_drop_rate: Dropout of attention weights, a probability.
        drop_path_rate: Stochastic depth of the last layer, growing linearly from 0 at the first, a probability.
        with_cls_token: Whether a class token takes part. Its parameter exists either way, for the checkpoints' sake.
        output_cls_token: Whether every output is ``[map, class token (B, C)]``; needs ``with_cls_token``.
        norm_cfg: Normalisation; ``dict(type='LN')`` when not given.
        act_cfg: Activation of the FFN; ``dict(type='GELU')`` when not given.
        patch_norm: Whether the patch embedding is normalised.
        patch_bias: Whether the patch embedding's convolution has a bias.
        pre_norm: Whether the tokens are normalised before the first layer.
        final_norm: Whether the last layer's output is normalised.
        interpolate_mode: Interpolation of the position embedding.
        num_fcs: Number of linear layers in an FFN.
        frozen_stages: -1 trains everything, 0 freezes the embedding, k the first k layers too.
        with_cp: Activation checkpointing of every layer.
        frozen_exclude: Only parameters with this or one of these strings in their name stay trainable; all do with
            ``'all'``.
        init_cfg: Initialisation, mmengine style.

    Shape:
        Input ``(B, in_channels, H, W)``, any H and W; outputs ``(B, C, ceil(H / patch), ceil(W / patch))`` each, with
        ``patch_pad`` in pixels ``floor((H + 2 * patch_pad) / patch)`` rows and columns alike.

    Raises:
        ValueError: An argument is unknown, out of range, or contradicts another one.
    """

    UNIT = 'layer'
    OUT_TYPES: tuple[str, ...] = ('featmap', 'cls_token', 'avg_featmap')
    # Tiny: DeiT (arXiv 2012.12877), table 1; the others: arXiv 2010.11929, table 1, and DeiT for Small.
    ARCHS = arch_table(
        ('embed_dims', 'num_layers', 'num_heads'),
        tiny=(192, 12, 3),
        small=(384, 12, 6),
        base=(768, 12, 12),
        large=(1024, 24, 16),
    )

    def __init__(
        self,
        arch: str | Mapping[str, int] = 'base',
        *,
        embed_dims: int | None = None,
        num_layers: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float | None = None,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        patch_pad: str | int = 'corner',
        in_channels: int = 3,
        out_origin: bool = False,
        out_indices: int | Sequence[int] = -1,
        out_type: str = 'featmap',
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        with_cls_token: bool = True,
        output_cls_token: bool = False,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = None,
        patch_norm: bool = False,
        patch_bias: bool = False,
        pre_norm: bool = False,
        final_norm: bool = False,
        interpolate_mode: str = 'bicubic',
        num_fcs: int = 2,
        frozen_stages: int = -1,
        frozen_exclude: str | Sequence[str] = ('all',),
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(out_type=out_type, frozen_stages=frozen_stages, with_cp=with_cp, init_cfg=init_cfg)
        check_rates(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        check_counts(patch_size=patch_size)
        check_choices(interpolate_mode=(interpolate_mode, INTERPOLATIONS))
        if not (patch_pad in PATCH_PADS or (isinstance(patch_pad, int) and patch_pad >= 0)):
            raise ValueError(f'patch_pad must be one of {PATCH_PADS} or a padding in pixels, got {patch_pad!r}')
        replaced = dict(embed_dims=embed_dims, num_layers=num_layers, num_heads=num_heads, mlp_ratio=mlp_ratio)
        settings = self.arch_settings(arch, {'mlp_ratio': 4}, **replaced)
        self.embed_dims, self.num_layers = int(settings['embed_dims']), int(settings['num_layers'])
        self.patch_size, self.interpolate_mode = patch_size, interpolate_mode
        self.grid = token_grid(img_size, patch_size, cut=True)
        if not with_cls_token and (output_cls_token or out_type == 'cls_token'):
            raise ValueError(f'{output_cls_token=} with {out_type=} needs with_cls_token=True')
        if output_cls_token and out_type != 'featmap':
            raise ValueError(f"output_cls_token=True needs out_type='featmap', got {out_type!r}")
        self.with_cls_token, self.output_cls_token = with_cls_token, output_cls_token
        norm_cfg, act_cfg = dict(norm_cfg or {'type': 'LN'}), dict(act_cfg or {'type': 'GELU'})
        pre_norm_layer, norm_layer = (build_norm_layer(norm_cfg, self.embed_dims, postfix=at) for at in ('_pre', 1))
        self.pre_norm_name = pre_norm_layer[0] if pre_norm else None
        self.norm_name = norm_layer[0] if final_norm else None

        patches: dict[str, Any] = {'in_channels': in_channels, 'embed_dims': self.embed_dims, 'bias': patch_bias}
        self.patch_embed = PatchEmbed(patch_size, patch_pad, norm_cfg=norm_cfg if patch_norm else None, **patches)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims), requires_grad=with_cls_token)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], self.embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)
        if pre_norm:
            self.add_module(*pre_norm_layer)
        options: dict[str, Any] = {'embed_dims': self.embed_dims, 'num_heads': int(settings['num_heads'])}
        options |= {'feedforward_channels': int(settings['mlp_ratio'] * self.embed_dims), 'num_fcs': num_fcs}
        options |= {'qkv_bias': qkv_bias, 'drop_rate': drop_rate, 'attn_drop_rate': attn_drop_rate}
        options |= {'norm_cfg': norm_cfg, 'act_cfg': act_cfg}
        rates = [drop_path_rate * index / max(self.num_layers - 1, 1) for index in range(self.num_layers)]
        self.layers = nn.ModuleList(
            self._build_layer(index, drop_path_rate=rate, **options) for index, rate in enumerate(rates)
        )
        if final_norm:
            self.add_module(*norm_layer)
        self.declare(
            {f'layers.{index}': (self.embed_dims, self.layer_stride(index)) for index in range(self.num_layers)},
            out_indices,
            others={'patch_embed': (self.embed_dims, patch_size)},
            last=norm_layer[:1],
        )
        if out_origin:
            self.out_names = ('patch_embed', *self.out_names)
        track_position(self, 'pos_embed', self.grid, num_prefix_tokens=1, mode=interpolate_mode)
        self.freeze()
        trained = (frozen_exclude,) if isinstance(frozen_exclude, str) else tuple(frozen_exclude)
        if 'all' not in trained:
            for name, parameter in self.named_parameters():
                if not any(part in name for part in trained):
                    parameter.requires_grad_(False)

    def _build_layer(self, index: int, **settings: Any) -> nn.Module:
        """Layer ``index``; the place where a subclass puts another kind of layer."""
        return ViTLayer(**settings)

    def layer_stride(self, index: int) -> int:
        """Stride in pixels of the tokens after layer ``index``."""
        return self.patch_size

    def stage_parts(self, stage: int) -> list[nn.Module | nn.Parameter]:
        if stage > 0:
            return [self.layers[stage - 1]]
        pre_norm = [getattr(self, self.pre_norm_name)] if self.pre_norm_name else []
        return [self.patch_embed, self.cls_token, self.pos_embed, self.drop_after_pos, *pre_norm]

    def unused_parts(self) -> list[nn.Module | nn.Parameter]:
        unused = super().unused_parts()
        if self.norm_name and self.num_layers - 1 not in self.out_indices:
            unused.append(getattr(self, self.norm_name))
        return unused if self.with_cls_token else [*unused, self.cls_token]

    def init_parameters(self) -> None:
        """First values as in the ViT paper's code."""
        trunc_normal_(self.pos_embed, std=0.02)
        trunc_normal_(self.cls_token, std=0.02)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=1e-6) if 'ffn' in name else nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                kaiming_init(module, mode='fan_in', bias=0.0)

    def embed(self, img: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Image ``(B, 3, H, W)`` to tokens with position ``(B, [1 +] h*w, C)`` and their grid ``(h, w)``."""
        x, size = self.patch_embed(img)
        if self.with_cls_token:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        mode = self.interpolate_mode
        position = resize_position_embedding(self.pos_embed, self.grid, size, num_prefix_tokens=1, mode=mode)
        # The first operand decides the layout: without a class token the patches lie channel by channel in memory.
        x = self.drop_after_pos(position[:, 1 - self.with_cls_token :] + x)
        return (getattr(self, self.pre_norm_name)(x) if self.pre_norm_name else x), size

    def collect(self, img: Tensor, names: Collection[str]) -> dict[str, Tokens]:
        x, size = self.embed(img)
        tokens = Tokens(x, size, int(self.with_cls_token))
        found = {'patch_embed': tokens}
        for index, name in enumerate(self.block_names[: self.num_blocks_run(names)]):
            tokens = self.run_block(index, tokens)
            if self.norm_name and index == self.num_layers - 1:
                tokens = self.normalise(tokens)
            if name in names:
                found[name] = tokens
        return found

    def tokens_before(self, img: Tensor, block: int) -> Tokens:
        if not 0 < block < self.num_layers or not self.norm_name or self.num_layers - 1 not in self.out_indices:
            given = f'block={block} of {self.num_layers}, final_norm={bool(self.norm_name)} and {self.out_indices=}'
            needed = 'final_norm=True and the last layer among out_indices before one of its later layers'
            raise ValueError(f'further tokens join a ViT with {needed}, got {given}')
        if self.layer_stride(self.num_layers - 1) > self.layer_stride(block - 1):
            raise ValueError(f'further tokens join a ViT behind the layer that shrinks the grid, got {block=}')
        return self.collect(img, self.block_names[block - 1 : block])[self.block_names[block - 1]]

    def run_block(self, block: int, tokens: Tokens, mask: Tensor | None = None) -> Tokens:
        x = checkpointed(
            self.layers[block], tokens.x, tokens.size, *([] if mask is None else [mask]), with_cp=self.with_cp
        )
        size = tokens.size
        if self.layer_stride(block) > self.layer_stride(block - 1):
            size = (cover(size[0], 2), cover(size[1], 2))
        return tokens._replace(x=x, size=size)

    def normalise(self, tokens: Tokens) -> Tokens:
        return tokens._replace(x=getattr(self, str(self.norm_name))(tokens.x))

    def to_output(self, found: Tokens) -> Tensor | list[Tensor]:  # type: ignore[override]
        """An output, with the class token beside it if wanted."""
        out = super().to_output(found)
        return [out, found.x[:, 0]] if self.output_cls_token else out
