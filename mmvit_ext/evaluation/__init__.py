"""What is measured of a model: metrics, and the computation it takes."""

from importlib.util import find_spec

from .compute import count_flops
from .fid import FID

__all__ = ['FID', 'count_flops']

if find_spec('mmcv') is not None:
    from .cam_localization import CAMLocalization
    from .superpixel_quality import SuperpixelQuality

    __all__ += ['CAMLocalization', 'SuperpixelQuality']

if find_spec('mmseg') is not None:
    from .trimap_iou import TrimapIoUMetric

    __all__ += ['TrimapIoUMetric']
