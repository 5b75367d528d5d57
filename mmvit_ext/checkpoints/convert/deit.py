"""Convert DeiT classifiers in the authors' (timm's) names to a start for ``mmvit_ext.SPFormer``.

Taken over are the blocks and the position embedding. There is no counterpart for the class token, the classifier and
the final norm, which normalises the class token; DeiT's 16x16 patches are not the stem of a network with 4x4 ones; and
superpixel cross attention exists on our side only. So that the third block continues from the second, the
projection between the stages is made the identity and the position embedding of the second stage zero: the stream of
tokens carries its position already.

For ``mmvit_ext.ViT``, which DeiT's files fit whole, there is :mod:`mmvit_ext.checkpoints.convert.vit`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmvit_ext.models.backbones.spformer import SPFormer
from mmvit_ext.models.layers.position_embedding import square_grid

from .rules import Rule, apply_rules, numbers_in, require_keys
from .vit import BLOCK_RULES

__all__ = ['convert_deit', 'describe_deit']

METHOD = 'DeiT'

_RULES: tuple[Rule, ...] = (
    *BLOCK_RULES,
    ('pos_embed', 'pos_embeds.0'),
    (r'(cls_token|dist_token|patch_embed\.proj\.(weight|bias)|norm\.(weight|bias)|head(_dist)?\.(weight|bias))', None),
)

_BLOCK_MODULES = ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')


def convert_deit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Blocks and position embedding of a DeiT, distilled or not, as those of ``mmvit_ext.SPFormer``.

    Returns:
        The names of ``mmvit_ext.SPFormer`` behind ``backbone.``, as in a checkpoint of the classification configs, so
        that the same ``init_cfg`` takes both. The position embedding keeps its grid, without the tokens that have no
        place in the image; the network resizes it. Of a published size three quarters of the network's parameters are
        there, counted by name, of the projections and the second position embedding the identity and zeros.

    Raises:
        ValueError: Names keys that are left over (a DeiT III has some) or missing, or a position embedding that does
            not stand on a square grid.
    """
    width, _ = _size(state_dict)
    converted = apply_rules(state_dict, _RULES, METHOD)
    num_tokens = 2 if 'dist_token' in state_dict else 1
    position = converted['pos_embeds.0'][:, num_tokens:].clone()
    square_grid(position.shape[1], 'pos_embed')
    converted['pos_embeds.0'] = position
    stages = len(SPFormer.ARCHS['small']['depths'])
    for stage in range(1, stages):
        converted[f'pos_embeds.{stage}'] = torch.zeros_like(position)
        projection = f'projections.{stage - 1}'
        converted[f'{projection}.0.weight'] = position.new_ones(width)
        converted[f'{projection}.0.bias'] = position.new_zeros(width)
        converted[f'{projection}.1.weight'] = torch.eye(width, dtype=position.dtype)
        converted[f'{projection}.1.bias'] = position.new_zeros(width)
    return {f'backbone.{name}': tensor for name, tensor in converted.items()}


def describe_deit(state_dict: Mapping[str, Tensor]) -> str:
    """One sentence on what a file holds, with the arguments of ``mmvit_ext.SPFormer`` that fit it."""
    width, num_blocks = _size(state_dict)
    kind = f'{"distilled " if "dist_token" in state_dict else ""}{METHOD}'
    for name, arch in SPFormer.ARCHS.items():
        if (arch['embed_dims'], sum(arch['depths'])) == (width, num_blocks):
            return (
                f'{kind}-{name.capitalize()} as a start for SPFormer with arch={name!r}: stem, superpixel cross '
                'attention and what follows the last block have to be trained'
            )
    return f'{kind} with width {width} and {num_blocks} blocks, which is none of the sizes of SPFormer'


def _size(state_dict: Mapping[str, Tensor]) -> tuple[int, int]:
    """Width and number of blocks; ``ValueError`` with what is missing."""
    num_blocks = max(numbers_in(state_dict, r'blocks\.(\d+)\..*'), default=0) + 1
    modules = [f'blocks.{index}.{name}' for index in range(num_blocks) for name in _BLOCK_MODULES]
    names = [f'{module}.{part}' for module in modules for part in ('weight', 'bias')]
    require_keys(state_dict, ['cls_token', 'pos_embed', *names], METHOD)
    return int(state_dict['pos_embed'].shape[2]), num_blocks
