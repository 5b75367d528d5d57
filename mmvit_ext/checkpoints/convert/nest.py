"""Convert NesT classifiers in timm's names (``nest_*.goog_in1k``) to ``mmvit_ext.NesT`` (arXiv 2105.12723).

The position embeddings of these files are stored block after block, ours as the image plane they stand on. Checked with
networks of timm 1.0.31 (``nest_*_jx``) that have random weights: the logits are equal to 1e-7. timm's ``nest_*``
without that ending pad convolution and pooling in another way; it has no trained weights of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmvit_ext.models.backbones.nest import NesT
from mmvit_ext.models.layers.blocks import LAYOUT_VERSION, heads_outermost

from .fitting import describe_network, require_fit
from .rules import Rule, apply_rules, name_some, numbers_in, require_keys

__all__ = ['convert_nest', 'describe_nest', 'nest_arguments']

METHOD = 'NesT'

_POSITION = r'levels\.(\d+)\.pos_embed'

_RULES: tuple[Rule, ...] = (
    (r'patch_embed\.proj\.(weight|bias)', r'backbone.patch_embed.projection.\1'),
    (f'({_POSITION})', r'backbone.\1'),
    (r'(levels\.\d+)\.pool\.(conv|norm)\.(weight|bias)', r'backbone.\1.aggregation.\2.\3'),
    (
        r'(levels\.\d+)\.transformer_encoder\.(\d+)\.(norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])\.(weight|bias)',
        r'backbone.\1.layers.\2.\3.\4',
    ),
    (r'(norm\.(?:weight|bias))', r'backbone.\1'),
    (r'head\.(weight|bias)', r'head.fc.\1'),
)


def convert_nest(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a NesT classifier, lay its position embeddings out on the image plane, order its heads.

    The columns of the attentions' last projections have the heads innermost in these files and outermost in ours. They
    are moved here where the number of heads is known, which no shape states, for the published sizes; in other files
    they stay, and the network moves them when it loads a file without ``layout_version``.

    Returns:
        The names of an mmpretrain ``ImageClassifier`` to tensors: ``backbone.`` for ``mmvit_ext.NesT`` and ``head.fc.``
        for ``LinearClsHead``. Tensors are those of the argument where nothing is moved.

    Raises:
        ValueError: Names keys that are left over or missing, or a position embedding that is not of square blocks that
            tile a square.
    """
    arguments = nest_arguments(state_dict)
    converted = apply_rules(state_dict, _RULES, METHOD)
    require_keys(state_dict, ('head.weight', 'head.bias'), f'{METHOD} classifier')
    for key, blocks in state_dict.items():
        if re.fullmatch(_POSITION, key):
            across, edge = _blocks(key, blocks)
            plane = blocks.reshape(1, across, across, edge, edge, -1).transpose(2, 3)
            converted[f'backbone.{key}'] = plane.reshape(1, (across * edge) ** 2, -1)
    qkv_bias = any(key.endswith('attn.qkv.bias') for key in state_dict)
    with_version = {**converted, 'backbone.layout_version': torch.tensor(LAYOUT_VERSION)}
    require_fit(NesT, {**arguments, 'qkv_bias': qkv_bias, 'out_indices': -1}, with_version, METHOD)
    sizes = arguments['arch'].items()
    published = next((arch for arch in NesT.ARCHS.values() if all(arch[key] == value for key, value in sizes)), None)
    if published is not None:
        for key in [key for key in converted if key.endswith('.attn.proj.weight')]:
            level = int(key.split('.')[2])
            converted[key] = heads_outermost(converted[key], published['num_heads'][level])
        converted['backbone.layout_version'] = torch.tensor(LAYOUT_VERSION)
    return converted


def describe_nest(state_dict: Mapping[str, Tensor]) -> str:
    """One sentence on what a file holds, with the arguments of ``mmvit_ext.NesT`` that fit it."""
    return describe_network(NesT, nest_arguments(state_dict), 'classifier')


def nest_arguments(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``mmvit_ext.NesT`` that fit a file, read off its shapes.

    Returns:
        ``arch`` without ``num_heads``, which no shape states, ``img_size``, ``patch_size`` and ``block_size``.

    Raises:
        ValueError: The file is no NesT classifier, or whose position embeddings are not of square blocks.
    """
    positions = numbers_in(state_dict, _POSITION)
    if not positions or 'patch_embed.proj.weight' not in state_dict:
        raise ValueError(
            f'no NesT classifier (patch_embed.proj.weight, levels.0.pos_embed, ...), but '
            f'{name_some(list(state_dict), 5)}'
        )
    levels = range(positions[-1] + 1)
    require_keys(state_dict, [f'levels.{level}.pos_embed' for level in levels], METHOD)
    patch_size = state_dict['patch_embed.proj.weight'].shape[-1]
    across, edge = _blocks('levels.0.pos_embed', state_dict['levels.0.pos_embed'])
    return {
        'arch': {
            'embed_dims': tuple(state_dict[f'levels.{level}.pos_embed'].shape[-1] for level in levels),
            'depths': tuple(
                max(numbers_in(state_dict, rf'levels\.{level}\.transformer_encoder\.(\d+)\..*'), default=-1) + 1
                for level in levels
            ),
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
    raise ValueError(
        f'{METHOD}: {key} must have the shape (1, blocks, tokens, width) with square numbers of blocks and of tokens, '
        f'got {tuple(position.shape)}'
    )
