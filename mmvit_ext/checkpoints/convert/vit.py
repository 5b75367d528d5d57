"""Convert plain vision transformers in timm's names: AugReg, DeiT, DINO, MAE.

Method ``vit`` gives ``mmvit_ext.ViT``, without the classifier. The final norm is kept; ``ViT`` drops it by itself.

Method ``deit`` gives a start for ``mmvit_ext.SPFormer``: the blocks and the position embedding. There is no counterpart
for the class token, the classifier and the final norm, which normalises the class token; DeiT's 16x16 patches are not
the stem of a network with 4x4 ones; and superpixel cross attention exists on our side only. So that the third block
continues from the second, the projection between the stages is made the identity and the position embedding of the
second stage zero: the stream of tokens carries its position already.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mmvit_ext.models.backbones.spformer import SPFormer
from mmvit_ext.models.layers.position_embedding import square_grid

from .rules import Rule, apply_rules, numbers_in, parameters, require_keys

__all__ = ['convert_deit', 'convert_vit', 'describe_deit']

_P = r'(weight|bias)'

_BLOCKS = parameters(
    {
        r'blocks\.(\d+)\.norm([12])': r'layers.\1.ln\2.',
        r'blocks\.(\d+)\.attn\.qkv': r'layers.\1.attn.attn.in_proj_',
        r'blocks\.(\d+)\.attn\.proj': r'layers.\1.attn.attn.out_proj.',
        r'blocks\.(\d+)\.mlp\.fc1': r'layers.\1.ffn.layers.0.0.',
        r'blocks\.(\d+)\.mlp\.fc2': r'layers.\1.ffn.layers.1.',
    }
)
"""The blocks of timm's plain ViT, to the names of mmcv and mmseg."""

_TO_VIT: tuple[Rule, ...] = (
    *_BLOCKS,
    (r'(cls_token|pos_embed)', r'\1'),
    *parameters({r'patch_embed\.proj': 'patch_embed.projection.', 'norm': 'ln1.'}),
    # A classifier, the norm of the mean of all tokens before one, and the decoder of masked autoencoders.
    (rf'(head|pre_logits\.fc|fc_norm)\.{_P}|mask_token|decoder_.*', None),
)

_TO_SPFORMER: tuple[Rule, ...] = (
    *_BLOCKS,
    ('pos_embed', 'pos_embeds.0'),
    (rf'cls_token|dist_token|(patch_embed\.proj|norm|head(_dist)?)\.{_P}', None),
)

_MODULES = ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')


def convert_vit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of ``mmvit_ext.ViT`` and mmseg's ``VisionTransformer``, without the classifier."""
    converted = apply_rules(state_dict, _TO_VIT, 'ViT')
    require_keys(converted, ('cls_token', 'pos_embed', 'patch_embed.projection.weight'), 'ViT')
    return converted


def convert_deit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Blocks and position embedding of a DeiT, distilled or not, as those of ``mmvit_ext.SPFormer``.

    The names have ``backbone.`` in front, as in a checkpoint of the classification configs, so that the same
    ``init_cfg`` takes both.
    """
    width, _ = _size(state_dict)
    converted = apply_rules(state_dict, _TO_SPFORMER, 'DeiT')
    # Tokens without a place in the image go, the others keep their grid; the network resizes it.
    position = converted['pos_embeds.0'][:, 2 if 'dist_token' in state_dict else 1 :].clone()
    square_grid(position.shape[1], 'pos_embed')
    converted['pos_embeds.0'] = position
    for stage in range(1, len(SPFormer.ARCHS['small']['depths'])):
        projection = f'projections.{stage - 1}'
        converted |= {
            f'pos_embeds.{stage}': torch.zeros_like(position),
            f'{projection}.0.weight': position.new_ones(width),
            f'{projection}.0.bias': position.new_zeros(width),
            f'{projection}.1.weight': torch.eye(width, dtype=position.dtype),
            f'{projection}.1.bias': position.new_zeros(width),
        }
    return {f'backbone.{name}': tensor for name, tensor in converted.items()}


def describe_deit(state_dict: Mapping[str, Tensor]) -> str:
    """One sentence on what a file holds, with the arguments of ``mmvit_ext.SPFormer`` that fit it."""
    width, num_blocks = _size(state_dict)
    kind = f'{"distilled " if "dist_token" in state_dict else ""}DeiT'
    for name, arch in SPFormer.ARCHS.items():
        if (arch['embed_dims'], sum(arch['depths'])) == (width, num_blocks):
            untrained = 'stem, superpixel cross attention and what follows the last block have to be trained'
            return f'{kind}-{name.capitalize()} as a start for SPFormer with arch={name!r}: {untrained}'
    return f'{kind} with width {width} and {num_blocks} blocks, which is none of the sizes of SPFormer'


def _size(state_dict: Mapping[str, Tensor]) -> tuple[int, int]:
    """Width and number of blocks; ``ValueError`` with what is missing."""
    num_blocks = max(numbers_in(state_dict, r'blocks\.(\d+)\..*'), default=0) + 1
    names = [f'blocks.{i}.{name}.{part}' for i in range(num_blocks) for name in _MODULES for part in ('weight', 'bias')]
    require_keys(state_dict, ['cls_token', 'pos_embed', *names], 'DeiT')
    return int(state_dict['pos_embed'].shape[2]), num_blocks
