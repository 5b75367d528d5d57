"""Convert NesT classifiers in timm's names (``nest_*.goog_in1k``) to ``mmvit_ext.NesT`` (arXiv 2105.12723).

Their position embeddings are stored block after block, ours as the image plane they stand on. Checked with networks of
timm 1.0.31 (``nest_*_jx``) that have random weights: the logits are equal to 1e-7. timm's ``nest_*`` without that
ending pad convolution and pooling in another way; it has no trained weights of them.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmvit_ext.models.backbones.nest import NesT
from mmvit_ext.models.layers.blocks import LAYOUT_VERSION, heads_outermost

from . import rules

__all__ = ['convert_nest', 'describe_nest', 'nest_arguments']

METHOD = 'NesT'
_POSITION = r'levels\.(\d+)\.pos_embed'

_RULES: tuple[rules.Rule, ...] = (
    *rules.parameters(
        {
            r'patch_embed\.proj': 'backbone.patch_embed.projection.',
            r'(levels\.\d+)\.pool\.(conv|norm)': r'backbone.\1.aggregation.\2.',
            r'(levels\.\d+)\.transformer_encoder\.(\d+)\.(norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])': (
                r'backbone.\1.layers.\2.\3.'
            ),
            'norm': 'backbone.norm.',
            'head': 'head.fc.',
        }
    ),
    (f'({_POSITION})', r'backbone.\1'),
)


def convert_nest(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a NesT classifier, lay its position embeddings out on the image plane, order its heads.

    The columns of the attentions' last projections have the heads innermost in these files and outermost in ours. They
    are moved here where the number of heads is known, which no shape states, for the published sizes; in other files
    they stay, ``layout_version`` says so, and the network moves them when it loads the file.
    """
    arguments = nest_arguments(state_dict)
    converted = rules.apply_rules(state_dict, _RULES, METHOD)
    rules.require_keys(state_dict, ('head.weight', 'head.bias'), f'{METHOD} classifier')
    for key, blocks in state_dict.items():
        if re.fullmatch(_POSITION, key):
            across, edge = _blocks(key, blocks)
            plane = blocks.reshape(1, across, across, edge, edge, -1).transpose(2, 3)
            converted[f'backbone.{key}'] = plane.reshape(1, (across * edge) ** 2, -1)
    qkv_bias = any(key.endswith('attn.qkv.bias') for key in state_dict)
    name = rules.published_arch(NesT, arguments['arch'])
    converted['backbone.layout_version'] = torch.tensor(1 if name is None else LAYOUT_VERSION)
    rules.require_fit(NesT, {**arguments, 'qkv_bias': qkv_bias, 'out_indices': -1}, converted, METHOD)
    if name is not None:
        for key in [key for key in converted if key.endswith('.attn.proj.weight')]:
            converted[key] = heads_outermost(converted[key], NesT.ARCHS[name]['num_heads'][int(key.split('.')[2])])
    return converted


def describe_nest(state_dict: Mapping[str, Tensor]) -> str:
    """One sentence on what a file holds, with the arguments of ``mmvit_ext.NesT`` that fit it."""
    return rules.describe_network(NesT, nest_arguments(state_dict), 'classifier')


def nest_arguments(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``mmvit_ext.NesT`` that fit a file, read off its shapes, without numbers of heads."""
    positions = rules.numbers_in(state_dict, _POSITION)
    if not positions or 'patch_embed.proj.weight' not in state_dict:
        wanted = 'patch_embed.proj.weight, levels.0.pos_embed, ...'
        raise ValueError(f'no NesT classifier ({wanted}), but {rules.name_some(list(state_dict), 5)}')
    levels = range(positions[-1] + 1)
    rules.require_keys(state_dict, [f'levels.{level}.pos_embed' for level in levels], METHOD)
    patch_size = state_dict['patch_embed.proj.weight'].shape[-1]
    across, edge = _blocks('levels.0.pos_embed', state_dict['levels.0.pos_embed'])
    layers = (rules.numbers_in(state_dict, rf'levels\.{level}\.transformer_encoder\.(\d+)\..*') for level in levels)
    return {
        'arch': {
            'embed_dims': tuple(state_dict[f'levels.{level}.pos_embed'].shape[-1] for level in levels),
            'depths': tuple(max(numbers, default=-1) + 1 for numbers in layers),
        },
        'img_size': across * edge * patch_size,
        'patch_size': patch_size,
        'block_size': edge,
    }


def _blocks(key: str, position: Tensor) -> tuple[int, int]:
    """Blocks along an edge of the image and tokens along an edge of a block, of a ``(1, blocks, tokens, C)``."""
    if position.ndim == 4:
        across, edge = math.isqrt(position.shape[1]), math.isqrt(position.shape[2])
        if (across**2, edge**2) == tuple(position.shape[1:3]):
            return across, edge
    expected = '(1, blocks, tokens, width) with square numbers of blocks and of tokens'
    raise ValueError(f'{METHOD}: {key} must have the shape {expected}, got {tuple(position.shape)}')
