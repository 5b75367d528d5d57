"""Localisation by a classifier that has seen labels of images only: a box around what a class activation map shows.

Paper: Learning Deep Features for Discriminative Localization, Zhou et al., CVPR 2016, arXiv 1512.04150. The largest
connected piece of the map above a share of its range gives the box; "GT-known" takes that of the true class.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.interpret.cam import THRESHOLD, box_from_map, upsample_map
from mmvit_ext.registry import METRICS

__all__ = ['CAMLocalization', 'box_iou']

NEEDED = {
    'cam': "take model.type='mmvit_ext.CAMClassifier'",
    'boxes': "load them with mmvit_ext.LoadBoxes, PackInputs(meta_keys=('boxes', ...))",
    'placement': "put what resizes and cuts into mmvit_ext.TrackPlacement, PackInputs(meta_keys=('placement', ...))",
}


def box_iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom); 0 where both are empty."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    either = sum(max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0) for box in (one, other)) - both
    return both / either if either > 0 else 0.0


@METRICS.register_module()
class CAMLocalization(BaseMetric):
    """How often the box of the true class's activation map meets a true box.

    The model is a ``mmvit_ext.CAMClassifier``, and the test pipeline has ``mmvit_ext.LoadBoxes`` and
    ``mmvit_ext.TrackPlacement``. It gives ``gt_known``, the share of images in per cent whose box has enough IoU with a
    true one, ``top1``, the share of those whose predicted class is right, too, and ``mean_iou``.

    Args:
        threshold: Of the map, see :func:`box_from_map`.
        iou: Least IoU of a hit, above 0 to 1.
        **kwargs: As those of mmengine's ``BaseMetric``.

    Raises:
        ValueError: An argument is out of range.
        UserError: An image lacks its map, its true boxes or its placement.
    """

    default_prefix = 'cam'

    def __init__(self, threshold: float = THRESHOLD, *, iou: float = 0.5, **kwargs: Any) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(f'threshold must be a share from 0 to below 1, got {threshold}')
        if not 0 < iou <= 1:
            raise ValueError(f'iou must be above 0 to 1, got {iou}')
        super().__init__(**kwargs)
        self.threshold, self.iou = threshold, iou

    def process(self, data_batch: Mapping[str, Any], data_samples: Sequence[Mapping[str, Any]]) -> None:
        for sample in data_samples:
            for name, remedy in NEEDED.items():
                if name not in sample:
                    raise UserError(f'CAMLocalization needs {name} of {sample.get("img_path", "each image")}: {remedy}')
            placement = sample['placement']
            cam = upsample_map(sample['cam'], placement.input_size)
            box = placement.to_image(box_from_map(cam, self.threshold))
            best = max((box_iou(box, true) for true in sample['boxes']), default=0.0)
            right = int(sample['pred_label']) == int(sample['gt_label'])
            self.results.append((best, right))

    def compute_metrics(self, results: list) -> dict[str, float]:
        best, right = np.array(results).T
        hits = best >= self.iou
        shares = {'gt_known': 100 * hits.mean(), 'top1': 100 * (hits * right).mean(), 'mean_iou': best.mean()}
        return {name: float(share) for name, share in shares.items()}
