"""A model that predicts superpixels and nothing else, to measure and show what a backbone has learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmvit_ext.registry import MODELS

__all__ = ['SuperpixelExtractor']


@MODELS.register_module()
class SuperpixelExtractor(BaseModel):
    """SPFormer without a head, whose predictions are the similarities of every superpixel cross attention.

    It takes the backbone of a classifier's or segmentor's checkpoint, to judge superpixels on a dataset that it was not
    trained for (arXiv 2401.02931, section 4.2.2).

    Args:
        backbone: A ``mmvit_ext.SPFormer``, or its config.
        data_preprocessor: Config of the data preprocessor, such as mmseg's ``SegDataPreProcessor``.
        init_cfg: Initialisation, mmengine style.

    Shape:
        Input ``(B, 3, H, W)``. ``forward(mode='tensor')`` gives for each SCA module the similarity ``(B, heads, 9, h,
        w)`` of each iteration; ``mode='predict'`` data samples whose field ``superpixels`` has the ``similarity``
        ``(modules, iterations, heads, 9, h, w)``, ``cell_size`` in pixel features and ``pixel_stride`` in pixels.

    Raises:
        ValueError: The backbone has no superpixels, or a loss is asked for.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(None if data_preprocessor is None else dict(data_preprocessor), init_cfg)
        built: Any = MODELS.build(backbone) if isinstance(backbone, Mapping) else backbone
        if not hasattr(built, 'cell_size'):
            raise ValueError(f'backbone must be a mmvit_ext.SPFormer, with superpixels, got {type(built).__name__}')
        self.backbone = built
        self._register_load_state_dict_pre_hook(self._leave_heads_out)

    @staticmethod
    def _leave_heads_out(state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
        ours = (f'{prefix}backbone.', f'{prefix}data_preprocessor.')
        for name in [name for name in state_dict if name.startswith(prefix) and not name.startswith(ours)]:
            del state_dict[name]

    def forward(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None, mode: str = 'tensor'
    ) -> tuple[tuple[Tensor, ...], ...] | list[BaseDataElement]:
        """Superpixels of images; see the class."""
        if mode not in ('tensor', 'predict'):
            raise ValueError(f"mode must be 'tensor' or 'predict', there is nothing to train, got {mode!r}")
        history = self.backbone.run(inputs)[1]
        if mode == 'tensor':
            return history
        stacked = torch.stack([torch.stack(similarities) for similarities in history])  # (M, I, B, heads, 9, h, w)
        samples = list(data_samples) if data_samples is not None else [BaseDataElement() for _ in inputs]
        meta = {'cell_size': self.backbone.cell_size, 'pixel_stride': self.backbone.pixel_stride}
        for index, sample in enumerate(samples):
            superpixels = BaseDataElement(metainfo=meta, similarity=stacked[:, :, index])
            sample.set_field(superpixels, 'superpixels')
        return samples
