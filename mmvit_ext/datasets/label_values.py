"""Which value or colour of a label map is which class."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from .label_range import count_values

__all__ = ['ClassValues', 'pack_colours', 'unpack_colour']


def pack_colours(pixels: np.ndarray) -> np.ndarray:
    """Colours (..., 3) as one number each, red in the highest byte."""
    return pixels[..., :3].astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def unpack_colour(colour: Any) -> tuple[Any, Any, Any]:
    """Red, green and blue of a packed colour."""
    return colour >> 16, colour >> 8 & 255, colour & 255


class ClassValues:
    """The value, or the colour as ``'#rrggbb'``, of each class in label maps, and what else is no mistake there."""

    def __init__(self, values: Sequence[int | str], ignored: Sequence[int], tolerance: int) -> None:
        self.colours = any(isinstance(value, str) for value in values)
        if not all(re.fullmatch('#[0-9a-fA-F]{6}' if self.colours else '[0-9]+', str(value)) for value in values):
            raise ValueError(f"values has to list numbers, or colours as '#rrggbb', got {list(values)}")
        self.keys = np.array([int(str(value).lstrip('#'), 16 if self.colours else 10) for value in values])
        if not 1 <= len(self.keys) <= 255 or len(set(self.keys.tolist())) < len(self.keys):
            raise ValueError(f'values has to list 1 to 255 different values, got {list(values)}')
        if not 0 <= tolerance <= 255:
            raise ValueError(f'tolerance has to be 0 to 255, got {tolerance}')
        self.ignored, self.tolerance = ignored, tolerance

    def prepare(self, image: Image.Image) -> Image.Image:
        """The picture with colours where they are the classes, and with whole numbers elsewhere."""
        grey = image.mode in ('F', 'LA')
        return image.convert('RGB' if self.colours else 'L') if self.colours or grey else image

    def flatten(self, raw: np.ndarray) -> np.ndarray:
        """One number for each pixel (H, W): a colour's, or the grey value of a picture saved in colour."""
        if self.colours:
            return pack_colours(raw)
        return raw[..., 0] if raw.ndim == 3 and (raw[..., :1] == raw[..., :3]).all() else raw

    def to_classes(self, raw: np.ndarray, ignore_index: int) -> np.ndarray:
        """Class indices (H, W; uint8) for the values in a file (H, W)."""
        if self.tolerance:
            return self._nearest(raw, ignore_index)
        order = np.argsort(self.keys)
        place = np.searchsorted(self.keys[order], raw).clip(max=len(order) - 1)
        return np.where(self.keys[order][place] == raw, order[place], ignore_index).astype(np.uint8)

    def _nearest(self, raw: np.ndarray, ignore_index: int) -> np.ndarray:
        labels = np.full(raw.shape, ignore_index, np.uint8)
        least = np.full(raw.shape, self.tolerance + 1)
        pixels = np.stack(unpack_colour(raw) if self.colours else [raw]).astype(int)
        for number, key in enumerate(self.keys.tolist()):
            places = np.array(unpack_colour(key) if self.colours else [key])
            distance = abs(pixels - places[:, None, None]).max(0)
            labels[distance < least] = number
            least = np.minimum(least, distance)
        labels[np.isin(raw, np.array(self.ignored, int)) & ~np.isin(raw, self.keys)] = ignore_index
        return labels

    def wrong(self, raw: np.ndarray, ignore_index: int) -> dict[int, int]:
        """Number of pixels by value of those that are neither a class nor "no label"."""
        if self.colours or self.tolerance:
            return {}
        wrong = ~np.isin(raw, np.array([*self.keys, *self.ignored, ignore_index]))
        return count_values(raw[wrong]) if wrong.any() else {}
