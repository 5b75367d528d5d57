"""Training and testing, and the hooks that make a run trustworthy."""

from mmvit_ext.checkpoints.safe_loading import SafeFilesHook

from .hooks.checkpoint import AtomicCheckpointHook
from .hooks.compiled_blocks import CompiledBlocksHook
from .hooks.deferred_info import DeferredInfoHook
from .hooks.drawing import SampleHook, SuperpixelVisualizationHook
from .hooks.exact_resume import ExactResumeHook
from .hooks.mask_annealing import MaskAnnealingHook
from .hooks.nonfinite import NonFiniteHook
from .hooks.preemption import PreemptionHook
from .hooks.reports import BatchSizeHook, LabelRangeHook, MetricsHook, SkippedSamplesHook, WeightsReportHook
from .hooks.resumed_config import ResumedConfigHook
from .optimizers import CPUAmpOptimWrapper, LayerDecayConstructor, MergedGroupsConstructor, MultiOptimWrapperConstructor
from .schedulers import TwoStagePolyLR

__all__ = ['AtomicCheckpointHook', 'BatchSizeHook', 'CPUAmpOptimWrapper', 'CompiledBlocksHook']
__all__ += [
    'DeferredInfoHook',
    'ExactResumeHook',
    'LabelRangeHook',
    'LayerDecayConstructor',
    'MaskAnnealingHook',
    'MergedGroupsConstructor',
    'MetricsHook',
    'MultiOptimWrapperConstructor',
    'NonFiniteHook',
    'PreemptionHook',
]
__all__ += ['ResumedConfigHook', 'SafeFilesHook', 'SampleHook', 'SkippedSamplesHook', 'SuperpixelVisualizationHook']
__all__ += ['TwoStagePolyLR', 'WeightsReportHook']
