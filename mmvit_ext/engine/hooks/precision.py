"""What mixed precision asks of modules that know float32 only."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

__all__ = ['MixedPrecisionHook']

HEADS = ('rpn_head', 'bbox_head', 'mask_head')
"""How mmdet's detectors call the modules whose outputs become boxes and losses."""
EXTRACTORS = ('bbox_roi_extractor', 'mask_roi_extractor')
"""How they call the modules that cut regions out of maps by mmcv's operators."""


def _float32(value: Any) -> Any:
    """Cast the bfloat16 tensors of arguments or outputs, however deep they are in lists and tuples."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, Sequence) and not isinstance(value, str) and not hasattr(value, '_fields'):
        kind: Any = type(value)
        return kind(_float32(item) for item in value)
    return value


def _cast_arguments(module: nn.Module, args: tuple) -> tuple:
    return _float32(args)


def _cast_outputs(module: nn.Module, args: tuple, output: Any) -> Any:
    return _float32(output)


class MixedPrecisionHook(Hook):
    """Gives float32 to what has no bfloat16 form, where autocast would hand it bfloat16.

    That is RoIAlign, and what mmdet does with the outputs of its heads, from the suppression of boxes to the losses.
    Without it a detector of two stages fails in its first step on a CPU.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        for name, module in runner.model.named_modules():
            last = name.rstrip('.0123456789').rpartition('.')[2]  # the stages of a cascade are numbered
            if isinstance(module, nn.ModuleList):
                continue
            if last in EXTRACTORS:
                module.register_forward_pre_hook(_cast_arguments)
            elif last in HEADS:
                module.register_forward_hook(_cast_outputs)
