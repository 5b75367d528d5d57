"""Convert released EoMT checkpoints (arXiv 2503.19108), in the names of the authors or of transformers.

The authors' files hold timm's network behind ``network.encoder.backbone.``; transformers' hold DINOv2 or DINOv3 in its
own names. Both become a ``TimmViT`` and an ``EoMTHead``. Those with DINOv3 are published as differences to its weights.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .rules import Rule, apply_rules, numbers_in, parameters, require_keys

__all__ = ['add_base', 'convert_eomt', 'convert_eomt_detector']

METHOD = 'EoMT'
HEAD = {'authors': 'network.', 'transformers': ''}

_BLOCK = (
    r'blocks\.\d+\.(?:norm[12]|attn\.(?:qkv|proj|[qv]_norm|k_norm)|mlp\.(?:fc1|fc2|fc1_g|fc1_x|norm))\.(?:weight|bias)'
)
_TIMM = (
    rf'(?:{_BLOCK}|blocks\.\d+\.(?:ls[12]\.gamma|gamma_[12]|attn\.[qkv]_bias)|cls_token|reg_token|pos_embed'
    r'|(?:patch_embed\.proj|norm)\.(?:weight|bias))'
)

_EMBED, _LAYER = r'(?:embeddings|patch_embed)', r'(?:(?:model\.)?layers?|blocks)\.(\d+)'
_TRANSFORMERS: tuple[Rule, ...] = (
    (rf'{_EMBED}\.cls_token', 'cls_token'),
    (rf'{_EMBED}\.mask_token', None),
    (rf'{_EMBED}\.register_tokens', 'reg_token'),
    (rf'{_EMBED}\.position_embeddings(?:\.weight)?', 'pos_embed'),
    (rf'{_EMBED}\.patch_embeddings\.(?:projection\.)?(weight|bias)', r'patch_embed.proj.\1'),
    (r'(?:layernorm|norm)\.(weight|bias)', r'norm.\1'),
    (rf'{_LAYER}\.(norm[12])\.(weight|bias)', r'blocks.\1.\2.\3'),
    (rf'{_LAYER}\.attention\.([qkv]_proj)\.(weight|bias)', r'blocks.\1.attn.\2.\3'),
    (rf'{_LAYER}\.attention\.(?:out|o)_proj\.(weight|bias)', r'blocks.\1.attn.proj.\2'),
    (rf'{_LAYER}\.layer_scale([12])\.lambda1', r'blocks.\1.ls\2.gamma'),
    (rf'{_LAYER}\.mlp\.(?:fc1|weights_in|up_proj)\.(weight|bias)', r'blocks.\1.mlp.fc1.\2'),
    (rf'{_LAYER}\.mlp\.gate_proj\.(weight|bias)', r'blocks.\1.mlp.fc1_g.\2'),
    (rf'{_LAYER}\.mlp\.(?:fc2|weights_out|down_proj)\.(weight|bias)', r'blocks.\1.mlp.fc2.\2'),
)
"""Names of transformers' DINOv2 and DINOv3, in EoMT and alone, to those of timm; the authors call some others."""


def convert_eomt(state_dict: Mapping[str, Tensor], prefix: str = 'decode_head.') -> dict[str, Tensor]:
    """Rename the keys of a semantic EoMT; ``prefix`` is that of the head."""
    style = 'authors' if any(key.startswith('network.') for key in state_dict) else 'transformers'
    theirs = HEAD[style]
    stages = numbers_in(state_dict, re.escape(theirs) + r'(?:upscale|upscale_block\.block)\.(\d+)\..*')
    names = {'query': 'query', 'class_predictor': 'class_embed'}
    names |= {f'mask_head.fc{index + 1}': f'mask_embed.{2 * index}' for index in range(3)}
    if style == 'authors':
        names = {'q': 'query', 'class_head': 'class_embed'}
        names |= {f'mask_head.{2 * index}': f'mask_embed.{2 * index}' for index in range(3)}
    for index in stages:
        block = f'upscale.{index}' if style == 'authors' else f'upscale_block.block.{index}'
        norm = 'norm' if style == 'authors' else 'layernorm2d'
        names |= {f'{block}.{part}': f'upscale.{index}.{at}' for part, at in (('conv1', 0), ('conv2', 2), (norm, 3))}
    rules: list[Rule] = [
        *parameters({re.escape(theirs + key): f'{prefix}{name}.' for key, name in names.items()}),
        (re.escape(theirs) + 'attn_mask_probs', f'{prefix}attn_mask_probs'),
        (r'(?:network\.)?criterion\.empty_weight', None),
    ]
    if style == 'authors':
        rules += [(rf'network\.encoder\.backbone\.({_TIMM})', r'backbone.net.\1')]
        rules += [
            (rf'network\.encoder\.backbone\.{pattern}', new and f'backbone.net.{new}') for pattern, new in _TRANSFORMERS
        ]
        rules += [(r'network\.encoder\.pixel_(?:mean|std)', None)]
    else:
        rules += [(pattern, new and f'backbone.net.{new}') for pattern, new in _TRANSFORMERS]
    converted = _fit_to_timm(apply_rules(state_dict, rules, METHOD), 'backbone.net.')
    learned = [f'{name}.weight' for name in ('query', 'class_embed', 'mask_embed.0', 'mask_embed.2', 'mask_embed.4')]
    wanted = [f'{prefix}{name}' for name in learned]
    depth = numbers_in(converted, r'backbone\.net\.blocks\.(\d+)\..*')
    wanted += [f'backbone.net.{name}' for name in ('cls_token', 'patch_embed.proj.weight', 'norm.weight', 'norm.bias')]
    for index in range(depth[-1] + 1 if depth else 1):
        wanted += [
            f'backbone.net.blocks.{index}.{part}.weight' for part in ('norm1', 'attn.qkv', 'attn.proj', 'mlp.fc2')
        ]
    require_keys(converted, wanted, METHOD)
    # A file without it is of a finished training, in which all masks have been annealed away.
    blocks = converted.setdefault(f'{prefix}attn_mask_probs', torch.zeros(4))
    if blocks.ndim == 0:
        converted[f'{prefix}attn_mask_probs'] = blocks[None]
    return converted


def convert_eomt_detector(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of an EoMT for instance or panoptic segmentation."""
    return convert_eomt(state_dict, 'panoptic_head.')


def _fit_to_timm(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Put queries, keys and values together, and give the rotary networks of timm their own names."""
    found = dict(state_dict)
    rotary = f'{prefix}pos_embed' not in found
    for name in [name for name in found if name.endswith('.attn.q_proj.weight')]:
        block = name.removesuffix('q_proj.weight')
        biases = [found.pop(f'{block}{part}_proj.bias', None) for part in 'qkv']
        weights = [found.pop(f'{block}{part}_proj.weight', None) for part in 'qkv']
        missing = [f'{block}{part}_proj.weight' for part, value in zip('qkv', weights, strict=True) if value is None]
        require_keys({}, missing, METHOD)
        found[f'{block}qkv.weight'] = torch.cat([value for value in weights if value is not None])
        if rotary:
            named = zip('qkv', biases, strict=True)
            found |= {f'{block}{part}_bias': value for part, value in named if value is not None}
        elif all(value is not None for value in biases):
            found[f'{block}qkv.bias'] = torch.cat([value for value in biases if value is not None])
    for name in list(found):
        if rotary and (match := re.fullmatch(r'(.*blocks\.\d+\.)ls([12])\.gamma', name)):
            found[f'{match[1]}gamma_{match[2]}'] = found.pop(name)
        elif match := re.fullmatch(r'(.*\.mlp\.)fc1_g\.(weight|bias)', name):
            gate, value = found.pop(name), found.pop(f'{match[1]}fc1.{match[2]}')
            if rotary:
                found |= {f'{match[1]}fc1_g.{match[2]}': gate, f'{match[1]}fc1_x.{match[2]}': value}
            else:
                found[f'{match[1]}fc1.{match[2]}'] = torch.cat([gate, value])
        elif name == f'{prefix}pos_embed' and found[name].ndim == 2:
            found[name] = found[name][None]
    return found


def add_base(converted: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the weights of DINOv3, in timm's names or transformers', to a backbone that is stored as differences."""
    if any(key.startswith('embeddings.') for key in base):
        base = _fit_to_timm(apply_rules(base, _TRANSFORMERS, 'DINOv3'), '')
    front = next((key.removesuffix('cls_token') for key in base if key.endswith('cls_token')), '')
    wanted = [key.removeprefix('backbone.net.') for key in converted if key.startswith('backbone.net.')]
    require_keys({key.removeprefix(front): value for key, value in base.items()}, wanted, 'DINOv3')
    total = dict(converted)
    for name in wanted:
        difference, weight = converted[f'backbone.net.{name}'], base[f'{front}{name}']
        if difference.shape != weight.shape:
            shapes = f'{tuple(difference.shape)} there and {tuple(weight.shape)} in the base'
            raise ValueError(f'the base is another network than the differences are to: {name} is {shapes}')
        total[f'backbone.net.{name}'] = difference + weight
    return total
