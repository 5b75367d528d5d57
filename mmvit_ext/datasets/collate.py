"""Batches of segmentation data whose label maps have been looked at in the data loader's workers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import BaseDataElement

from mmvit_ext.registry import FUNCTIONS

__all__ = ['collate_labels']

MAX_VALUES = 2**16  # up to which they are counted in a table


class PinnableSamples(list):
    """Data samples that a data loader's ``pin_memory`` reaches, from PyTorch 2.2 on; those of mmengine it passes by."""

    def pin_memory(self) -> list[Any]:
        return [_pinned(sample) for sample in self]


@FUNCTIONS.register_module()
def collate_labels(data_batch: Sequence[Any], ignore_index: int = 255) -> Any:
    """Collate as mmengine's ``pseudo_collate`` does, and note which classes occur in each sample's label map.

    They stand in the sample's metainfo as ``classes_present``, so that neither the main process nor the loss has to
    look for them.

    Args:
        data_batch: What the dataset gives for each sample.
        ignore_index: Value of pixels without a label, with which alone label maps may be filled up afterwards.
    """
    batch = pseudo_collate(data_batch)
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    if not isinstance(samples, list) or not all(isinstance(sample, BaseDataElement) for sample in samples):
        return batch  # no labels, or several views of each image
    for sample in samples:
        if 'gt_sem_seg' in sample:
            values = _values(sample.gt_sem_seg.data.numpy())
            sample.set_metainfo({'classes_present': [value for value in values if value != ignore_index]})
    batch['data_samples'] = PinnableSamples(samples)
    return batch


def _values(labels: np.ndarray) -> list[int]:
    least = int(labels.min(initial=0))
    if int(labels.max(initial=0)) - least > MAX_VALUES:
        return [int(value) for value in np.unique(labels)]
    return [int(value) + least for value in np.flatnonzero(np.bincount(labels.ravel() - least))]


def _pinned(element: Any) -> Any:
    if isinstance(element, torch.Tensor):
        return element.pin_memory()
    if not isinstance(element, BaseDataElement):
        return element
    copy = element.new()
    for name, value in element.items():
        copy.set_data({name: _pinned(value)})
    return copy
