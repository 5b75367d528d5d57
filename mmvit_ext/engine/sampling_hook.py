"""Watching a generator learn: images of the same noise again and again during training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from ..registry import HOOKS
from .errors import UserError

__all__ = ['SampleHook', 'image_grid']


def image_grid(images: Tensor, columns: int, gap: int = 2) -> np.ndarray:
    """Images in rows and columns on white, as a picture.

    Args:
        images: ``(N, 3, H, W)``, RGB, ``uint8``, at least one.
        columns: images of a row, at least 1.
        gap: pixels between and around the images.

    Returns:
        ``(height, width, 3)``, RGB, ``uint8``.
    """
    N, _, H, W = images.shape
    columns = min(columns, N)
    rows = -(-N // columns)
    picture = np.full((rows * (H + gap) + gap, columns * (W + gap) + gap, 3), 255, dtype=np.uint8)
    for place, image in enumerate(images.permute(0, 2, 3, 1).cpu().numpy()):
        top, left = gap + place // columns * (H + gap), gap + place % columns * (W + gap)
        picture[top : top + H, left : left + W] = image
    return picture


@HOOKS.register_module()
class SampleHook(Hook):
    """Writes a grid of generated images before the training and during it, always of the same noise.

    The grids go to the visualizer of the run: with its usual ``LocalVisBackend`` to
    ``vis_data/vis_image/samples_STEP.png`` in the run's folder, with a ``TensorboardVisBackend`` to TensorBoard.

    Args:
        interval: iterations between grids, or epochs, at least 1.
        by_epoch: whether the interval counts epochs.
        num: images of a grid, at least 1.
        columns: images of a row, at least 1.
        seed: of the noise.

    Raises:
        ValueError: an argument is out of range.
        UserError: the model generates no images.
    """

    priority = 'LOW'

    def __init__(
        self, interval: int = 1000, by_epoch: bool = False, num: int = 64, columns: int = 8, seed: int = 0
    ) -> None:
        if min(interval, num, columns) < 1 or seed < 0:
            raise ValueError(
                f'interval, num and columns must be at least 1 and seed 0 or more, got {interval}, {num}, {columns}, '
                f'{seed}'
            )
        self.interval, self.by_epoch, self.num, self.columns, self.seed = interval, by_epoch, num, columns, seed

    def before_train(self, runner: Runner) -> None:
        """Check the model on every process, and draw."""
        if not hasattr(_bare(runner.model), 'sample'):
            raise UserError(
                f'SampleHook draws what a generator makes and {type(_bare(runner.model)).__name__} generates nothing: '
                'use it with mmvit_ext.AdversarialModel, or take the hook out'
            )
        self._draw(runner, runner.epoch if self.by_epoch else runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Draw every ``interval`` iterations."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._draw(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Draw every ``interval`` epochs."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._draw(runner, runner.epoch + 1)

    @master_only
    def _draw(self, runner: Runner, step: int) -> None:
        from mmvit_ext.models.generators.adversarial import noise_of

        model = _bare(runner.model)
        noise = noise_of(self.seed, range(self.num), model.noise_dims)
        images = torch.cat([model.sample(part) for part in noise.split(64)])
        runner.visualizer.add_image('samples', image_grid(images, self.columns), step=step)


def _bare(model: Any) -> Any:
    return model.module if is_model_wrapper(model) else model
