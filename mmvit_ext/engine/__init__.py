"""What makes a run trustworthy: checks before it, reports in it, and commands that end with one clear sentence."""

from .amp import CPUAmpOptimWrapper
from .errors import UserError
from .hooks import BatchSizeHook, LabelRangeHook, SkippedSamplesHook, WeightsReportHook
from .nonfinite import NonFiniteHook
from .optimizers import MultiOptimWrapperConstructor
from .safe_loading import SafeFilesHook
from .sampling_hook import SampleHook
from .superpixel_hook import SuperpixelVisualizationHook

__all__ = [
    'BatchSizeHook',
    'CPUAmpOptimWrapper',
    'LabelRangeHook',
    'MultiOptimWrapperConstructor',
    'NonFiniteHook',
    'SafeFilesHook',
    'SampleHook',
    'SkippedSamplesHook',
    'SuperpixelVisualizationHook',
    'UserError',
    'WeightsReportHook',
]
