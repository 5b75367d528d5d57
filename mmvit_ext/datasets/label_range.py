"""The range of the values in a label map: which are outside the classes, and the sentence that names them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmvit_ext.errors.user_error import UserError

__all__ = ['count_values', 'labels_outside', 'range_error']

_SHOWN_VALUES = 5


def range_error(where: Any, wrong: Mapping[int, int], num_classes: int, expected: str, remedy: str) -> UserError:
    """The error for a label map with values outside the classes, ``wrong`` being the number of pixels by value."""
    listed = [f'{value} ({pixels} px)' for value, pixels in wrong.items()]
    more = len(listed) - _SHOWN_VALUES
    shown = ', '.join(listed[:_SHOWN_VALUES]) + (f' and {more} more' if more > 0 else '')
    return UserError(
        f'the label map {where} has values outside the {num_classes} classes: {shown}; expected {expected}; {remedy}'
    )


def count_values(values: np.ndarray) -> dict[int, int]:
    """How often each value occurs, in ascending order."""
    found, pixels = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), pixels.tolist(), strict=True))


def labels_outside(labels: Any, num_classes: int, ignore_index: int) -> dict[int, int]:
    """Number of pixels by value of those in a tensor of class indices, counted from 0, that are no class."""
    wrong = (labels >= num_classes) & (labels != ignore_index)
    return count_values(labels[wrong].cpu().numpy()) if wrong.any() else {}
