"""Convert released P2T weights to ``mmvit_ext.P2T`` and the models around it (arXiv 2106.12011).

Four kinds of files exist: ImageNet classifiers (the backbone's keys at the top, and ``head``), and models of
mmsegmentation 0.x and mmdetection 2.x (``backbone.``, ``neck.``, and ``decode_head.``, ``bbox_head.``, or ``rpn_head.``
and ``roi_head.``). There are two generations of classifiers: the one of the journal paper, and an older one with other
shapes (its Tiny has 11.1 M parameters and reaches 78.1 % top-1 instead of 11.6 M and 79.8 %). Kind, variant and
generation are read off keys and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmvit_ext.models.backbones.p2t import OVERLAPPED_KERNELS, P2T, PATCH_STRIDES

from .rules import Rule, apply_rules, describe_network, name_some, non_default, numbers_in, require_fit, require_keys

__all__ = ['convert_p2t', 'describe_p2t', 'p2t_arguments']

METHOD = 'P2T'

NUM_STAGES = len(PATCH_STRIDES)

_BACKBONE: tuple[Rule, ...] = tuple(
    (rf'(backbone\.)?{theirs.format(stage + 1)}\.(weight|bias)', rf'\g<1>stages.{stage}.{ours}')
    for stage in range(NUM_STAGES)
    for theirs, ours in (
        (r'patch_embed{}\.proj', r'patch_embed.projection.\2'),
        (r'patch_embed{}\.norm', r'patch_embed.norm.\2'),
        (r'd_convs{}\.(\d+)', r'rpe_convs.\2.\3'),
        (r'block{}\.(\d+)\.norm([12])', r'blocks.\2.norm\3.\4'),
        (r'block{}\.(\d+)\.attn\.(q|kv)\.0', r'blocks.\2.attn.\3.\4'),
        (r'block{}\.(\d+)\.attn\.(norm|proj)', r'blocks.\2.attn.\3.\4'),
        (r'block{}\.(\d+)\.mlp\.(fc1|conv|fc2)', r'blocks.\2.ffn.\3.\4'),
    )
)

_PARAMETERS = r'\.(?:weight|bias)'

_BATCH_NORM = r'\.(?:weight|bias|running_mean|running_var|num_batches_tracked)'

# The libraries kept these names from mmsegmentation 0.x and mmdetection 2.x on.
_KEPT = (
    rf'neck\.(?:lateral_convs|fpn_convs)\.\d+\.conv{_PARAMETERS}',
    rf'decode_head\.scale_heads\.\d+\.\d+\.conv{_PARAMETERS}',
    rf'decode_head\.scale_heads\.\d+\.\d+\.bn{_BATCH_NORM}',
    rf'decode_head\.conv_seg{_PARAMETERS}',
    rf'bbox_head\.(?:cls|reg)_convs\.\d+\.conv{_PARAMETERS}',
    rf'bbox_head\.retina_(?:cls|reg){_PARAMETERS}',
    rf'rpn_head\.rpn_(?:conv|cls|reg){_PARAMETERS}',
    rf'roi_head\.bbox_head\.(?:shared_fcs\.\d+|fc_cls|fc_reg){_PARAMETERS}',
    rf'roi_head\.mask_head\.(?:convs\.\d+\.conv|upsample|conv_logits){_PARAMETERS}',
)

_DENSE: tuple[Rule, ...] = tuple((f'({pattern})', r'\1') for pattern in _KEPT)

_CLASSIFIER: tuple[Rule, ...] = ((r'head\.(weight|bias)', r'head.fc.\1'),)

_KINDS = {
    'classifier': ('head.weight', 'head.bias'),
    'Semantic FPN': ('neck.lateral_convs.0.conv.weight', 'decode_head.conv_seg.weight'),
    'RetinaNet': ('neck.lateral_convs.0.conv.weight', 'bbox_head.retina_cls.weight', 'bbox_head.retina_reg.weight'),
    'Mask R-CNN': (
        'neck.lateral_convs.0.conv.weight',
        'rpn_head.rpn_conv.weight',
        'roi_head.bbox_head.fc_cls.weight',
        'roi_head.mask_head.conv_logits.weight',
    ),
}


def convert_p2t(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a P2T classifier, Semantic FPN, RetinaNet or Mask R-CNN; all get a ``backbone.``."""
    kind, arguments = _kind(state_dict), p2t_arguments(state_dict)
    converted = apply_rules(state_dict, (*_BACKBONE, *(_CLASSIFIER if kind == 'classifier' else _DENSE)), METHOD)
    if kind == 'classifier':
        converted = {key if key.startswith('head.') else f'backbone.{key}': value for key, value in converted.items()}
    require_keys(state_dict, _KINDS[kind], f'{METHOD} {kind}')
    require_fit(P2T, arguments, converted, METHOD)
    return converted


def describe_p2t(state_dict: Mapping[str, Tensor]) -> str:
    """One sentence on what a released file holds, with the arguments of ``mmvit_ext.P2T`` that fit it."""
    return describe_network(P2T, p2t_arguments(state_dict), _kind(state_dict), ', maybe of the older generation')


def p2t_arguments(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``mmvit_ext.P2T`` that fit a released file, read off its shapes, without numbers of heads."""
    prefix = '' if _kind(state_dict) == 'classifier' else 'backbone.'
    shapes = {key.removeprefix(prefix): tuple(value.shape) for key, value in state_dict.items()}
    stages = range(1, NUM_STAGES + 1)
    require_keys(
        state_dict,
        [f'{prefix}{name}' for s in stages for name in (f'patch_embed{s}.proj.weight', f'block{s}.0.attn.q.0.weight')],
        METHOD,
    )
    projections = [shapes[f'patch_embed{s}.proj.weight'] for s in stages]
    kernels = tuple(shape[-1] for shape in projections)
    if kernels not in (OVERLAPPED_KERNELS, PATCH_STRIDES):
        raise ValueError(
            f'patches of {kernels} pixels belong to no P2T of this package (overlapping {OVERLAPPED_KERNELS}, plain '
            f'{PATCH_STRIDES}): probably the older generation of weights; take the files of the journal version'
        )
    hidden = [shapes.get(f'block{s}.0.mlp.fc1.weight', (0,))[0] for s in stages]
    embed_dims = tuple(shape[0] for shape in projections)
    arguments: dict[str, Any] = {
        'arch': {
            'embed_dims': embed_dims,
            'depths': tuple(numbers_in(shapes, rf'block{s}\.(\d+)\..*')[-1] + 1 for s in stages),
            'mlp_ratios': tuple(width // dims for width, dims in zip(hidden, embed_dims, strict=True)),
        }
    }
    found = {
        'overlapped': kernels == OVERLAPPED_KERNELS,
        'with_rpe': any(name.startswith('d_convs') for name in shapes),
        'ffn_type': 'irb' if 'block1.0.mlp.conv.weight' in shapes else 'mlp',
        'qkv_bias': 'block1.0.attn.q.0.bias' in shapes,
    }
    return arguments | non_default(found, {'overlapped': True, 'with_rpe': True, 'ffn_type': 'irb', 'qkv_bias': True})


def _kind(state_dict: Mapping[str, Tensor]) -> str:
    """Which model a file holds; ``ValueError`` if it is none of the four."""
    for kind, prefix in (('Semantic FPN', 'decode_head.'), ('Mask R-CNN', 'roi_head.'), ('RetinaNet', 'bbox_head.')):
        if any(key.startswith(prefix) for key in state_dict):
            return kind
    if 'patch_embed1.proj.weight' in state_dict:
        return 'classifier'
    raise ValueError(
        'no P2T classifier (patch_embed1.proj.weight, ...), Semantic FPN (decode_head.), RetinaNet (bbox_head.) or '
        f'Mask R-CNN (roi_head.), but {name_some(list(state_dict), 5)}'
    )
