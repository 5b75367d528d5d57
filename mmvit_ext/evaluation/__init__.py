"""Metrics of a model's predictions."""

from importlib.util import find_spec

from .fid import FID

__all__ = ['FID']

if find_spec('mmcv') is not None:
    from .cam_localization import CAMLocalization
    from .superpixel_quality import SuperpixelQuality

    __all__ += ['CAMLocalization', 'SuperpixelQuality']

if find_spec('mmseg') is not None:
    from .trimap_iou import TrimapIoUMetric

    __all__ += ['TrimapIoUMetric']
