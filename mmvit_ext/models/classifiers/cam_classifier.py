"""A classifier that keeps the class activation map of its images."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from mmvit_ext.models.classifiers.class_maps import RIVALS, check_class_maps, class_maps, strongest_rivals
from mmvit_ext.registry import MODELS

__all__ = ['CAMClassifier']


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
        rivals: How many of the strongest other classes are subtracted from the map as a mean; 0 for none.
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
            cam = found[chosen]
            if self.rivals:
                cam = cam - found[strongest_rivals(scores, chosen, self.rivals)].mean(0)
            sample.set_field(cam, 'cam')
        return list(data_samples)
