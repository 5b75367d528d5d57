"""Metrics of a model's predictions."""

from importlib.util import find_spec

from mmvit_ext.machine import importable

from .fid import FID

__all__ = ['FID']

if find_spec('mmcv') is not None:
    from .cam_localization import CAMLocalization
    from .superpixel_quality import SuperpixelQuality

    __all__ += ['CAMLocalization', 'SuperpixelQuality']

if importable('mmseg.evaluation'):
    from .class_iou import ClassIoUMetric
    from .trimap_iou import TrimapIoUMetric

    __all__ += ['ClassIoUMetric', 'TrimapIoUMetric']
