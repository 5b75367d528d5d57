"""Changes to test images under which a model's figures are measured again: turned images, and images partly covered."""

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform

from mmvit_ext.errors.user_error import UserError

from ..registry import TRANSFORMS

__all__ = ['PasteOccluder', 'RotateImage']

MAX_AREA = 0.75  # an ellipse inside a rectangle covers no more than a quarter of pi of it


@TRANSFORMS.register_module()
class RotateImage(BaseTransform):
    """Turns image and label map about their middle by a given angle; their sizes stay.

    It belongs behind all steps that load or resize. The label map may have another size than the image, but must have
    its proportions.

    Args:
        angle: Degrees, clockwise.
        fill: Colour of what no image lies under, in the image's channel order; the mean of ImageNet in BGR by default.
            An image of another number of channels gets the mean of these in each of its channels.
        ignore_index: Label of what no label lies under.
    """

    def __init__(self, angle: float, fill: Sequence[int] = (104, 116, 124), ignore_index: int = 255) -> None:
        self.angle, self.fill, self.ignore_index = float(angle), tuple(fill), ignore_index

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Turn ``img`` (H, W) or (H, W, C) and, where there is one, ``gt_seg_map`` (H, W)."""
        if self.angle % 360 == 0:
            return results
        image = results['img']
        planes = image[..., None] if image.ndim == 2 else image
        one_each = planes.shape[2] == len(self.fill)
        fill: Sequence[float] = self.fill if one_each else [float(np.mean(self.fill))] * planes.shape[2]
        turned = [
            mmcv.imrotate(np.ascontiguousarray(plane), self.angle, border_value=value * _brightness(image))
            for plane, value in zip(np.moveaxis(planes, 2, 0), fill, strict=True)
        ]
        results['img'] = np.stack(turned, -1).reshape(image.shape)
        labels = results.get('gt_seg_map')
        if labels is not None:
            _check_proportions(results['img'], labels, results)
            results['gt_seg_map'] = mmcv.imrotate(
                labels, self.angle, border_value=self.ignore_index, interpolation='nearest'
            )
        return results


@TRANSFORMS.register_module()
class PasteOccluder(BaseTransform):
    """Covers an ellipse of an image with noise about a random colour.

    Place and colour depend on the name of the image and the seed alone, so every model sees the same.

    Args:
        area: Share of the image that is covered, 0 to 0.75.
        seed: Of place and colour, 0 or more.
        ignore_index: Label of what is covered: what cannot be seen is not asked for.

    Raises:
        ValueError: The area is out of range.
    """

    def __init__(self, area: float, seed: int = 0, ignore_index: int = 255) -> None:
        if not 0 <= area <= MAX_AREA:
            raise ValueError(f'area must be 0 to {MAX_AREA}, a share of the image, got {area}')
        self.area, self.seed, self.ignore_index = float(area), seed, ignore_index

    def mask(self, path: str, size: tuple[int, int]) -> np.ndarray:
        """Which pixels of the image at ``path`` are covered, boolean (H, W); any ``size`` gives the same place."""
        centre, radius = self._generator(path).random(2), math.sqrt(self.area / math.pi)
        y0, x0 = radius + centre * (1 - 2 * radius)
        y, x = ((np.arange(edge) + 0.5) / edge for edge in size)
        return (y[:, None] - y0) ** 2 + (x[None] - x0) ** 2 < radius**2

    def _generator(self, path: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(Path(path).name.encode())])

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Cover a part of ``img`` (H, W) or (H, W, C) and, where there is one, of ``gt_seg_map`` (H, W)."""
        if self.area == 0:
            return results
        path, image = results['img_path'], results['img']
        generator = self._generator(path)
        generator.random(2)  # the place comes first
        colour = generator.integers(30, 226, image.shape[2:])
        noise = generator.integers(-25, 26, image.shape)
        covered = self.mask(path, image.shape[:2]).reshape(*image.shape[:2], *[1] * (image.ndim - 2))
        results['img'] = np.where(covered, (colour + noise) * _brightness(image), image).astype(image.dtype)
        labels = results.get('gt_seg_map')
        if labels is not None:
            _check_proportions(image, labels, results)
            hidden = self.mask(path, labels.shape[:2])
            results['gt_seg_map'] = np.where(hidden, self.ignore_index, labels).astype(labels.dtype)
        return results


def _brightness(image: np.ndarray) -> float:
    """What a colour of 8 bit is multiplied with in an image of a larger range."""
    return max(float(image.max()), 255.0) / 255


def _check_proportions(image: np.ndarray, labels: np.ndarray, results: dict[str, Any]) -> None:
    (h, w), (H, W) = image.shape[:2], labels.shape[:2]
    # Rounding to whole pixels moves an edge by less than one.
    if abs(h * W - w * H) > max(h, w, H, W):
        sizes = f'has been brought to {w}x{h} pixels and its label map is {W}x{H}, of other proportions'
        raise UserError(f'the image {results.get("img_path")} {sizes}: use Resize with keep_ratio=True and no crop')
