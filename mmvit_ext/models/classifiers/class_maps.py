r"""Class activation maps: what each place of a classifier's last map adds to the score of a class.

Paper: Learning Deep Features for Discriminative Localization, Zhou et al., CVPR 2016, arXiv 1512.04150. Where a
classifier is linear on the mean of a map, its logit is the mean over the places of :math:`w_c \cdot x_{ij} + b_c`; the
map of these numbers, without the bias, is the class activation map.

A softmax does not change when the same number is added to all logits, so a logit by itself says little about where its
class is: what all classes have in common may lie anywhere. Hence a class can be compared with its strongest rivals.

Shapes: B batch, C width, h and w the map's size, N classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ['RIVALS', 'check_class_maps', 'class_maps', 'strongest_rivals']

RIVALS = 3
"""How many other classes a class is compared with when nothing else is said; docs/gradcat.md has the measurements."""

_REMEDY = (
    'expected a classifier that takes the mean of a map: neck GlobalAveragePooling, or backbone '
    "out_type='avg_featmap', before a LinearClsHead, such as the classifiers in configs/nest, configs/p2t and "
    'configs/spformer'
)


def check_class_maps(model: nn.Module) -> None:
    """Make sure that a model has class activation maps.

    Args:
        model: A classifier of mmpretrain.

    Raises:
        ValueError: It does not take the mean of a map.
    """
    parts: Any = model
    if not hasattr(parts, 'backbone') or not isinstance(getattr(getattr(parts, 'head', None), 'fc', None), nn.Linear):
        raise ValueError(f'{type(model).__name__} has no linear layer of classes to make maps of: {_REMEDY}')
    backbone, neck = parts.backbone, getattr(parts, 'neck', None)
    kind = getattr(backbone, 'out_type', None)
    if _pools_itself(parts) or isinstance(getattr(neck, 'gap', None), nn.AdaptiveAvgPool2d):
        return
    given = f'backbone {type(backbone).__name__}' + (f' with out_type={kind!r}' if kind else '')
    given += f' and {"no neck" if neck is None else "neck " + type(neck).__name__}'
    raise ValueError(f'a {type(model).__name__} of {given} has no map that its classes are read from: {_REMEDY}')


def class_maps(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and class activation maps of a classifier.

    Args:
        model: A classifier of mmpretrain.
        inputs: Normalised images ``(B, 3, H, W)``.

    Returns:
        logits ``(B, N)`` and maps ``(B, N, h, w)``. The mean of a map is the logit without its bias.

    Raises:
        ValueError: The classifier does not take the mean of a map.
    """
    check_class_maps(model)
    parts: Any = model
    if _pools_itself(parts):
        with _maps_of(parts.backbone):
            features = parts.backbone(inputs)[-1]
        if _norms_the_mean(parts.backbone):
            features = _normalize_like_the_mean(features, parts.backbone.norm)
    else:
        features = parts.backbone(inputs)[-1]
    fc = parts.head.fc
    maps = torch.einsum('bchw,nc->bnhw', features, fc.weight)
    logits = maps.mean((2, 3))
    return logits if fc.bias is None else logits + fc.bias, maps


def _pools_itself(model: Any) -> bool:
    return getattr(model, 'neck', None) is None and getattr(model.backbone, 'out_type', None) == 'avg_featmap'


def strongest_rivals(logits: Tensor, label: int, count: int) -> Tensor:
    """The other classes with the highest logits.

    Args:
        logits: Of one image ``(N,)``.
        label: The class.
        count: How many, fewer than N.

    Returns:
        Their indices, highest first.
    """
    others = logits.detach().clone()
    others[label] = -torch.inf
    return others.topk(count).indices


@contextmanager
def _maps_of(backbone: Any) -> Iterator[None]:
    """The map whose mean a backbone gives otherwise."""
    before = backbone.out_type
    backbone.out_type = 'featmap'
    try:
        yield
    finally:
        backbone.out_type = before


def _norms_the_mean(backbone: nn.Module) -> bool:
    # TNT and ViT normalise tokens before their mean is taken, SPFormer the mean.
    return type(backbone).__name__ == 'SPFormer'


def _normalize_like_the_mean(features: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Layer norm of a map with the variance of its mean: linear, and its mean is the norm of the mean."""
    mean = features.mean((2, 3))  # (B, C)
    deviation = (mean.var(1, unbiased=False) + norm.eps).sqrt()[:, None, None, None]
    scaled = (features - features.mean(1, keepdim=True)) / deviation
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]
