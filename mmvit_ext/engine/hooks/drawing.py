"""Pictures of a run on its visualizer, drawn before the training and every so often, always of the same inputs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvit_ext.errors import UserError
from mmvit_ext.registry import HOOKS

from .reports import bare_model

__all__ = ['DrawingHook', 'SampleHook', 'SuperpixelVisualizationHook']


class DrawingHook(Hook):
    """Decides when to draw; :meth:`draw` draws on the runner's visualizer, after so many iterations or epochs."""

    priority = 'LOW'
    draw: Callable[[Runner, int], None]

    def __init__(self, interval: int, by_epoch: bool) -> None:
        if interval < 1:
            raise ValueError(f'interval must be at least 1, got {interval}')
        self.interval, self.by_epoch = interval, by_epoch

    def before_train(self, runner: Runner) -> None:
        self.draw(runner, runner.epoch if self.by_epoch else runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self.draw(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self.draw(runner, runner.epoch + 1)


@HOOKS.register_module()
class SampleHook(DrawingHook):
    """Draws a grid of images that a generator makes of the same noise, as ``samples``.

    Args:
        interval: Iterations between grids, or epochs, at least 1.
        by_epoch: Whether the interval counts epochs.
        num: Images of a grid, at least 1.
        columns: Images of a row, at least 1.
        seed: Seed of the noise.

    Raises:
        ValueError: An argument is out of range.
        UserError: The model generates no images.
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
            remedy = 'use it with mmvit_ext.AdversarialModel, or take the hook out'
            raise UserError(f'SampleHook draws generated images, {type(model).__name__} generates nothing: {remedy}')
        super().before_train(runner)

    @master_only
    def draw(self, runner: Runner, step: int) -> None:
        from mmvit_ext.inference.sheets import image_grid  # late: the run of another model should not depend on it
        from mmvit_ext.models.generators.adversarial import noise_of

        model = bare_model(runner.model)
        noise = noise_of(self.seed, range(self.num), model.noise_dims)
        images = torch.cat([model.sample(part) for part in noise.split(64)])
        runner.visualizer.add_image('samples', image_grid(images, self.columns), step=step)


@HOOKS.register_module()
class SuperpixelVisualizationHook(DrawingHook):
    """Draws the superpixels of some validation images, as ``superpixels_NAME``.

    The pictures are the montages of ``mmvit explain superpixels``, over the image as the network sees it.

    Args:
        interval: Iterations between pictures, or epochs, at least 1.
        by_epoch: Whether the interval counts epochs.
        indices: Which images of the validation dataset are drawn, from 0.
        edge: Longer edge of each picture of a montage in pixels, 16 to 4096.

    Raises:
        ValueError: An argument is out of range.
        UserError: The model has no superpixels, or there are no such validation images.
    """

    def __init__(
        self, interval: int = 1000, by_epoch: bool = False, indices: Sequence[int] = (0, 1), edge: int = 300
    ) -> None:
        super().__init__(interval, by_epoch)
        if not 16 <= edge <= 4096 or not indices or min(indices) < 0:
            got = f'got {edge} and {tuple(indices)}'
            raise ValueError(f'edge must be 16 to 4096 pixels, indices name validation images, from 0; {got}')
        self.indices, self.edge = tuple(indices), edge

    def before_train(self, runner: Runner) -> None:
        """Check model and data on every process, and draw."""
        from mmvit_ext.interpret.superpixels import find_superpixels

        find_superpixels(bare_model(runner.model), 'SuperpixelVisualizationHook: this model')
        if runner.val_loop is None:
            remedy = 'add val_dataloader, val_cfg and val_evaluator to the config, or take the hook out'
            raise UserError(f'SuperpixelVisualizationHook draws validation images and this run has none: {remedy}')
        number = len(runner.val_loop.dataloader.dataset)
        if max(self.indices) >= number:
            wanted = f'SuperpixelVisualizationHook(indices={self.indices})'
            raise UserError(f'{wanted}: the validation dataset has {number} images, counted from 0')
        super().before_train(runner)

    @master_only
    def draw(self, runner: Runner, step: int) -> None:
        model = bare_model(runner.model)
        # Frozen parts are in evaluation mode while the rest trains, so each module gets its own mode back.
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            for index in self.indices:
                self._draw_image(runner, model, index, step)
        finally:
            for module, training in modes:
                module.training = training

    def _draw_image(self, runner: Runner, model: Any, index: int, step: int) -> None:
        from mmvit_ext.interpret.inputs import picture_of_inputs
        from mmvit_ext.interpret.superpixels import draw_montage, superpixels_of_inputs

        sample = runner.val_dataloader.dataset[index]
        seen = sample['inputs']
        name = f'{index}_{Path(str(sample["data_samples"].metainfo.get("img_path", ""))).stem}'
        inputs = model.data_preprocessor(pseudo_collate([sample]), False)['inputs']
        try:
            found = superpixels_of_inputs(model.backbone, inputs, picture_of_inputs(seen), tuple(seen.shape[-2:]))
        except UserError as error:  # a picture is no reason to end a run
            runner.logger.warning(f'SuperpixelVisualizationHook, image {name}: {error}')
            return
        montage = draw_montage(found, edge=self.edge, title=f'{"epoch" if self.by_epoch else "iteration"} {step}')
        runner.visualizer.add_image(f'superpixels_{name}', np.array(montage), step=step)
