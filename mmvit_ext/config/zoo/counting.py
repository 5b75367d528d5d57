"""Parameters and operations of the models of the zoo, counted on tensors without memory."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.config import Config

from mmvit_ext.config.building import build_model
from mmvit_ext.config.zoo import LIBRARIES, SIZES, entry_of, model_config
from mmvit_ext.models.flops import count_flops

__all__ = ['count_model']

PROPOSALS = 1000, 100
"""Regions for which the box head and the mask head of a two-stage detector are counted."""


def count_model(name: str, num_classes: int) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image at the size of its task.

    Of a two-stage detector the heads are counted for 1000 boxes and 100 masks, without the pooling of regions.
    """
    task = entry_of(name).task
    size = SIZES[task]
    config = dict(model=model_config(name, num_classes, img_size=size), default_scope=LIBRARIES[task])
    model: Any = build_model(Config(config), device='meta').eval()
    image = torch.empty(1, 3, *size, device='meta')

    def step() -> None:
        if task == 'seg':
            model.encode_decode(image, [{'img_shape': size}])
        elif not hasattr(model, 'roi_head'):
            model(image, mode='tensor')
        else:
            model.rpn_head(model.extract_feat(image))
            for kind, number in zip(('bbox', 'mask'), PROPOSALS, strict=True):
                if getattr(model.roi_head, f'with_{kind}'):
                    extractor = getattr(model.roi_head, f'{kind}_roi_extractor')
                    edges = extractor.roi_layers[0].output_size
                    regions = torch.empty(number, extractor.out_channels, *edges, device='meta')
                    getattr(model.roi_head, f'{kind}_head')(regions)

    return sum(parameter.numel() for parameter in model.parameters()), count_flops(step) // 2
