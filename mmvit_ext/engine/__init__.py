"""What makes a run trustworthy: checks before it, reports in it, and commands that end with one clear sentence."""

from mmvit_ext.checkpoints.safe_loading import SafeFilesHook
from mmvit_ext.engine.hooks.checkpoint import AtomicCheckpointHook
from mmvit_ext.engine.hooks.exact_resume import ExactResumeHook
from mmvit_ext.engine.hooks.nonfinite import NonFiniteHook
from mmvit_ext.engine.hooks.preemption import PreemptionHook
from mmvit_ext.engine.hooks.reports import BatchSizeHook, LabelRangeHook, SkippedSamplesHook, WeightsReportHook
from mmvit_ext.engine.hooks.sampling import SampleHook
from mmvit_ext.engine.hooks.superpixels import SuperpixelVisualizationHook
from mmvit_ext.errors.user_error import UserError

from .amp import CPUAmpOptimWrapper
from .optimizers import MultiOptimWrapperConstructor

__all__ = [
    'AtomicCheckpointHook',
    'BatchSizeHook',
    'CPUAmpOptimWrapper',
    'ExactResumeHook',
    'LabelRangeHook',
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
