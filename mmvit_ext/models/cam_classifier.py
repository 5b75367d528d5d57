"""A classifier that keeps the class activation map of its images."""

from __future__ import annotations

from typing import Any

import torch
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor

from mmvit_ext.models.layers.class_maps import RIVALS, class_maps, strongest_rivals
from mmvit_ext.registry import MODELS

__all__ = ['CAMClassifier']


@MODELS.register_module()
class CAMClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier`` whose predictions hold ``cam``, the class activation map ``(h, w)``.

    It is that of the true class where the sample has one, of the predicted class otherwise (arXiv 1512.04150). The
    checkpoint of the classifier is taken as it is. The head has to take the mean of a map; see
    :func:`mmvit_ext.models.layers.class_maps.class_maps`.

    Args:
        backbone: the backbone, or its config.
        neck: ``GlobalAveragePooling`` or none, or its config.
        head: ``LinearClsHead``, or its config.
        pretrained: checkpoint to begin with.
        train_cfg: how batches are mixed in training, mmpretrain style.
        data_preprocessor: config of the data preprocessor.
        init_cfg: initialisation, mmengine style.
        rivals: how many other classes, those with the highest logits, are subtracted from the map as a mean; 0 for the
            class alone.

    Raises:
        ValueError: if ``rivals`` is negative; at the first prediction, if the classifier does not take the mean of a
            map.
    """

    def __init__(
        self,
        backbone: Any,
        neck: Any = None,
        head: Any = None,
        pretrained: str | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: Any = None,
        init_cfg: dict | None = None,
        rivals: int = RIVALS,
    ) -> None:
        super().__init__(backbone, neck, head, pretrained, train_cfg, data_preprocessor, init_cfg)
        if rivals < 0:
            raise ValueError(f'rivals must be 0 or more, got {rivals}')
        self.rivals = rivals

    def predict(self, inputs: Tensor, data_samples: list[DataSample] | None = None, **_: Any) -> list[DataSample]:
        """Classes and maps of images.

        Args:
            inputs: normalised images ``(B, 3, H, W)``.
            data_samples: samples to complete; new ones when not given.

        Returns:
            the samples with ``pred_score``, ``pred_label`` and ``cam``.
        """
        logits, maps = class_maps(self, inputs)
        samples = data_samples or [DataSample() for _ in range(len(inputs))]
        for scores, found, sample in zip(logits, maps, samples, strict=True):
            label = scores.argmax(keepdim=True)
            sample.set_pred_score(scores.softmax(0)).set_pred_label(label)
            known = sample.get('gt_label')
            chosen = int(label) if known is None else int(torch.as_tensor(known).flatten()[0])
            cam = found[chosen]
            if self.rivals:
                cam = cam - found[strongest_rivals(scores, chosen, self.rivals)].mean(0)
            sample.set_field(cam, 'cam')
        return list(samples)
