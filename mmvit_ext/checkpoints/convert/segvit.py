"""Convert released SegViT checkpoints (arXiv 2210.05844).

Both the whole segmentor (``backbone.``, ``decode_head.``) and a bare head are understood; the backbone has our names.
In the head, stages count from 1 as they are decoded; the class weights of the loss, which ours computes, are left out.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from .rules import Rule, apply_rules, numbers_in, require_keys

__all__ = ['convert_segvit']

METHOD = 'SegViT'

BACKBONE_RULE: Rule = (
    r'(backbone\.)((?:cls_token|pos_embed|patch_embed\.projection\.(?:weight|bias)|ln1\.(?:weight|bias)'
    r'|layers\.\d+\.(?:ln[12]|attn\.attn\.out_proj|ffn\.layers\.(?:0\.0|1))\.(?:weight|bias)'
    r'|layers\.\d+\.attn\.attn\.in_proj_(?:weight|bias)))',
    r'\1\2',
)


def _both(names: Mapping[str, str]) -> dict[str, str]:
    """The weights and biases of modules, whose names end in ``.`` or ``_``."""
    return {f'{theirs}{part}': f'{ours}{part}' for theirs, ours in names.items() for part in ('weight', 'bias')}


_COMMON = {
    **{name: name for name in ('self_attn.in_proj_', 'self_attn.out_proj.', 'norm1.', 'norm2.', 'norm3.')},
    'linear1.': 'ffn.0.',
    'linear2.': 'ffn.3.',
}

_ATM_LAYER = _both(_COMMON | {f'multihead_attn.{name}.': f'cross_attn.{name}.' for name in ('q', 'k', 'v', 'proj')})
_QU_LAYER = _both(_COMMON | {f'multihead_attn.{name}': f'cross_attn.{name}' for name in ('in_proj_', 'out_proj.')})


def convert_segvit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a SegViT segmentor or head, with or without the Shrunk structure and ``decode_head.``."""
    prefix = 'decode_head.' if any(key.startswith('decode_head.') for key in state_dict) else ''
    is_head = (lambda key: key.startswith(prefix)) if prefix else (lambda key: not key.startswith('backbone.'))
    head = {key: value for key, value in state_dict.items() if is_head(key)}
    rest = {key: value for key, value in state_dict.items() if key not in head}
    converted = apply_rules(rest, [BACKBONE_RULE], METHOD)
    if any(key.startswith(f'{prefix}atm.') for key in head):
        names = {
            **_stage_names(head, prefix, f'{prefix}levels', _QU_LAYER),
            **_atm_names(head, f'{prefix}atm.', prefix),
            f'{prefix}q.weight': f'{prefix}position_queries.weight',
        }
    else:
        names = _atm_names(head, prefix, prefix)
    require_keys(head, names, METHOD)
    rules: list[Rule] = [(re.escape(theirs), ours) for theirs, ours in names.items()]
    rules.append((re.escape(prefix) + r'(atm\.)?loss_decode\.criterion\.empty_weight', None))
    converted.update(apply_rules(head, rules, METHOD))
    return converted


def _atm_names(state_dict: Mapping[str, Tensor], source: str, target: str) -> dict[str, str]:
    """Names of an ATM decoder under the prefix ``source`` to those of ``ATMHead`` under ``target``."""
    return {
        f'{source}q.weight': f'{target}class_queries.weight',
        **_both({f'{source}class_embed.': f'{target}class_embed.'}),
        **_stage_names(state_dict, source, f'{target}stages', _ATM_LAYER),
    }


def _stage_names(
    state_dict: Mapping[str, Tensor], source: str, target: str, layer_names: Mapping[str, str]
) -> dict[str, str]:
    """Names of numbered decoders and their input projections; the numbers are read off the keys."""
    patterns = (r'decoder_(\d+)\..*', r'decoder_\d+\.layers\.(\d+)\..*')
    found = [numbers_in(state_dict, re.escape(source) + pattern) or [0, -1] for pattern in patterns]
    # Gaps in the numbers are filled, so that they are missed.
    stages, layers = (range(numbers[0], numbers[-1] + 1) for numbers in found)
    projected = any(key.startswith(f'{source}input_proj_') for key in state_dict)
    names: dict[str, str] = {}
    for stage in stages:
        ours = f'{target}.{stage - 1}'
        if projected:
            names |= _both(
                {f'{source}input_proj_{stage}.': f'{ours}.proj.', f'{source}proj_norm_{stage}.': f'{ours}.norm.'}
            )
        for layer in layers:
            theirs = f'{source}decoder_{stage}.layers.{layer}'
            names |= {f'{theirs}.{a}': f'{ours}.layers.{layer}.{b}' for a, b in layer_names.items()}
    return names
