"""Convert released TNT weights to ``mmvit_ext.TNT`` and an mmpretrain classifier around it (arXiv 2103.00112).

Three styles of names exist: the authors' (``inner_pos``, ``blocks.0.inner_norm1``), timm's (``pixel_pos``,
``blocks.0.norm_in``) and mmpretrain's (``pixel_pos``, ``layers.0.inner_block``). There are two generations of networks:
that of the authors, which timm has now, and the one that timm calls legacy, which is also mmpretrain's. The latter
normalises every word by itself where a block projects them, has a bias there, and embeds words with a
convolution that sees the neighbouring patch. Style and generation are read off keys and shapes. Checked with networks
of timm 1.0.31 that have random weights: the logits are equal to 1e-7.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmvit_ext.models.backbones.tnt import TNT

from . import rules

__all__ = ['convert_tnt', 'describe_tnt', 'tnt_arguments']

METHOD = 'TNT'
_BLOCK = r'blocks\.(\d+)'
_LAYER = r'layers\.(\d+)\.(inner|outer)_block'

# Queries and keys share a matrix in the first two styles, and are joined with the values afterwards.
_COMMON = {
    'norm': 'norm.',
    'head': 'head.fc.',
    'proj': 'patch_embed.proj.',
    rf'{_BLOCK}\.proj': r'blocks.\1.projection.proj.',
}

_AUTHORS = _COMMON | {
    r'patch_embed\.proj': 'word_embed.projection.',
    'proj_norm([12])': r'patch_embed.norm\1.',
    rf'{_BLOCK}\.(inner|outer)_(norm[12]|attn\.(?:qk|v|proj))': r'blocks.\1.\2.\3.',
    rf'{_BLOCK}\.(inner|outer)_mlp\.(fc[12])': r'blocks.\1.\2.ffn.\3.',
    rf'{_BLOCK}\.proj_norm([12])': r'blocks.\1.projection.norm\2.',
}

_PIXELS = {r'pixel_embed\.proj': 'word_embed.projection.', 'norm([12])_proj': r'patch_embed.norm\1.'}
_TIMM = {**_COMMON, **_PIXELS, rf'{_BLOCK}\.norm([12])_proj': r'blocks.\1.projection.norm\2.'}
for _part, _end, _short in (('inner', '_in', '_in'), ('outer', '_out', '')):
    _TIMM |= {
        rf'{_BLOCK}\.norm{_end}': rf'blocks.\1.{_part}.norm1.',
        rf'{_BLOCK}\.attn{_end}\.(qk|v|proj)': rf'blocks.\1.{_part}.attn.\2.',
        rf'{_BLOCK}\.norm_mlp{_short}': rf'blocks.\1.{_part}.norm2.',
        rf'{_BLOCK}\.mlp{_short}\.(fc[12])': rf'blocks.\1.{_part}.ffn.\2.',
    }

_MMPRETRAIN = _PIXELS | {
    'norm': 'norm.',
    r'head\.fc': 'head.fc.',
    'projection': 'patch_embed.proj.',
    rf'{_LAYER}\.norm_attn': r'blocks.\1.\2.norm1.',
    rf'{_LAYER}\.attn\.attn\.in_proj': r'blocks.\1.\2.attn.qkv.',
    rf'{_LAYER}\.attn\.attn\.out_proj': r'blocks.\1.\2.attn.proj.',
    rf'{_LAYER}\.norm_ffn': r'blocks.\1.\2.norm2.',
    rf'{_LAYER}\.ffn\.layers\.0\.0': r'blocks.\1.\2.ffn.fc1.',
    rf'{_LAYER}\.ffn\.layers\.1': r'blocks.\1.\2.ffn.fc2.',
    r'layers\.(\d+)\.norm_proj': r'blocks.\1.projection.norm1.',
    r'layers\.(\d+)\.projection': r'blocks.\1.projection.proj.',
}

_TOKENS: tuple[rules.Rule, ...] = (
    ('cls_token', 'cls_token'),
    ('(patch|pixel)_pos', r'\1_pos'),
    ('outer_pos', 'patch_pos'),
    ('inner_pos', 'word_pos'),
    ('outer_tokens', None),
)

# Parameters by which a style is recognised, and the names of its modules.
_STYLES: Mapping[str, tuple[tuple[str, str], dict[str, str]]] = {
    "the authors'": (('inner_pos', 'blocks.0.inner_norm1.weight'), _AUTHORS),
    "timm's": (('pixel_pos', 'blocks.0.norm_in.weight'), _TIMM),
    "mmpretrain's": (('pixel_pos', 'layers.0.norm_proj.weight'), _MMPRETRAIN),
}


def convert_tnt(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a TNT classifier; queries, keys and values are joined, and a map of positions becomes tokens.

    The authors' ``outer_tokens``, which nothing reads, are left out. mmpretrain's names may have ``backbone.``.
    """
    renamed = _renamed(state_dict)
    # A file of a backbone alone is complete too; half a classifier is not.
    head = [f'head.fc.{part}' for part in ('weight', 'bias')]
    rules.require_keys(renamed, head if any(name in renamed for name in head) else (), METHOD)
    converted = {name if name.startswith('head.') else f'backbone.{name}': value for name, value in renamed.items()}
    rules.require_fit(TNT, _arguments(renamed), converted, METHOD)
    return converted


def describe_tnt(state_dict: Mapping[str, Tensor]) -> str:
    """One sentence on what a released file holds, with the arguments of ``mmvit_ext.TNT`` that fit it."""
    arguments, legacy = tnt_arguments(state_dict), ' of the legacy generation'
    kind = f'in {_style(state_dict)} names' + legacy * ('word_norm' in arguments)
    return rules.describe_network(TNT, arguments, kind)


def tnt_arguments(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``mmvit_ext.TNT`` that fit a released file of 16-pixel patches, without numbers of heads."""
    return _arguments(_renamed(state_dict))


def _style(state_dict: Mapping[str, Tensor]) -> str:
    """Whose names these are; ``ValueError`` if nobody's."""
    for style, (names, _) in _STYLES.items():
        if all(name in state_dict or f'backbone.{name}' in state_dict for name in names):
            return style
    known = '; '.join(f'{style} {", ".join(names)}' for style, (names, _) in _STYLES.items())
    raise ValueError(
        f'no TNT in the names of its authors or of others ({known}), but {rules.name_some([*state_dict], 5)}'
    )


def _renamed(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names, with ``head.fc.`` for the classifier and without ``backbone.``."""
    style = _style(state_dict)
    if style == "mmpretrain's":
        state_dict = {key.removeprefix('backbone.'): value for key, value in state_dict.items()}
    renamed = rules.apply_rules(state_dict, (*_TOKENS, *rules.parameters(_STYLES[style][1])), METHOD)
    for name in [name for name in renamed if '.attn.qk.' in name]:
        values = name.replace('.attn.qk.', '.attn.v.')
        rules.require_keys(renamed, [values], METHOD)
        renamed[name.replace('.attn.qk.', '.attn.qkv.')] = torch.cat((renamed.pop(name), renamed.pop(values)))
    if 'pixel_pos' in renamed:
        words = renamed.pop('pixel_pos')
        # A map is (1, c, edge, edge), tokens are (1, words, c).
        renamed['word_pos'] = words.flatten(2).transpose(1, 2).contiguous() if words.ndim == 4 else words
    return renamed


def _arguments(renamed: Mapping[str, Tensor]) -> dict[str, Any]:
    inner, outer = 'blocks.0.inner', 'blocks.0.outer'
    known = ('word_pos', 'patch_pos', f'{inner}.ffn.fc1.weight', f'{outer}.norm1.weight', 'patch_embed.proj.weight')
    rules.require_keys(renamed, (*known, 'blocks.0.projection.norm1.weight'), METHOD)
    _, num_words, c = renamed['word_pos'].shape
    C, hidden = len(renamed[f'{outer}.norm1.weight']), len(renamed[f'{inner}.ffn.fc1.weight'])
    normalised = len(renamed['blocks.0.projection.norm1.weight'])
    if normalised not in (c, num_words * c):
        needed = f'{num_words} words of {c} need {num_words * c} (authors) or {c} (legacy)'
        raise ValueError(
            f'words are normalised over {normalised} numbers before a projection, but {needed}: no TNT of ours'
        )
    legacy = normalised == c and num_words > 1
    edge, side = math.isqrt(num_words), math.isqrt(renamed['patch_pos'].shape[1] - ('cls_token' in renamed))
    num_layers = rules.numbers_in(renamed, r'blocks\.(\d+)\..*')[-1] + 1
    arch = {'embed_dims_outer': C, 'embed_dims_inner': c, 'num_layers': num_layers}
    found = {
        'img_size': 16 * side,
        'inner_stride': 16 // edge,
        'word_padding': 'image' if legacy else 'patch',
        'word_norm': 'word' if legacy else 'sentence',
        'qkv_bias': f'{inner}.attn.qkv.bias' in renamed,
        'mlp_ratio': hidden / c,
    }
    default = (224, 4, 'patch', 'sentence', False, 4.0)
    return {'arch': arch, **rules.non_default(found, dict(zip(found, default, strict=True)))}
