"""What makes a run trustworthy: checks before it, reports in it, and commands that end with one clear sentence."""

from .amp import CPUAmpOptimWrapper
from .checkpoint_hook import AtomicCheckpointHook
from .errors import UserError
from .exact_resume import ExactResumeHook
from .hooks import BatchSizeHook, LabelRangeHook, SkippedSamplesHook, WeightsReportHook
from .layer_decay import LearningRateDecayOptimizerConstructor
from .nonfinite import NonFiniteHook
from .optimizers import MultiOptimWrapperConstructor
from .preemption import PreemptionHook
from .safe_loading import SafeFilesHook
from .sampling_hook import SampleHook
from .superpixel_hook import SuperpixelVisualizationHook

__all__ = [
    'AtomicCheckpointHook',
    'BatchSizeHook',
    'CPUAmpOptimWrapper',
    'ExactResumeHook',
    'LabelRangeHook',
    'LearningRateDecayOptimizerConstructor',
    'MultiOptimWrapperConstructor',
    'NonFiniteHook',
    'PreemptionHook',
    'SafeFilesHook',
    'SampleHook',
    'SkippedSamplesHook',
    'SuperpixelVisualizationHook',
    'UserError',
    'WeightsReportHook',
]
