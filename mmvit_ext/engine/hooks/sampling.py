"""Watching a generator learn: images of the same noise again and again during training."""

from __future__ import annotations

import torch
from mmengine.dist import master_only
from mmengine.runner import Runner

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.sheets import image_grid
from mmvit_ext.registry import HOOKS

from .drawing import DrawingHook
from .reports import bare_model

__all__ = [
    'SampleHook',
]


@HOOKS.register_module()
class SampleHook(DrawingHook):
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

    def __init__(
        self, interval: int = 1000, by_epoch: bool = False, num: int = 64, columns: int = 8, seed: int = 0
    ) -> None:
        super().__init__(interval, by_epoch)
        if min(num, columns) < 1 or seed < 0:
            raise ValueError(f'num and columns must be at least 1 and seed 0 or more, got {num}, {columns}, {seed}')
        self.num, self.columns, self.seed = num, columns, seed

    def before_train(self, runner: Runner) -> None:
        """Check the model on every process, and draw."""
        model = bare_model(runner.model)
        if not hasattr(model, 'sample'):
            raise UserError(
                f'SampleHook draws what a generator makes and {type(model).__name__} generates nothing: '
                'use it with mmvit_ext.AdversarialModel, or take the hook out'
            )
        super().before_train(runner)

    @master_only
    def draw(self, runner: Runner, step: int) -> None:
        """Draw a grid of samples."""
        from mmvit_ext.models.generators.adversarial import noise_of

        model = bare_model(runner.model)
        noise = noise_of(self.seed, range(self.num), model.noise_dims)
        images = torch.cat([model.sample(part) for part in noise.split(64)])
        runner.visualizer.add_image('samples', image_grid(images, self.columns), step=step)
