"""An image with what the network sees of it, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mmvit_ext.datasets.placement import Box, Placement, find_placement
from mmvit_ext.engine.inference import Predictor

__all__ = ['PlacedImage', 'place_image']


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
