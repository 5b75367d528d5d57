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

__all__ = ['AtomicCheckpointHook', 'BatchSizeHook', 'CPUAmpOptimWrapper', 'CompiledBlocksHook', 'DeferredInfoHook']
__all__ += ['ExactResumeHook', 'LabelRangeHook', 'LayerDecayConstructor', 'MaskAnnealingHook']
__all__ += ['MergedGroupsConstructor', 'MetricsHook', 'MultiOptimWrapperConstructor', 'NonFiniteHook']
__all__ += ['PreemptionHook', 'ResumedConfigHook', 'SafeFilesHook', 'SampleHook', 'SkippedSamplesHook']
__all__ += ['SuperpixelVisualizationHook', 'TwoStagePolyLR', 'WeightsReportHook']
