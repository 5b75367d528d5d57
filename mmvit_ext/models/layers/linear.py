"""Linear layers that take the quicker of two equal routes on a CPU.

On a CPU ``torch.nn.functional.linear`` calls MKL, which uses 256-bit instructions on processors that are not Intel's
even where these have 512-bit ones; a 1x1 convolution calls oneDNN, which asks the processor. The token layout
``(B, N, C)`` is a channels-last image already, so the second route copies nothing. Measured figures are in
docs/benchmarks.md. On other devices, for few rows and while a graph is traced, ``linear`` is what it says.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvit_ext.models.layers.compiling import is_compiling

__all__ = ['Linear', 'linear']

MIN_ROWS = 256
"""Below this many rows preparing a convolution costs more than it saves (measured between 128 and 300)."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` over the last dimension.

    Args:
        x: ``(..., C)``.
        weight: ``(D, C)``.
        bias: ``(D,)``.

    Returns:
        ``(..., D)``.
    """
    C = x.shape[-1]
    if (
        is_compiling()
        or x.device.type != 'cpu'
        or x.dtype != torch.float32
        or x.numel() < MIN_ROWS * C
        or not torch.backends.mkldnn.is_available()
    ):
        return F.linear(x, weight, bias)
    image = x.reshape(1, -1, 1, C).permute(0, 3, 1, 2)  # (1, C, rows, 1), channels last in memory
    out = F.conv2d(image, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


class Linear(nn.Linear):
    """``torch.nn.Linear`` by way of :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        return linear(x, self.weight, self.bias)
