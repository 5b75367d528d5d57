"""An image as the network sees it, and as a picture to draw on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmvit_ext.datasets.placement import Box, Placement, find_placement
from mmvit_ext.inference.predictor import Predictor

__all__ = [
    'PlacedImage',
    'network_inputs',
    'picture_of_inputs',
    'place_image',
]


@dataclass(frozen=True)
class PlacedImage:
    """An image and a network's input.

    Args:
        image: RGB (H, W, 3), as it is in the file.
        inputs: Normalised (1, 3, h, w), perhaps padded below and on the right.
        placement: From the image to the input.
    """

    image: np.ndarray
    inputs: Tensor
    placement: Placement

    @property
    def seen(self) -> Box:
        """The part of the image that the network sees, in pixels of the image."""
        height, width = self.placement.input_size
        return self.placement.to_image((0, 0, width, height))


def place_image(predictor: Predictor, path: str | Path) -> PlacedImage:
    """Read an image for a network and find out where its pixels go.

    Args:
        predictor: The model with its test pipeline.
        path: The image file.

    Returns:
        The image with inputs and placement.

    Raises:
        UserError: The file cannot be read, or the pipeline does what cannot be undone.
    """
    image, batch = predictor.prepare(path)
    model: Any = predictor.model
    inputs = model.data_preprocessor(batch, False)['inputs']
    placement = find_placement(predictor.transform, (image.shape[0], image.shape[1]))
    return PlacedImage(image, inputs, placement)


def network_inputs(predictor: Predictor, path: str | Path) -> tuple[np.ndarray, Tensor, tuple[int, int]]:
    """Read an image for a network.

    Args:
        predictor: The model with its test pipeline.
        path: The image file.

    Returns:
        The picture that the network sees (H, W, 3; RGB): the image of a segmentor or detector at its own size, and of
        a classifier, whose test pipeline cuts the image, what is left of it; the normalised inputs (1, 3, h, w),
        perhaps padded below and on the right; height and width of the picture in these inputs, padding not counted.

    Raises:
        UserError: The file cannot be read.
    """
    image, batch = predictor.prepare(path)
    seen = batch['inputs'][0]
    if predictor.scope == 'mmpretrain':
        image = picture_of_inputs(seen)
    model: Any = predictor.model
    inputs = model.data_preprocessor(batch, False)['inputs']
    return image, inputs, (int(seen.shape[-2]), int(seen.shape[-1]))


def picture_of_inputs(inputs: Tensor, channel_order: str = 'bgr') -> np.ndarray:
    """An image as a data loader gives it, as a picture.

    Args:
        inputs: The image before normalisation (3, H, W), 0 to 255.
        channel_order: Of the image, ``'bgr'`` or ``'rgb'``.

    Returns:
        RGB (H, W, 3), 8 bit.
    """
    picture = inputs.detach().permute(1, 2, 0).clamp(0, 255).round().to(torch.uint8).cpu().numpy()
    return np.ascontiguousarray(picture[..., ::-1] if channel_order == 'bgr' else picture)
