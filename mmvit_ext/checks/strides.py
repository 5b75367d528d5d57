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


def _expected_strides(model: nn.Module) -> Iterator[tuple[str, list[tuple]]]:
    """The strides that parts of a detector are made for, with the dotted keys of these parts."""
    for name, module in model.named_modules():
        strides = getattr(getattr(module, 'prior_generator', None), 'strides', None)
        key = f'model.{name}.{"anchor" if hasattr(module, "anchor_generator") else "prior"}_generator'
        if strides is None and any(part in name.split('.') for part in REGIONS):
            strides, key = getattr(module, 'featmap_strides', None), f'model.{name}.featmap_strides'
        pairs = [tuple(stride) if isinstance(stride, list | tuple) else (stride, stride) for stride in strides or []]
        if pairs and all(float(edge).is_integer() for pair in pairs for edge in pair):  # others fit one image size only
            yield key, pairs


def check_strides(cfg: Config) -> list[str]:
    """Refuse maps, behind the neck, of other strides than the anchors, points and regions; returns lines to log."""
    try:
        model: Any = build_model(cfg, device='meta', training=True).eval()
        mean = getattr(model.data_preprocessor, 'mean', None)
        image = torch.zeros(1, 3 if mean is None else len(mean), EDGE, EDGE, device='meta')
        expected = dict(_expected_strides(model))
        with torch.no_grad():
            maps = model.extract_feat(image) if expected else []
        found = [(round(EDGE / x.shape[-1]), round(EDGE / x.shape[-2])) for x in maps]
    except Exception as error:  # an operator may not know the device meta; what is wrong here the run finds again
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


def _listed(strides: list[tuple]) -> str:
    return ', '.join(str(x) if x == y else f'{x}x{y}' for x, y in strides)
