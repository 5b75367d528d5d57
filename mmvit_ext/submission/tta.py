"""Predicting an image at several scales, as the test-time augmentation of the config says."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmvit_ext.engine.config import iter_dataset_cfgs
from mmvit_ext.engine.errors import UserError
from mmvit_ext.engine.inference import Predictor

__all__ = ['TTAPredictor']


class TTAPredictor(Predictor):
    """A trained model that merges its predictions of several views of an image.

    Args:
        cfg: The config of the training run; its ``tta_pipeline`` makes the views, its ``tta_model`` merges them.
        checkpoint: The checkpoint file.
        device: Where to run, see :func:`mmvit_ext.engine.inference.resolve_device`.
        allow_partial: Go on when the checkpoint does not fit the model.
        trust: Read a checkpoint that holds more than tensors with pickle, which runs code from it.

    Raises:
        UserError: The config has no test-time augmentation, or config and checkpoint are wrong.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | Path,
        device: torch.device | None = None,
        *,
        allow_partial: bool = False,
        trust: bool = False,
    ) -> None:
        absent = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
        if absent:
            raise UserError(
                f'--tta: {cfg.filename} has no {" and no ".join(absent)}: add them to the config, they say which views '
                'are merged and how'
            )
        cfg = copy.deepcopy(cfg)
        pipeline = _without_labels(cfg.tta_pipeline)
        for _, dataset in iter_dataset_cfgs((cfg.get('test_dataloader') or {}).get('dataset'), 'test'):
            dataset['pipeline'] = copy.deepcopy(pipeline)
        cfg.test_pipeline = pipeline
        super().__init__(cfg, checkpoint, device, allow_partial=allow_partial, trust=trust)
        self.model = MODELS.build({**cfg.tta_model, 'module': self.model}).eval()

    def prepare(self, path: str | Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Read an image and make its views.

        Args:
            path: The image file.

        Returns:
            The image (RGB), and for the model's ``test_step`` a list of batches of one under each key, one per view.

        Raises:
            UserError: The file cannot be read.
        """
        image, batch = super().prepare(path)
        return image, {key: [[view] for view in views] for key, (views,) in batch.items()}


def _without_labels(pipeline: Any) -> Any:
    """The steps of a pipeline, nested ones too, but for those that load labels."""
    if isinstance(pipeline, Mapping):
        return {key: _without_labels(value) for key, value in pipeline.items()}
    if isinstance(pipeline, list | tuple):
        kept = [_without_labels(step) for step in pipeline if not _loads_labels(step)]
        return type(pipeline)(step for step in kept if not (isinstance(step, list) and not step))
    return pipeline


def _loads_labels(step: Any) -> bool:
    kind = step.get('type') if isinstance(step, Mapping) else None
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return name.endswith(('LoadAnnotations', 'LoadSegAnnotations'))
