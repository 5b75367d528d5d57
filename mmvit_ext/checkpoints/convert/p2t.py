"""Convert released P2T weights to ``mmvit_ext.P2T`` and the models around it (arXiv 2106.12011).

Four kinds of files exist: ImageNet classifiers (the backbone's keys at the top, and ``head``), and models of
mmsegmentation 0.x and mmdetection 2.x (``backbone.``, ``neck.``, and ``decode_head.``, ``bbox_head.``, or ``rpn_head.``
and ``roi_head.``). There are two generations of classifiers: the one of the journal paper, and an older one with other
shapes (its Tiny has 11.1 M parameters and reaches 78.1 % top-1 instead of 11.6 M and 79.8 %). Kind, variant and
generation are read off keys and shapes.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmvit_ext.models.backbones.p2t import OVERLAPPED_KERNELS, P2T, PATCH_STRIDES

from . import rules

__all__ = ['convert_p2t', 'describe_p2t', 'p2t_arguments']

METHOD = 'P2T'
NUM_STAGES = len(PATCH_STRIDES)

_MODULES = {
    r'patch_embed{}\.proj': r'patch_embed.projection.',
    r'patch_embed{}\.norm': r'patch_embed.norm.',
    r'd_convs{}\.(\d+)': r'rpe_convs.\2.',
    r'block{}\.(\d+)\.norm([12])': r'blocks.\2.norm\3.',
    r'block{}\.(\d+)\.attn\.(q|kv)\.0': r'blocks.\2.attn.\3.',
    r'block{}\.(\d+)\.attn\.(norm|proj)': r'blocks.\2.attn.\3.',
    r'block{}\.(\d+)\.mlp\.(fc1|conv|fc2)': r'blocks.\2.ffn.\3.',
}
"""Those of a stage, which the authors number from 1 on."""

_BACKBONE: tuple[rules.Rule, ...] = tuple(
    rule
    for stage in range(NUM_STAGES)
    for theirs, ours in _MODULES.items()
    for rule in rules.parameters({rf'(backbone\.)?{theirs.format(stage + 1)}': rf'\g<1>stages.{stage}.{ours}'})
)

# The libraries kept these names from mmsegmentation 0.x and mmdetection 2.x on.
_KEPT = (
    r'neck\.(?:lateral_convs|fpn_convs)\.\d+\.conv',
    r'decode_head\.(?:scale_heads\.\d+\.\d+\.(?:conv|bn)|conv_seg)',
    r'bbox_head\.(?:(?:cls|reg)_convs\.\d+\.conv|retina_(?:cls|reg))',
    r'rpn_head\.rpn_(?:conv|cls|reg)',
    r'roi_head\.bbox_head\.(?:shared_fcs\.\d+|fc_cls|fc_reg)',
    r'roi_head\.mask_head\.(?:convs\.\d+\.conv|upsample|conv_logits)',
)

_DENSE: tuple[rules.Rule, ...] = (
    *((rf'({pattern}\.(?:weight|bias))', r'\1') for pattern in _KEPT),
    (r'(decode_head\.scale_heads\.\d+\.\d+\.bn\.(?:running_mean|running_var|num_batches_tracked))', r'\1'),
)

_NECK = 'neck.lateral_convs.0.conv'

_KINDS = {
    'classifier': ('patch_embed1.', 'head'),
    'Semantic FPN': ('decode_head.', _NECK, 'decode_head.conv_seg'),
    'RetinaNet': ('bbox_head.', _NECK, 'bbox_head.retina_cls', 'bbox_head.retina_reg'),
    'Mask R-CNN': (
        'roi_head.',
        _NECK,
        'rpn_head.rpn_conv',
        'roi_head.bbox_head.fc_cls',
        'roi_head.mask_head.conv_logits',
    ),
}
"""How names begin that only this kind of model has, and modules that it must have."""


def convert_p2t(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a P2T classifier, Semantic FPN, RetinaNet or Mask R-CNN; all get a ``backbone.``."""
    kind, arguments = _kind(state_dict), p2t_arguments(state_dict)
    head = rules.parameters({'head': 'head.fc.'}) if kind == 'classifier' else _DENSE
    converted = rules.apply_rules(state_dict, (*_BACKBONE, *head), METHOD)
    if kind == 'classifier':
        converted = {key if key.startswith('head.') else f'backbone.{key}': value for key, value in converted.items()}
    needed = [f'{name}.{part}' for name in _KINDS[kind][1:] for part in ('weight', 'bias')]
    rules.require_keys(state_dict, needed, f'{METHOD} {kind}')
    rules.require_fit(P2T, arguments, converted, METHOD)
    return converted


def describe_p2t(state_dict: Mapping[str, Tensor]) -> str:
    """One sentence on what a released file holds, with the arguments of ``mmvit_ext.P2T`` that fit it."""
    return rules.describe_network(P2T, p2t_arguments(state_dict), _kind(state_dict), ', maybe of the older generation')


def p2t_arguments(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``mmvit_ext.P2T`` that fit a released file, read off its shapes, without numbers of heads."""
    prefix = '' if _kind(state_dict) == 'classifier' else 'backbone.'
    shapes = {key.removeprefix(prefix): tuple(value.shape) for key, value in state_dict.items()}
    stages = range(1, NUM_STAGES + 1)
    names = [name for s in stages for name in (f'patch_embed{s}.proj.weight', f'block{s}.0.attn.q.0.weight')]
    rules.require_keys(state_dict, [f'{prefix}{name}' for name in names], METHOD)
    projections = [shapes[f'patch_embed{s}.proj.weight'] for s in stages]
    kernels = tuple(shape[-1] for shape in projections)
    if kernels not in (OVERLAPPED_KERNELS, PATCH_STRIDES):
        known = f'overlapping {OVERLAPPED_KERNELS}, plain {PATCH_STRIDES}'
        remedy = 'probably the older generation of weights; take the files of the journal version'
        raise ValueError(f'patches of {kernels} pixels belong to no P2T of this package ({known}): {remedy}')
    hidden = [shapes.get(f'block{s}.0.mlp.fc1.weight', (0,))[0] for s in stages]
    embed_dims = tuple(shape[0] for shape in projections)
    arguments: dict[str, Any] = {
        'arch': {
            'embed_dims': embed_dims,
            'depths': tuple(rules.numbers_in(shapes, rf'block{s}\.(\d+)\..*')[-1] + 1 for s in stages),
            'mlp_ratios': tuple(width // dims for width, dims in zip(hidden, embed_dims, strict=True)),
        }
    }
    found = {
        'overlapped': kernels == OVERLAPPED_KERNELS,
        'with_rpe': any(name.startswith('d_convs') for name in shapes),
        'ffn_type': 'irb' if 'block1.0.mlp.conv.weight' in shapes else 'mlp',
        'qkv_bias': 'block1.0.attn.q.0.bias' in shapes,
    }
    default = {'overlapped': True, 'with_rpe': True, 'ffn_type': 'irb', 'qkv_bias': True}
    return arguments | rules.non_default(found, default)


def _kind(state_dict: Mapping[str, Tensor]) -> str:
    """Which model a file holds; ``ValueError`` if it is none of the four."""
    for kind, (begin, *_) in _KINDS.items():
        if any(key.startswith(begin) for key in state_dict):
            return kind
    known = ', '.join(f'{kind} ({names[0]})' for kind, names in _KINDS.items())
    raise ValueError(f'no P2T {known}, but {rules.name_some(list(state_dict), 5)}')
