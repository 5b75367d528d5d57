"""Convert released TNT weights to ``mmvit_ext.TNT`` and an mmpretrain classifier around it (arXiv 2103.00112).

Three styles of names exist: the authors' (``inner_pos``, ``blocks.0.inner_norm1``), timm's (``pixel_pos``,
``blocks.0.norm_in``) and mmpretrain's (``pixel_pos``, ``layers.0.inner_block``). There are two generations of networks:
that of the authors, which timm has now, and the one that timm calls legacy, which is also mmpretrain's. The latter
normalises every word by itself where a block projects them, has a bias there, and embeds words with a
convolution that sees the neighbouring patch. Style and generation are read off keys and shapes.

Checked with networks of timm 1.0.31 that have random weights: the logits are equal to 1e-7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmvit_ext.models.backbones.tnt import TNT

from .rules import Rule, apply_rules, describe_network, name_some, non_default, numbers_in, require_fit, require_keys

__all__ = ['convert_tnt', 'describe_tnt', 'tnt_arguments']

METHOD = 'TNT'

_P = r'(weight|bias)'
_BLOCK = r'blocks\.(\d+)'

# Queries and keys share a matrix in the first two styles, and are joined with the values afterwards.
_COMMON: tuple[Rule, ...] = (
    (r'cls_token', 'cls_token'),
    (rf'norm\.{_P}', r'norm.\1'),
    (rf'head\.{_P}', r'head.fc.\1'),
    (rf'proj\.{_P}', r'patch_embed.proj.\1'),
    (rf'{_BLOCK}\.proj\.{_P}', r'blocks.\1.projection.proj.\2'),
)

_STYLES: Mapping[str, tuple[Rule, ...]] = {
    'authors': (
        *_COMMON,
        (r'outer_tokens', None),
        (r'outer_pos', 'patch_pos'),
        (r'inner_pos', 'word_pos'),
        (rf'patch_embed\.proj\.{_P}', r'word_embed.projection.\1'),
        (rf'proj_norm([12])\.{_P}', r'patch_embed.norm\1.\2'),
        (rf'{_BLOCK}\.(inner|outer)_(norm[12]|attn\.(?:qk|v|proj))\.{_P}', r'blocks.\1.\2.\3.\4'),
        (rf'{_BLOCK}\.(inner|outer)_mlp\.(fc[12])\.{_P}', r'blocks.\1.\2.ffn.\3.\4'),
        (rf'{_BLOCK}\.proj_norm([12])\.{_P}', r'blocks.\1.projection.norm\2.\3'),
    ),
    'timm': (
        *_COMMON,
        (r'(patch|pixel)_pos', r'\1_pos'),
        (rf'pixel_embed\.proj\.{_P}', r'word_embed.projection.\1'),
        (rf'norm([12])_proj\.{_P}', r'patch_embed.norm\1.\2'),
        *(
            rule
            for part, end, short in (('inner', '_in', '_in'), ('outer', '_out', ''))
            for rule in (
                (rf'{_BLOCK}\.norm{end}\.{_P}', rf'blocks.\1.{part}.norm1.\2'),
                (rf'{_BLOCK}\.attn{end}\.(qk|v|proj)\.{_P}', rf'blocks.\1.{part}.attn.\2.\3'),
                (rf'{_BLOCK}\.norm_mlp{short}\.{_P}', rf'blocks.\1.{part}.norm2.\2'),
                (rf'{_BLOCK}\.mlp{short}\.(fc[12])\.{_P}', rf'blocks.\1.{part}.ffn.\2.\3'),
            )
        ),
        (rf'{_BLOCK}\.norm([12])_proj\.{_P}', r'blocks.\1.projection.norm\2.\3'),
    ),
    'mmpretrain': (
        (r'cls_token', 'cls_token'),
        (rf'norm\.{_P}', r'norm.\1'),
        (rf'head\.fc\.{_P}', r'head.fc.\1'),
        (r'(patch|pixel)_pos', r'\1_pos'),
        (rf'pixel_embed\.proj\.{_P}', r'word_embed.projection.\1'),
        (rf'norm([12])_proj\.{_P}', r'patch_embed.norm\1.\2'),
        (rf'projection\.{_P}', r'patch_embed.proj.\1'),
        (rf'layers\.(\d+)\.(inner|outer)_block\.norm_attn\.{_P}', r'blocks.\1.\2.norm1.\3'),
        (rf'layers\.(\d+)\.(inner|outer)_block\.attn\.attn\.in_proj_{_P}', r'blocks.\1.\2.attn.qkv.\3'),
        (rf'layers\.(\d+)\.(inner|outer)_block\.attn\.attn\.out_proj\.{_P}', r'blocks.\1.\2.attn.proj.\3'),
        (rf'layers\.(\d+)\.(inner|outer)_block\.norm_ffn\.{_P}', r'blocks.\1.\2.norm2.\3'),
        (rf'layers\.(\d+)\.(inner|outer)_block\.ffn\.layers\.0\.0\.{_P}', r'blocks.\1.\2.ffn.fc1.\3'),
        (rf'layers\.(\d+)\.(inner|outer)_block\.ffn\.layers\.1\.{_P}', r'blocks.\1.\2.ffn.fc2.\3'),
        (rf'layers\.(\d+)\.norm_proj\.{_P}', r'blocks.\1.projection.norm1.\2'),
        (rf'layers\.(\d+)\.projection\.{_P}', r'blocks.\1.projection.proj.\2'),
    ),
}


def convert_tnt(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a TNT classifier: the authors', timm's, or mmpretrain's with or without ``backbone.``.

    Queries, keys and values are joined, and a position embedding that is stored as a map becomes tokens. The authors'
    ``outer_tokens``, which nothing reads, are left out.
    """
    renamed = _renamed(state_dict)
    # A file of a backbone alone is complete too; half a classifier is not.
    head = [f'head.fc.{part}' for part in ('weight', 'bias')]
    require_keys(renamed, head if any(name in renamed for name in head) else (), METHOD)
    converted = {name if name.startswith('head.') else f'backbone.{name}': value for name, value in renamed.items()}
    require_fit(TNT, _arguments(renamed), converted, METHOD)
    return converted


def describe_tnt(state_dict: Mapping[str, Tensor]) -> str:
    """One sentence on what a released file holds, with the arguments of ``mmvit_ext.TNT`` that fit it."""
    arguments = tnt_arguments(state_dict)
    names = {'authors': "the authors'", 'timm': "timm's", 'mmpretrain': "mmpretrain's"}[_style(state_dict)]
    return describe_network(
        TNT, arguments, f'in {names} names' + ' of the legacy generation' * ('word_norm' in arguments)
    )


def tnt_arguments(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``mmvit_ext.TNT`` that fit a released file of 16-pixel patches, without numbers of heads."""
    return _arguments(_renamed(state_dict))


def _style(state_dict: Mapping[str, Tensor]) -> str:
    """Whose names these are; ``ValueError`` if nobody's."""
    for style, names in (
        ('authors', ('inner_pos', 'blocks.0.inner_norm1.weight')),
        ('timm', ('pixel_pos', 'blocks.0.norm_in.weight')),
        ('mmpretrain', ('backbone.pixel_pos', 'backbone.layers.0.norm_proj.weight')),
        ('mmpretrain', ('pixel_pos', 'layers.0.norm_proj.weight')),
    ):
        if all(name in state_dict for name in names):
            return style
    raise ValueError(
        'no TNT in the names of its authors (inner_pos, blocks.0.inner_norm1, ...), of timm (pixel_pos, '
        'blocks.0.norm_in, ...) or of mmpretrain (pixel_pos, layers.0.norm_proj, ...), but '
        f'{name_some(list(state_dict), 5)}'
    )


def _renamed(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names, with ``head.fc.`` for the classifier and without ``backbone.``."""
    style = _style(state_dict)
    if style == 'mmpretrain':
        state_dict = {key.removeprefix('backbone.'): value for key, value in state_dict.items()}
    renamed = apply_rules(state_dict, _STYLES[style], METHOD)
    for name in [name for name in renamed if '.attn.qk.' in name]:
        values = name.replace('.attn.qk.', '.attn.v.')
        require_keys(renamed, [values], METHOD)
        renamed[name.replace('.attn.qk.', '.attn.qkv.')] = torch.cat((renamed.pop(name), renamed.pop(values)))
    if 'pixel_pos' in renamed:
        words = renamed.pop('pixel_pos')
        if words.ndim == 4:  # (1, c, edge, edge)
            words = words.flatten(2).transpose(1, 2).contiguous()
        renamed['word_pos'] = words
    return renamed


def _arguments(renamed: Mapping[str, Tensor]) -> dict[str, Any]:
    inner, outer = 'blocks.0.inner', 'blocks.0.outer'
    known = ('word_pos', 'patch_pos', f'{inner}.ffn.fc1.weight', f'{outer}.norm1.weight', 'patch_embed.proj.weight')
    require_keys(renamed, (*known, 'blocks.0.projection.norm1.weight'), METHOD)
    _, num_words, c = renamed['word_pos'].shape
    C, hidden = len(renamed[f'{outer}.norm1.weight']), len(renamed[f'{inner}.ffn.fc1.weight'])
    normalised = len(renamed['blocks.0.projection.norm1.weight'])
    if normalised not in (c, num_words * c):
        raise ValueError(
            f'words are normalised over {normalised} numbers before they are projected, but {num_words} words of '
            f'{c} need {num_words * c} (authors) or {c} (legacy): no TNT of this package'
        )
    legacy = normalised == c and num_words > 1
    edge, side = math.isqrt(num_words), math.isqrt(renamed['patch_pos'].shape[1] - ('cls_token' in renamed))
    arguments: dict[str, Any] = {
        'arch': {
            'embed_dims_outer': C,
            'embed_dims_inner': c,
            'num_layers': numbers_in(renamed, r'blocks\.(\d+)\..*')[-1] + 1,
        }
    }
    found = {
        'img_size': 16 * side,
        'inner_stride': 16 // edge,
        'word_padding': 'image' if legacy else 'patch',
        'word_norm': 'word' if legacy else 'sentence',
        'qkv_bias': f'{inner}.attn.qkv.bias' in renamed,
        'mlp_ratio': hidden / c,
    }
    default = (224, 4, 'patch', 'sentence', False, 4.0)
    return arguments | non_default(found, dict(zip(found, default, strict=True)))
