"""One row per architecture; the contract suites run over all of them.

Tiny arguments keep a row below a second; the full-size figures are the papers'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from mmvit_ext.models.backbones import P2T, TNT, NesT, ShrunkViT, SPFormer, TimmViT, ViT

PRIME_SIZE = (41, 67)
"""Height and width in pixels: neither equal nor divided by any stride, so that no swapped axis passes."""


@dataclass(frozen=True)
class Backbone:
    """A backbone of the zoo.

    Args:
        build: the class.
        tiny: arguments of the small network.
        channels: widths of its maps.
        strides: strides of its maps.
        options: arguments of which each must change the output or the number of parameters.
        reordered: ``out_indices`` in another order, with a negative one, and which outputs these are.
        other_size: arguments under which the same weights must load.
        parameters: full-size arguments and the exact number of parameters.
        multiply_adds: full-size arguments, input size and multiply-adds in units of 1e9.
        without_gradient: parameters that get no gradient, and why.
        for_vectors: arguments that outputs other than maps need.
        not_called: ends of the names of modules that timm reads instead of calling, and why.
        needs_timm: whether its tests are skipped where timm is not installed.
    """

    build: Callable[..., nn.Module]
    tiny: Mapping[str, Any]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    options: tuple[Mapping[str, Any], ...]
    reordered: tuple[tuple[int, ...], tuple[int, ...]]
    other_size: Mapping[str, Any]
    parameters: tuple[tuple[Mapping[str, Any], int], ...] = ()
    multiply_adds: tuple[tuple[Mapping[str, Any], tuple[int, int], float], ...] = ()
    without_gradient: Mapping[str, str] = field(default_factory=dict)
    for_vectors: Mapping[str, Any] = field(default_factory=dict)
    not_called: Mapping[str, str] = field(default_factory=dict)
    needs_timm: bool = False

    def make(self, **replaced: Any) -> nn.Module:
        """The small network with random weights that leave no branch at zero."""
        if self.needs_timm:
            pytest.importorskip('timm')
        torch.manual_seed(0)
        model = self.build(**{**self.tiny, **replaced})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2)
        return model


BACKBONES: dict[str, Backbone] = {
    'ViT': Backbone(
        build=ViT,
        tiny={
            'arch': {'embed_dims': 24, 'num_layers': 3, 'num_heads': 3, 'mlp_ratio': 2},
            'img_size': (48, 64),
            'patch_size': 8,
            'out_indices': (0, 2),
        },
        channels=(24, 24),
        strides=(8, 8),
        options=(
            {'arch': {'embed_dims': 24, 'num_layers': 3, 'num_heads': 2, 'mlp_ratio': 2}},
            {'embed_dims': 48},
            {'num_layers': 4},
            {'num_heads': 4},
            {'mlp_ratio': 3},
            {'img_size': 64},
            {'patch_size': 16},
            {'patch_pad': 'same'},
            {'in_channels': 1},
            {'out_origin': True},
            {'qkv_bias': False},
            {'drop_rate': 0.3},
            {'attn_drop_rate': 0.3},
            {'drop_path_rate': 0.5},
            {'with_cls_token': False},
            {'output_cls_token': True},
            {'norm_cfg': {'type': 'LN', 'eps': 0.5}},
            {'act_cfg': {'type': 'ReLU'}},
            {'patch_norm': True},
            {'patch_bias': True},
            {'pre_norm': True},
            {'final_norm': True},
            {'interpolate_mode': 'nearest'},
            {'num_fcs': 3},
            {'out_type': 'avg_featmap'},
            {'frozen_stages': 0},
            {'frozen_stages': 1},
            {'frozen_exclude': ('pos_embed',)},
        ),
        reordered=((-1, 0), (1, 0)),
        other_size={'img_size': (64, 64)},
        parameters=(
            # Dosovitskiy et al. and DeiT, without classifier and final norm, with patch bias.
            ({'arch': 'tiny', 'patch_bias': True}, 5_524_032),
            ({'arch': 'small', 'patch_bias': True}, 21_664_896),
            ({'arch': 'base', 'patch_bias': True}, 85_797_120),
            ({'arch': 'large', 'patch_bias': True}, 303_299_584),
        ),
        multiply_adds=(
            # arXiv 2210.05844: the encoder's part of SegViT at 640 x 640 pixels.
            ({'arch': 'large', 'img_size': 640, 'with_cls_token': False}, (640, 640), 612.3),
        ),
    ),
    'ShrunkViT': Backbone(
        build=ShrunkViT,
        tiny={
            'arch': {'embed_dims': 24, 'num_layers': 3, 'num_heads': 3, 'mlp_ratio': 2},
            'shrink_index': 1,
            'img_size': (48, 64),
            'patch_size': 8,
            'out_indices': (0, 2),
        },
        channels=(24, 24),
        strides=(8, 16),
        options=({'shrink_index': 2}, {'qd_mode': 'qkv'}, {'qd_mode': 'conv'}, {'drop_path_rate': 0.5}),
        reordered=((-1, 0), (1, 0)),
        other_size={'img_size': (64, 64)},
        parameters=(({'arch': 'large', 'shrink_index': 8, 'patch_bias': True}, 303_299_584),),
        multiply_adds=(({'arch': 'large', 'img_size': 640, 'shrink_index': 8}, (640, 640), 293.5),),
    ),
    'SPFormer': Backbone(
        build=SPFormer,
        tiny={
            'arch': {'embed_dims': 24, 'depths': (1, 2), 'num_heads': 3, 'sca_heads': 2},
            'img_size': (48, 64),
            'pixel_stride': 2,
            'mlp_ratio': 2,
            'out_indices': (0, 2),
        },
        channels=(24, 24),
        strides=(8, 8),
        options=(
            {'arch': {'embed_dims': 24, 'depths': (2, 1), 'num_heads': 3, 'sca_heads': 2}},
            {'embed_dims': 48},
            {'depths': (3,)},
            {'num_heads': 4},
            {'sca_heads': 3},
            {'img_size': 64},
            {'pixel_stride': 4},
            {'cell_size': 2},
            {'in_channels': 1},
            {'stem': 'conv'},
            {'sca_iterations': 1},
            {'pixel_qkv': 'shared'},
            {'pixel_qkv': 'separate'},
            {'positions': 'learnable'},
            {'bridge_from': 'updated'},
            {'mlp_ratio': 3},
            {'qkv_bias': False},
            {'drop_rate': 0.3},
            {'attn_drop_rate': 0.3},
            {'drop_path_rate': 0.5},
            {'norm_cfg': {'type': 'LN', 'eps': 0.5}},
            {'stem_norm_cfg': {'type': 'BN', 'eps': 0.5}},
            {'act_cfg': {'type': 'ReLU'}},
            {'interpolate_mode': 'nearest'},
            {'out_type': 'avg_featmap', 'out_indices': -1},
            {'out_association': True},
            {'frozen_stages': 0},
            {'frozen_stages': 1},
        ),
        reordered=((-1, 0), (1, 0)),
        other_size={'img_size': (64, 64)},
    ),
    'P2T': Backbone(
        build=P2T,
        tiny={
            'arch': {
                'embed_dims': (8, 12, 20, 24),
                'num_heads': (1, 2, 5, 3),
                'depths': (1, 2, 1, 1),
                'mlp_ratios': (2, 3, 2, 4),
            },
            'pool_ratios': ((2, 3, 5), (2, 3), (1, 2, 3, 4), (1, 2)),
            'drop_path_rate': 0.0,
        },
        channels=(8, 12, 20, 24),
        strides=(4, 8, 16, 32),
        options=(
            {
                'arch': {
                    'embed_dims': (8, 12, 20, 24),
                    'num_heads': (2, 3, 4, 6),
                    'depths': (1, 2, 1, 1),
                    'mlp_ratios': (2, 3, 2, 4),
                }
            },
            {'in_channels': 1},
            {'pool_ratios': ((4, 3, 5), (2, 3), (1, 2, 3, 4), (1, 2))},
            {'pool_type': 'max'},
            {'with_rpe': False},
            {'ffn_type': 'mlp'},
            {'overlapped': False},
            {'qkv_bias': False},
            {'drop_rate': 0.3},
            {'attn_drop_rate': 0.3},
            {'drop_path_rate': 0.5},
            {'norm_cfg': {'type': 'LN', 'eps': 0.5}},
            {'act_cfg': {'type': 'GELU'}},
            {'out_type': 'avg_featmap'},
            {'frozen_stages': 0},
            {'frozen_stages': 2},
        ),
        reordered=((-1, 0, 2), (3, 0, 2)),
        other_size={},
        parameters=(
            # arXiv 2106.12011, table 2, and the released code; less the classifier's 1000 rows and biases.
            ({'arch': 'tiny'}, 11_590_840 - 385_000),
            ({'arch': 'small'}, 24_079_848 - 513_000),
            ({'arch': 'base'}, 36_066_408 - 513_000),
            ({'arch': 'large'}, 54_477_096 - 641_000),
        ),
        multiply_adds=(
            ({'arch': 'tiny'}, (224, 224), 1.8),
            ({'arch': 'small'}, (224, 224), 3.7),
            ({'arch': 'base'}, (224, 224), 6.5),
            ({'arch': 'large'}, (224, 224), 9.8),
        ),
    ),
    'NesT': Backbone(
        build=NesT,
        tiny={
            'arch': {'embed_dims': (8, 12, 20), 'num_heads': (1, 2, 5), 'depths': (1, 2, 1)},
            'img_size': (48, 64),
            'block_size': 3,
            'drop_path_rate': 0.0,
        },
        channels=(8, 12, 20),
        strides=(4, 8, 16),
        options=(
            {'arch': {'embed_dims': (8, 12, 20), 'num_heads': (2, 3, 4), 'depths': (1, 2, 1)}},
            {'img_size': 64},
            {'patch_size': 2},
            {'block_size': 5},
            {'multi_query': True},
            {'in_channels': 1},
            {'extra_dims': 28, 'out_indices': (0, 1, 2, 3)},
            {'final_norm': False},
            {'qkv_bias': False},
            {'drop_rate': 0.3},
            {'attn_drop_rate': 0.3},
            {'drop_path_rate': 0.5},
            {'norm_cfg': {'type': 'LN', 'eps': 0.5}},
            {'act_cfg': {'type': 'ReLU'}},
            {'interpolate_mode': 'nearest'},
            {'frozen_stages': 0},
            {'frozen_stages': 2},
        ),
        reordered=((-1, 0), (2, 0)),
        other_size={'img_size': (64, 64)},
        parameters=(
            # arXiv 2105.12723, table 2, and the released weights; less the classifier's 1000 rows and biases.
            ({'arch': 'tiny'}, 17_057_608 - 385_000),
            ({'arch': 'small'}, 38_351_176 - 385_000),
            ({'arch': 'base'}, 67_723_368 - 513_000),
        ),
        multiply_adds=(
            ({'arch': 'tiny'}, (224, 224), 5.8),
            ({'arch': 'small'}, (224, 224), 10.4),
            ({'arch': 'base'}, (224, 224), 17.9),
        ),
    ),
    'TNT': Backbone(
        build=TNT,
        tiny={
            'arch': {
                'embed_dims_outer': 24,
                'embed_dims_inner': 12,
                'num_layers': 3,
                'num_heads_outer': 3,
                'num_heads_inner': 2,
            },
            'img_size': (48, 64),
            'patch_size': 8,
            'inner_stride': 2,
            'mlp_ratio': 2,
            'out_indices': (0, 2),
        },
        channels=(24, 24),
        strides=(8, 8),
        options=(
            {
                'arch': {
                    'embed_dims_outer': 24,
                    'embed_dims_inner': 12,
                    'num_layers': 3,
                    'num_heads_outer': 4,
                    'num_heads_inner': 2,
                }
            },
            {'num_heads_inner': 3},
            {'img_size': 64},
            {'patch_size': 16},
            {'inner_stride': 4},
            {'in_channels': 1},
            {'tnt_block_indices': (0, -1)},
            {'with_patch_pos': False},
            {'with_word_pos': False},
            {'word_padding': 'image'},
            {'word_norm': 'word'},
            {'with_se': True},
            {'with_cls_token': False},
            {'mlp_ratio': 3},
            {'qkv_bias': True},
            {'drop_rate': 0.3},
            {'attn_drop_rate': 0.3},
            {'drop_path_rate': 0.5},
            {'norm_cfg': {'type': 'LN', 'eps': 0.5}},
            {'act_cfg': {'type': 'ReLU'}},
            {'final_norm': False},
            {'interpolate_mode': 'nearest'},
            {'out_type': 'cls_token'},
            {'out_type': 'avg_featmap'},
            {'frozen_stages': 0},
            {'frozen_stages': 1},
        ),
        reordered=((-1, 0), (1, 0)),
        other_size={'img_size': (64, 64)},
        parameters=(
            # The authors' code without its unused buffer, less the classifier's 1000 rows and biases.
            ({'arch': 'small'}, 23_768_584 - 385_000),
            ({'arch': 'base'}, 65_428_680 - 641_000),
        ),
        multiply_adds=(
            # arXiv 2103.00112, table 1.
            ({'arch': 'tiny'}, (224, 224), 1.4),
            ({'arch': 'small'}, (224, 224), 5.2),
            ({'arch': 'base'}, (224, 224), 14.1),
        ),
    ),
}


def timm_row(model: str, *options: Mapping[str, Any], channels: int = 24, **tiny: Any) -> Backbone:
    """A network of timm at width 24 and depth 3, with maps of its first and last block."""
    settings = {'model': model, 'depth': 3, 'embed_dim': 24, 'num_heads': 3, 'patch_size': 8, 'mlp_ratio': 2}
    return Backbone(
        build=TimmViT,
        tiny={**settings, 'img_size': (48, 64), 'out_indices': (0, 2), **tiny},
        channels=(channels, channels),
        strides=(8, 8),
        options=options,
        reordered=((-1, 0), (1, 0)),
        other_size={'img_size': (64, 64)},
        not_called={'.attn_drop': 'fused attention takes its probability', 'net.rope': 'called by get_embed'},
        needs_timm=True,
    )


TIMM_OPTIONS = (
    {'img_size': 64},
    {'in_channels': 1},
    {'final_norm': 'last'},
    {'final_norm': 'none'},
    {'drop_path_rate': 0.5},
    {'out_type': 'cls_token'},
    {'out_type': 'avg_featmap'},
    {'frozen_stages': 0},
    {'frozen_stages': 1},
    {'num_heads': 2},
    {'shrink_index': 2},
)

BACKBONES |= {
    'AugReg': timm_row('vit_tiny_patch16_224', *TIMM_OPTIONS),
    'DeiT III': timm_row('deit3_small_patch16_224'),
    'MAE': timm_row('vit_base_patch16_224.mae'),
    'BEiT': timm_row('beit_base_patch16_224'),
    'BEiT v2': timm_row('beitv2_base_patch16_224'),
    'EVA-02': timm_row('eva02_base_patch14_224'),
    'DINOv2': timm_row('vit_base_patch14_dinov2'),
    'DINOv2 with registers': timm_row('vit_base_patch14_reg4_dinov2'),
    'DINOv3': timm_row('vit_base_patch16_dinov3'),
    'CLIP': timm_row('vit_base_patch16_clip_224.openai'),
    'SigLIP 2': timm_row('vit_base_patch16_siglip_256.v2_webli'),
    'SAM': timm_row('samvit_base_patch16', channels=256, window_size=3, global_attn_indexes=(1,)),
}
