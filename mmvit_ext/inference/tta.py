"""Predict an image in several views, as the test-time augmentation of the config says."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmvit_ext.config.adjust import set_tta_pipeline

from .predictor import Predictor

__all__ = ['TTAPredictor']


class TTAPredictor(Predictor):
    """A trained model that merges its predictions of several views of an image.

    The config's ``tta_pipeline`` makes the views, its ``tta_model`` merges them; the arguments are those of
    :class:`Predictor`.

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
        cfg = copy.deepcopy(cfg)
        set_tta_pipeline(cfg)
        super().__init__(cfg, checkpoint, device, allow_partial=allow_partial, trust=trust)
        self.model = MODELS.build({**cfg.tta_model, 'module': self.model}).eval()

    def prepare(self, source: str | Path | Mapping[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        """Make the views of an image; the batch has a list of batches of one under each key, one per view."""
        image, batch = super().prepare(source)
        return image, {key: [[view] for view in views] for key, (views,) in batch.items()}
