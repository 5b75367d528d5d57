"""Linear layers that take the quicker of two equal routes on a CPU.

On a CPU ``torch.nn.functional.linear`` calls MKL, which uses 256-bit instructions on processors that are not Intel's
even where these have 512-bit ones; a 1x1 convolution calls oneDNN, which asks the processor. The token layout
``(B, N, C)`` is a channels-last image already, so the second route copies nothing. Measured figures are in
docs/benchmarks.md. On other devices, for few rows and while a graph is traced, ``linear`` is what it says.

oneDNN's gradient of a 1x1 convolution's weight is several times slower for most numbers of rows that are no multiple of
16, 788 and 1025 for instance, which images with a class token have. There the last rows are left to MKL.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvit_ext.models.layers.autocast import autocast_dtype
from mmvit_ext.models.layers.compiling import is_compiling

__all__ = ['Linear', 'linear', 'linear_backward']

MIN_ROWS = 256
"""Below this many rows preparing a convolution costs more than it saves (measured between 128 and 300)."""

ROW_MULTIPLE = 16
"""The convolution gets a multiple of this number of rows for the gradient of its weight (measured with 16 and 64)."""


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
    uneven = x.numel() // x.shape[-1] % ROW_MULTIPLE
    if uneven and weight.requires_grad and torch.is_grad_enabled() and autocast_dtype(x) is None:
        out = _Convolution.apply(_as_image(x), weight, bias)
    else:
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
    whole = len(x) - len(x) % ROW_MULTIPLE
    if whole == len(x):
        grad_x, grad_weight, grad_bias = _convolution_backward(grad, x, weight, (True, True, True))
    else:
        grad_x, _, _ = _convolution_backward(grad, x, weight, (True, False, False))
        _, grad_weight, grad_bias = _convolution_backward(grad[:whole], x[:whole], weight, (False, True, True))
        grad_weight = grad_weight.flatten(1).addmm(grad[whole:].t(), x[whole:])
        grad_bias = grad_bias + grad[whole:].sum(0)
    return grad_x.permute(0, 2, 3, 1).reshape(x.shape), grad_weight.reshape(weight.shape), grad_bias


class _Convolution(torch.autograd.Function):
    """1x1 convolution of what :func:`_as_image` gives, with the gradient of :func:`linear_backward`."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(image, weight)
        return F.conv2d(image, weight[:, :, None, None], bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        rows, grad_rows = (x.permute(0, 2, 3, 1).flatten(0, 2) for x in (image, grad))
        grad_x, grad_weight, grad_bias = linear_backward(grad_rows, rows, weight)
        return _as_image(grad_x), grad_weight, grad_bias if ctx.needs_input_grad[2] else None


def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]) -> Any:
    """Gradients of image, weight and bias, of which those that are not wanted are None."""
    backward = torch.ops.aten.convolution_backward
    kernel = weight[:, :, None, None]
    return backward(
        _as_image(grad), _as_image(x), kernel, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, list(wanted)
    )


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
