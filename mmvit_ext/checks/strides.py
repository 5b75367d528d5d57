"""The strides of a detector's maps against those that its anchors, points and regions are made for.

Maps of another stride train without an error: on maps of stride 16 the anchors of stride 4 cover a part of the image.
"""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmvit_ext.config.building import build_model
from mmvit_ext.errors.user_error import UserError

__all__ = ['check_strides']

EDGE = 896
"""Of the input whose maps are measured: a multiple of every usual stride."""

REGIONS = ('bbox_roi_extractor', 'mask_roi_extractor')  # others may look at maps that are not the detector's


def _expected_strides(model: nn.Module) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """The strides that parts of a detector are made for, with the dotted keys of these parts."""
    for name, module in model.named_modules():
        strides = getattr(getattr(module, 'prior_generator', None), 'strides', None)
        key = f'model.{name}.{"anchor" if hasattr(module, "anchor_generator") else "prior"}_generator'
        if strides is None and any(part in name.split('.') for part in REGIONS):
            strides, key = getattr(module, 'featmap_strides', None), f'model.{name}.featmap_strides'
        if strides:
            yield key, [(int(s[0]), int(s[1])) if isinstance(s, list | tuple) else (int(s), int(s)) for s in strides]


def check_strides(cfg: Config) -> list[str]:
    """Compare the strides of a detector's maps, behind its neck, with those of its anchors, points and regions.

    Returns:
        A line worth logging where the strides of the maps cannot be found out.

    Raises:
        UserError: They differ; names the part of the model, both lists and the remedy.
    """
    model: Any = build_model(cfg, device='meta', training=True).eval()
    expected = dict(_expected_strides(model))
    if not expected or not hasattr(model, 'extract_feat'):
        return []
    mean = getattr(model.data_preprocessor, 'mean', None)
    channels = 3 if mean is None else len(mean)
    try:
        with torch.no_grad():
            maps = model.extract_feat(torch.zeros(1, channels, EDGE, EDGE, device='meta'))
        found = [(round(EDGE / x.shape[-1]), round(EDGE / x.shape[-2])) for x in maps]
    except Exception as error:  # an operator may not know tensors without memory
        return [f'the strides of the maps were not compared with those of anchors and regions: {type(error).__name__}']
    for key, strides in expected.items():
        if found[: len(strides)] != strides:
            given = getattr(model.backbone, 'out_strides', None)
            backbone = f', the backbone gives {", ".join(map(str, given))}' if given else ''
            raise UserError(
                f'{key} is made for maps of the strides {_listed(strides)}, but its maps have the strides '
                f"{_listed(found)}{backbone}: put dict(type='mmvit_ext.PlainPyramid', in_channels=...) behind the "
                'backbone, which makes strides 4 to 32 of one, or set the strides to those of the maps'
            )
    return []


def _listed(strides: list[tuple[int, int]]) -> str:
    return ', '.join(str(x) if x == y else f'{x}x{y}' for x, y in strides)
