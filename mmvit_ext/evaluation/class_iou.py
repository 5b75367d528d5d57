"""mmseg's IoU metric with the figures of every class among its results, so that records hold them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmseg.evaluation import IoUMetric
from torch import Tensor

from mmvit_ext.registry import METRICS

__all__ = ['ClassIoUMetric']


@METRICS.register_module()
class ClassIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric`` that also returns each class: ``IoU/car`` beside ``mIoU``, ``Dice/car`` beside ``mDice``.

    Per cent, as the means. A class that occurs neither in a label nor in a prediction has no figure.

    Args:
        **kwargs: As those of mmseg's ``IoUMetric``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def compute_metrics(self, results: Sequence[tuple[Tensor, ...]]) -> dict[str, float]:
        metrics = super().compute_metrics(results)
        if not metrics:
            return metrics  # predictions were written for a server
        areas = [sum(parts) for parts in zip(*results, strict=True)]
        figures = self.total_area_to_metrics(*areas, self.metrics, self.nan_to_num, self.beta)
        for name in figures.keys() - {'aAcc'}:
            for label, value in zip(self.dataset_meta['classes'], figures[name], strict=True):
                if np.isfinite(value):
                    metrics[f'{name}/{label}'] = round(100 * float(value), 2)
        return metrics
