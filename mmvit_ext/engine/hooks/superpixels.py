"""Watching superpixels come into being: pictures of the same images again and again during training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import pseudo_collate
from mmengine.dist import master_only
from mmengine.runner import Runner

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.registry import HOOKS

from .drawing import DrawingHook
from .reports import bare_model

__all__ = [
    'SuperpixelVisualizationHook',
]


@HOOKS.register_module()
class SuperpixelVisualizationHook(DrawingHook):
    """Draws the superpixels of some validation images before the training and during it.

    The pictures are the montages of ``tools/explain.py superpixels``, over the image as the network sees it. They go
    to the visualizer of the run: with its usual ``LocalVisBackend`` to ``vis_data/vis_image/superpixels_NAME_STEP.png``
    in the run's folder, with a ``TensorboardVisBackend`` to TensorBoard.

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
        if not 16 <= edge <= 4096:
            raise ValueError(f'edge must be 16 to 4096 pixels, got {edge}')
        if not indices or min(indices) < 0:
            raise ValueError(f'indices must name images of the validation dataset, from 0, got {tuple(indices)}')
        self.indices, self.edge = tuple(indices), edge

    def before_train(self, runner: Runner) -> None:
        """Check model and data on every process, and draw."""
        from mmvit_ext.interpret.superpixels import find_superpixels

        find_superpixels(bare_model(runner.model), 'SuperpixelVisualizationHook: this model')
        loop = runner.val_loop
        if loop is None:
            raise UserError(
                'SuperpixelVisualizationHook draws validation images and this run has none: add val_dataloader, '
                'val_cfg and val_evaluator to the config, or take the hook out'
            )
        number = len(loop.dataloader.dataset)
        if max(self.indices) >= number:
            raise UserError(
                f'SuperpixelVisualizationHook(indices={self.indices}): the validation dataset has {number} images, '
                'counted from 0'
            )
        if not getattr(runner.visualizer, '_vis_backends', None):
            runner.logger.warning(
                'SuperpixelVisualizationHook: the visualizer has no backend, so no picture is kept; give it '
                "vis_backends=[dict(type='LocalVisBackend')]"
            )
        super().before_train(runner)

    @master_only
    def draw(self, runner: Runner, step: int) -> None:
        """Draw the montages of the chosen images."""
        # Drawing is imported late: the run of another model should not depend on it.
        from mmvit_ext.interpret.inputs import picture_of_inputs
        from mmvit_ext.interpret.superpixels import draw_montage, superpixels_of_inputs

        model: Any = bare_model(runner.model)
        dataset: Any = runner.val_dataloader.dataset
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            for index in self.indices:
                sample = dataset[index]
                seen = sample['inputs']
                name = f'{index}_{Path(str(sample["data_samples"].metainfo.get("img_path", ""))).stem}'
                inputs = model.data_preprocessor(pseudo_collate([sample]), False)['inputs']
                size = (int(seen.shape[-2]), int(seen.shape[-1]))
                try:
                    found = superpixels_of_inputs(model.backbone, inputs, picture_of_inputs(seen), size)
                except UserError as error:  # a picture is no reason to end a run
                    runner.logger.warning(f'SuperpixelVisualizationHook, image {name}: {error}')
                    continue
                unit = 'epoch' if self.by_epoch else 'iteration'
                montage = draw_montage(found, edge=self.edge, title=f'{unit} {step}')
                runner.visualizer.add_image(f'superpixels_{name}', np.array(montage), step=step)
        finally:
            # Frozen parts are in evaluation mode while the rest trains, so each module gets its own mode back.
            for module, training in modes:
                module.training = training
