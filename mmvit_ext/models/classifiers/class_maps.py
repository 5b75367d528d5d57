r"""Class activation maps: what each place of a classifier's last map adds to the score of a class.

Where a classifier is linear on the mean of a map, its logit is the mean over the places of
:math:`w_c \cdot x_{ij} + b_c`; the map of these numbers, without the bias, is the class activation map (Zhou et al.,
CVPR 2016, arXiv 1512.04150). What all classes have in common does not change a softmax and may lie anywhere, so a class
can be compared with its strongest rivals.

Shapes: B batch, C width, h and w the map's size, N classes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmvit_ext.models.backbones.base import Backbone

__all__ = ['RIVALS', 'check_class_maps', 'class_maps', 'strongest_rivals']

RIVALS = 3
"""How many other classes a class is compared with when nothing else is said; docs/gradcat.md has the measurements."""

_REMEDY = (
    'expected a classifier that takes the mean of a map: neck GlobalAveragePooling, or backbone '
    "out_type='avg_featmap', before a LinearClsHead, such as the classifiers in configs/nest, configs/p2t and "
    'configs/spformer'
)


def check_class_maps(model: nn.Module) -> Callable[[Tensor], Sequence[Tensor]]:
    """What gives the map whose mean a classifier of mmpretrain takes; a ``ValueError`` tells what it has instead."""
    parts: Any = model
    if not hasattr(parts, 'backbone') or not isinstance(getattr(getattr(parts, 'head', None), 'fc', None), nn.Linear):
        raise ValueError(f'{type(model).__name__} has no linear layer of classes to make maps of: {_REMEDY}')
    backbone, neck = parts.backbone, getattr(parts, 'neck', None)
    kind = getattr(backbone, 'out_type', None)
    if neck is None and isinstance(backbone, Backbone) and kind == 'avg_featmap':
        return backbone.averaged_maps
    if isinstance(getattr(neck, 'gap', None), nn.AdaptiveAvgPool2d):
        return backbone
    given = f'backbone {type(backbone).__name__}' + (f' with out_type={kind!r}' if kind else '')
    given += f' and {"no neck" if neck is None else "neck " + type(neck).__name__}'
    raise ValueError(f'a {type(model).__name__} of {given} has no map that its classes are read from: {_REMEDY}')


def class_maps(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(B, N)`` and class activation maps ``(B, N, h, w)``, whose mean is the logit without its bias."""
    places = check_class_maps(model)(inputs)[-1].permute(0, 2, 3, 1)  # (B, h, w, C)
    fc: Any = model.get_submodule('head.fc')
    bias = fc(torch.zeros_like(places[:1, :1, :1]))  # (1, 1, 1, N)
    maps = (fc(places) - bias).permute(0, 3, 1, 2)
    return maps.mean((2, 3)) + bias.flatten(), maps


def strongest_rivals(logits: Tensor, label: int, count: int) -> Tensor:
    """Indices of the ``count`` other classes with the highest of the logits ``(N,)``, highest first."""
    others = logits.detach().clone()
    others[label] = -torch.inf
    return others.topk(count).indices
