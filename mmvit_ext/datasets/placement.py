"""Where the pixels of an image lie after its pipeline, and true boxes of objects.

A picture whose colours are its coordinates goes through the same steps; from where its colours are found afterwards,
scale and shift are read. So every pipeline that resizes, cuts, pads or mirrors can be undone, whoever wrote its steps.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose

from mmvit_ext.errors.user_error import UserError

from ..registry import TRANSFORMS

__all__ = ['Box', 'LoadBoxes', 'Placement', 'TrackPlacement', 'find_placement']

Box = tuple[float, float, float, float]  # left, top, right and bottom in pixels, the last two exclusive
LEVELS = 255  # the colour of the right and the bottom edge
TRUSTED = (3, 252)  # colours that are fitted: neither white or black padding nor what interpolation overshoots


@dataclass(frozen=True)
class Placement:
    """Scale and shift from an image to a network's input: ``x' = scale x + shift``, for each axis."""

    scale: tuple[float, float]  # of x and y; negative where the image is mirrored
    shift: tuple[float, float]  # of x and y, in pixels of the input
    image_size: tuple[int, int]  # height and width
    input_size: tuple[int, int]

    def to_image(self, box: Sequence[float]) -> Box:
        """A box of the input in pixels of the image, cut at the image's edges."""
        return _sorted((np.reshape(box, (2, 2)) - self.shift) / self.scale, self.image_size)

    def to_input(self, box: Sequence[float]) -> Box:
        """A box of the image in pixels of the input, cut at the input's edges."""
        return _sorted(np.reshape(box, (2, 2)) * self.scale + self.shift, self.input_size)


def _sorted(corners: np.ndarray, size: tuple[int, int]) -> Box:
    (left, top), (right, bottom) = np.clip(np.sort(corners, axis=0), 0, size[::-1]).tolist()
    return left, top, right, bottom


def find_placement(steps: Callable[[dict[str, Any]], Any], shape: tuple[int, ...]) -> Placement:
    """Find where steps that return ``inputs`` (C, H, W) or ``img`` (H, W, C) put an image of shape (H, W[, C])."""
    H, W = shape[:2]
    planes = np.full((H, W, 3), LEVELS, dtype=np.uint8)
    planes[..., 0] = np.rint((np.arange(W) + 0.5) * LEVELS / W)
    planes[..., 1] = np.rint((np.arange(H) + 0.5)[:, None] * LEVELS / H)
    channels = shape[2] if len(shape) > 2 else 1
    found = []
    for start in range(0, 3, channels):  # as many of the three at a time as an image has channels, the last one again
        picture = planes[..., [min(plane, 2) for plane in range(start, start + channels)]].reshape(shape)
        moved = steps({'img': picture, 'img_shape': (H, W), 'ori_shape': (H, W), 'img_path': '', 'img_id': 0})
        found.append(moved['inputs'].numpy().transpose(1, 2, 0) if 'inputs' in moved else moved['img'])
    colours = np.dstack(found)[..., :3]
    height, width = colours.shape[:2]
    inside = ((colours[..., :2] > TRUSTED[0]) & (colours[..., :2] < TRUSTED[1])).all(-1)
    rows, columns = np.nonzero(inside & (colours[..., 2] >= TRUSTED[1]))
    if len(set(rows)) < 2 or len(set(columns)) < 2:
        left = f'too little of it is left in {height}x{width} pixels: normalise colours in the data_preprocessor'
        raise UserError(f'where the test pipeline puts an image of {H}x{W} pixels cannot be told, {left}')
    places = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], 1)
    values = colours[rows, columns, :2].astype(np.float64)
    fit, *_ = np.linalg.lstsq(places, values, rcond=None)
    error = places @ fit - values
    # Colours come in whole steps, and a nearest neighbour is off by half a pixel of the image.
    bound = 2 + 0.5 * LEVELS / np.array([W, H])
    turned = np.abs([fit[1, 0] * height, fit[0, 1] * width])
    if (np.sqrt((error**2).mean(0)) > bound).any() or (turned > bound).any():
        remedy = 'leave out those that turn it or change its colours'
        raise UserError(f'the test pipeline may only have steps that resize, cut, pad or mirror an image: {remedy}')
    per_input = fit.diagonal() * [W, H] / LEVELS  # pixels of the image per pixel of the input
    scale, shift = 1 / per_input, -fit[2] * [W, H] / LEVELS / per_input
    return Placement(tuple(scale.tolist()), tuple(shift.tolist()), (H, W), (height, width))


@TRANSFORMS.register_module()
class TrackPlacement(BaseTransform):
    """Runs steps that resize, cut, pad or mirror an image, and notes where they put it.

    The :class:`Placement` is under ``placement``; let ``PackInputs`` keep it with ``meta_keys=('placement', ...)``.

    Args:
        transforms: Configs of the steps; nothing random.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any]]) -> None:
        self.steps = Compose([dict(step) for step in transforms])

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Run the steps on a sample with ``img`` (H, W) or (H, W, C) and add ``placement``."""
        placement = find_placement(self.steps, results['img'].shape)
        done = self.steps(results)
        if done is not None:
            done['placement'] = placement
        return done


@TRANSFORMS.register_module()
class LoadBoxes(BaseTransform):
    """Looks up the true boxes of an image's objects in a file above the image.

    The file is the one that ``tools/make_mini_dataset.py`` writes: ``{"images": {"val/CLASS/NAME.JPEG": {"boxes":
    [[left, top, right, bottom], ...]}, ...}}``, names relative to the file's folder, pixels of the image, the last two
    edges exclusive. They come under ``boxes``; let ``PackInputs`` keep them with ``meta_keys=('boxes', ...)``.

    Args:
        name: Name of the file; the nearest one in the folders above the image counts.

    Raises:
        UserError: There is no such file, or it has no entry for the image.
    """

    def __init__(self, name: str = 'boxes.json') -> None:
        self.name = name
        self._known: dict[Path, dict[str, Any]] = {}

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``boxes`` (n, 4) of the image at ``img_path``."""
        if 'img_path' not in results:  # an image that comes from no dataset
            return results
        path = Path(results['img_path']).absolute()
        file = next((folder / self.name for folder in path.parents if (folder / self.name).is_file()), None)
        if file is None:
            remedy = 'localisation needs true boxes, tools/make_mini_dataset.py writes such a file'
            raise UserError(f'there is no {self.name} in a folder above {path}: {remedy}')
        if file not in self._known:
            try:
                self._known[file] = json.loads(file.read_text())['images']
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f'{file} holds no boxes: expected JSON with "images", write it again') from error
        name = path.relative_to(file.parent).as_posix()
        if name not in self._known[file]:
            raise UserError(f'{file} has no entry for {name}: expected one for each image that is measured')
        results['boxes'] = np.asarray(self._known[file][name]['boxes'], dtype=np.float64).reshape(-1, 4)
        return results
