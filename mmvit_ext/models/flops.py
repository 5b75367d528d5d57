"""Floating-point operations of a call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

__all__ = ['count_flops']


def count_flops(step: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions of a call, two per multiply-add.

    Tensors on ``meta`` are enough and cost nothing. Papers mostly give multiply-adds under the name of FLOPs.
    """

    def product_into(a_shape: Sequence[int], b_shape: Sequence[int], **_: object) -> int:
        return 2 * a_shape[0] * a_shape[1] * b_shape[1]

    counter = FlopCounterMode(
        display=False,
        custom_mapping={
            torch.ops.aten.mm.out: product_into,
            torch.ops.aten.convolution_backward: _convolution_backward,
        },
    )
    with counter, _unfused_attention():
        step()
    return counter.get_total_flops()


def _convolution_backward(
    grad_shape: Sequence[int], x_shape: Sequence[int], weight_shape: Sequence[int], *arguments: Any, **_: object
) -> int:
    """Input and weight gradient, each as many operations as forwards; torch's own count forgets the groups."""
    transposed, output_mask = arguments[4], arguments[7]
    positions = math.prod((x_shape if transposed else grad_shape)[2:])
    return 2 * x_shape[0] * positions * math.prod(weight_shape) * (output_mask[0] + output_mask[1])


def _unfused_attention() -> AbstractContextManager:
    """Attention as matrix products: a fused kernel that the counter does not know would count as nothing."""
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:  # torch < 2.3 has no fused kernel on the CPU or on meta
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)
