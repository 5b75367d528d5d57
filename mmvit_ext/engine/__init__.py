"""What makes a run trustworthy: checks before it, reports in it, and commands that end with one clear sentence."""

from .amp import CPUAmpOptimWrapper
from .errors import UserError
from .hooks import BatchSizeHook, LabelRangeHook, WeightsReportHook

__all__ = ['BatchSizeHook', 'CPUAmpOptimWrapper', 'LabelRangeHook', 'UserError', 'WeightsReportHook']
