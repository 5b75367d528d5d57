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

__all__ = ['Linear', 'linear', 'linear_backward']

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
    if not _by_convolution(x):
        return F.linear(x, weight, bias)
    out = F.conv2d(_as_image(x), weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def linear_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`linear`, for functions that do their own backward pass.

    Args:
        grad: gradient of the output, ``(R, D)``.
        x: the input, ``(R, C)``.
        weight: ``(D, C)``.

    Returns:
        gradients of input, weight and bias, in the shapes of these.
    """
    if not _by_convolution(x):
        return grad @ weight, grad.t() @ x, grad.sum(0)
    backward = torch.ops.aten.convolution_backward
    grad_x, grad_weight, grad_bias = backward(
        _as_image(grad),
        _as_image(x),
        weight[:, :, None, None],
        [len(weight)],
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        [True, True, True],
    )
    return grad_x.permute(0, 2, 3, 1).reshape(x.shape), grad_weight.reshape(weight.shape), grad_bias


def _by_convolution(x: Tensor) -> bool:
    """Whether the convolution is the quicker route for this input."""
    return (
        not is_compiling()
        and x.device.type == 'cpu'
        and x.dtype == torch.float32
        and x.numel() >= MIN_ROWS * x.shape[-1]
        and torch.backends.mkldnn.is_available()
    )


def _as_image(x: Tensor) -> Tensor:
    """Rows of ``(..., C)`` as an image ``(1, C, rows, 1)`` that is channels-last in memory."""
    return x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)


class Linear(nn.Linear):
    """``torch.nn.Linear`` by way of :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        return linear(x, self.weight, self.bias)
