"""Mixed precision where mmengine's ``AmpOptimWrapper`` refuses to run: on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from ..registry import OPTIM_WRAPPERS

__all__ = ['CPUAmpOptimWrapper']


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """An optimiser wrapper that runs the forward pass in bfloat16 on the CPU.

    bfloat16 has the exponent range of float32, so unlike float16 it needs no loss scaling. Weights, gradients and the
    optimiser stay in float32. Takes the arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of the forward pass.

        Args:
            model: The model that runs in it.
        """
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield
