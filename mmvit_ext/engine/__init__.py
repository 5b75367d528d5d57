"""What makes a run trustworthy: checks before it, reports in it, and commands that end with one clear sentence."""

from .amp import CPUAmpOptimWrapper
from .errors import UserError
from .hooks import BatchSizeHook, LabelRangeHook, WeightsReportHook
from .nonfinite import NonFiniteHook
from .safe_loading import SafeFilesHook
from .superpixel_hook import SuperpixelVisualizationHook

__all__ = [
    'BatchSizeHook',
    'CPUAmpOptimWrapper',
    'LabelRangeHook',
    'NonFiniteHook',
    'SafeFilesHook',
    'SuperpixelVisualizationHook',
    'UserError',
    'WeightsReportHook',
]
