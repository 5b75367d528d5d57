r"""Class activation maps: what each place of a classifier's last map adds to the score of a class.

Where a classifier is linear on the mean of a map, its logit is the mean over the places of
:math:`w_c \cdot x_{ij} + b_c`; the map of these numbers, without the bias, is the class activation map (Zhou et al.,
CVPR 2016, arXiv 1512.04150).

Shapes: B batch, C width, h and w the map's size, N classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmvit_ext.models.backbones.base import Backbone
from mmvit_ext.registry import MODELS

__all__ = ['RIVALS', 'CAMClassifier', 'beyond_rivals', 'check_class_maps', 'class_maps', 'strongest_rivals']

RIVALS = 3  # other classes that a class is compared with by default; measured in docs/gradcat.md
_REMEDY = (
    "expected neck GlobalAveragePooling, or backbone out_type='avg_featmap', before a LinearClsHead, as in "
    'configs/nest, configs/p2t and configs/spformer'
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
    """Indices of the ``count`` other classes, or all, with the highest of the logits ``(N,)``, highest first."""
    others = logits.detach().clone()
    others[label] = -torch.inf
    return others.topk(min(count, len(others) - 1)).indices


def beyond_rivals(values: Tensor, logits: Tensor, label: int, count: int) -> Tensor:
    """The values ``(N, ...)`` of a class minus the mean of those of its ``count`` strongest rivals, if any."""
    rivals = strongest_rivals(logits, label, count)
    return values[label] - values[rivals].mean(0) if len(rivals) else values[label]


@MODELS.register_module()
class CAMClassifier(BaseModel):
    """A classifier of mmpretrain whose predictions hold ``cam``, the class activation map ``(h, w)``.

    It is that of the true class where the sample has one, of the predicted class otherwise (arXiv 1512.04150). It takes
    the place of ``ImageClassifier`` in a config, and its checkpoint as it is; it is not trained.

    Args:
        backbone: Config of the backbone.
        head: Config of a ``LinearClsHead``.
        neck: Config of ``GlobalAveragePooling``; none where the backbone has ``out_type='avg_featmap'``.
        train_cfg: Not used; there so that a classifier's config can be taken over.
        data_preprocessor: Config of the data preprocessor, mmpretrain's ``ClsDataPreprocessor`` when it has no type.
        rivals: How many of the strongest other classes, or all of them where there are fewer, are subtracted from the
            map as a mean; 0 for none.
        init_cfg: Initialisation, mmengine style.

    Shape:
        Input ``(B, 3, H, W)``. ``forward(mode='tensor')`` gives logits ``(B, N)``, ``mode='predict'`` the data samples
        with ``pred_score``, ``pred_label`` and ``cam``.

    Raises:
        ValueError: ``rivals`` is negative, the classifier does not take the mean of a map, or a loss is asked for.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        head: Mapping[str, Any],
        neck: Mapping[str, Any] | None = None,
        *,
        train_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        rivals: int = RIVALS,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if rivals < 0:
            raise ValueError(f'rivals must be 0 or more, got {rivals}')
        super().__init__({'type': 'mmpretrain.ClsDataPreprocessor', **(data_preprocessor or {})}, init_cfg)
        self.backbone = MODELS.build(dict(backbone))
        self.neck = None if neck is None else MODELS.build(dict(neck))
        self.head = MODELS.build(dict(head))
        self.rivals = rivals
        check_class_maps(self)

    def forward(self, inputs: Tensor, data_samples: Sequence[Any] | None = None, mode: str = 'tensor') -> Any:
        """Logits (``tensor``) or samples with classes and maps (``predict``) of normalised images; see the class."""
        if mode not in ('tensor', 'predict'):
            raise ValueError(f"CAMClassifier only predicts, mode must be 'tensor' or 'predict', got {mode!r}")
        logits, maps = class_maps(self, inputs)
        if mode == 'tensor':
            return logits
        if data_samples is None:
            from mmpretrain.structures import DataSample

            data_samples = [DataSample() for _ in range(len(inputs))]
        for scores, found, sample in zip(logits, maps, data_samples, strict=True):
            label = scores.argmax(keepdim=True)
            sample.set_pred_score(scores.softmax(0)).set_pred_label(label)
            chosen = int(torch.as_tensor(sample.get('gt_label', label)).flatten()[0])
            sample.set_field(beyond_rivals(found, scores, chosen, self.rivals), 'cam')
        return list(data_samples)
