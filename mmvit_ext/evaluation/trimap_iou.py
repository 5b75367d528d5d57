"""mIoU near the edges of labels: mmseg's metric on a thin band, known as the trimap protocol.

Kohli et al., Robust Higher Order Potentials for Enforcing Label Consistency (2009), section 5: only pixels close to
an edge between two labels are counted, so that the figure shows how well outlines are met.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.evaluation import IoUMetric
from torch import Tensor

from mmvit_ext.registry import METRICS

__all__ = ['TrimapIoUMetric', 'trimap']


def trimap(label: Tensor, width: int, ignore_index: int = 255) -> Tensor:
    """Which pixels of a label map ``(H, W)`` have a pixel of another class, unlabelled ones apart, within ``width``."""
    labelled = label != ignore_index
    values = label[None].double()
    # Unlabelled pixels can be neither the largest nor the smallest around.
    largest = F.max_pool2d(values.masked_fill(~labelled, float('-inf')), 2 * width + 1, 1, width)
    smallest = -F.max_pool2d((-values).masked_fill(~labelled, float('-inf')), 2 * width + 1, 1, width)
    return labelled & (largest != smallest)[0]


@METRICS.register_module()
class TrimapIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric`` on the pixels near label edges alone, with results called ``trimap/mIoU`` and so on.

    Args:
        width: How far from a pixel of another class, in pixels of the label map, also diagonally; at least 1.
        ignore_index: Value of pixels without a label.
        **kwargs: As those of mmseg's ``IoUMetric``, but ``output_dir`` and ``format_only``.

    Raises:
        ValueError: If ``width`` is below 1, or predictions are to be written.
    """

    default_prefix = 'trimap'

    def __init__(self, width: int = 3, *, ignore_index: int = 255, **kwargs: Any) -> None:
        if width < 1:
            raise ValueError(f'width must be at least 1 pixel, got {width}')
        if kwargs.get('output_dir') or kwargs.get('format_only'):
            raise ValueError('output_dir and format_only are for mmseg.IoUMetric: put one beside this metric')
        super().__init__(ignore_index, **kwargs)
        self.width = width

    def process(self, data_batch: Mapping[str, Any], data_samples: Sequence[Mapping[str, Any]]) -> None:
        num_classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            predicted = sample['pred_sem_seg']['data'].squeeze()
            label = sample['gt_sem_seg']['data'].squeeze().to(predicted)
            near = trimap(label, self.width, self.ignore_index)
            label = torch.where(near, label, torch.full_like(label, self.ignore_index))
            self.results.append(self.intersect_and_union(predicted, label, num_classes, self.ignore_index))
