"""An image as a network sees it, and as a picture to draw on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mmvit_ext.datasets.placement import Box, Placement, find_placement
from mmvit_ext.inference.drawing import as_picture
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.models.backbones.base import Backbone

__all__ = ['OpenedImage', 'PlacedImage', 'names_run', 'picture_of_inputs']


@dataclass(frozen=True)
class PlacedImage:
    """An image and a network's input."""

    image: np.ndarray  # RGB (H, W, 3), as it is in the file
    inputs: Tensor  # normalised (1, C, h, w), perhaps padded below and on the right
    placement: Placement  # from the image to the input

    @property
    def seen(self) -> Box:
        """The part of the image that the network sees, in pixels of the image."""
        height, width = self.placement.input_size
        return self.placement.to_image((0, 0, width, height))

    def told(self, box: Box | None) -> list[float] | None:
        """A box of the input in pixels of the image, as the facts about an image have it."""
        return None if box is None else [round(value, 1) for value in self.placement.to_image(box)]


class OpenedImage:
    """An image file, or what :meth:`Predictor.load` returned of it, and what a model makes of it."""

    def __init__(self, predictor: Predictor, source: str | Path | Mapping[str, Any]) -> None:
        self.predictor = predictor
        self.loaded = predictor.load(source) if isinstance(source, str | Path) else source
        self.image, batch = predictor.prepare(self.loaded)  # RGB (H, W, 3), as it is in the file
        model: Any = predictor.model
        self._before = batch['inputs'][0]
        data = model.data_preprocessor(batch, False)
        self.inputs: Tensor = data['inputs']  # normalised (1, C, h, w), perhaps padded below and on the right
        self.samples: list[Any] = data.get('data_samples') or []
        self.input_size = (int(self._before.shape[-2]), int(self._before.shape[-1]))  # of the image, without padding

    @cached_property
    def placed(self) -> PlacedImage:
        """The image with its place in the inputs; a ``UserError`` where the pipeline does what cannot be undone."""
        placement = find_placement(self.predictor.transform, self.loaded['img'].shape)
        return PlacedImage(self.image, self.inputs, placement)

    @property
    def picture(self) -> np.ndarray:
        """What the network sees, RGB (H, W, 3): the image, or what the test pipeline of a classifier leaves of it."""
        return picture_of_inputs(self._before) if self.predictor.scope == 'mmpretrain' else self.image


def names_run(backbone: Backbone) -> list[str]:
    """The maps that the outputs count, from the lowest to the last one that runs."""
    return [name for name in backbone.stage_names[: max(backbone.out_indices) + 1] if name in backbone.block_names]


def picture_of_inputs(inputs: Tensor, channel_order: str = 'bgr') -> np.ndarray:
    """An image as a data loader gives it (C, H, W), ``'bgr'`` or ``'rgb'``, as RGB (H, W, 3), 8 bit."""
    return as_picture(inputs.detach().permute(1, 2, 0).cpu().numpy(), channel_order)
