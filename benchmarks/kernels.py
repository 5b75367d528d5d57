"""Count the kernels of a call on a GPU without one: on ``meta`` tensors, where every "on a CPU" condition is false.

Counted is each operator that computes something: views, allocations and values that are only looked at are free. A few
operators launch two or three kernels (the backward pass of a norm, of fused attention), so that the count is a lower
bound. Attention and dropout are counted as the fused operators that a GPU has. ``meta`` knows no autocast: what that
would cast is cast here, as PyTorch's list of operators for CUDA says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ['count_kernels']

FREE = (
    'empty',
    'empty_like',
    'new_empty',
    'empty_strided',
    'new_empty_strided',
    'detach',
    'lift_fresh',
    'promote_types',
)
FREE += ('_unsafe_view',)
LOWERED = (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.conv2d, F.conv2d)
RAISED = (F.layer_norm, F.softmax, torch.softmax, Tensor.softmax, F.cross_entropy)


class KernelCounter(TorchDispatchMode):
    """Counts operators by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split('::')[1]
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not is_view and name not in FREE:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


class AsOnCuda(TorchFunctionMode):
    """Fused attention and dropout as CUDA has them, and the casts of autocast to ``dtype``, those of weights once."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self.weights: dict[int, Tensor] = {}

    def cast(self, x: Any, dtype: torch.dtype) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype == dtype:
            return x
        if not x.is_leaf or not x.requires_grad:
            return x.to(dtype)
        if id(x) not in self.weights:
            self.weights[id(x)] = x.to(dtype)
        return self.weights[id(x)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if self.dtype is not None and (func in LOWERED or func in RAISED or func is F.scaled_dot_product_attention):
            dtype = torch.float32 if func in RAISED else self.dtype
            args = [self.cast(x, dtype) for x in args]
            kwargs = {name: self.cast(x, dtype) for name, x in kwargs.items()}
        if func is F.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention(*args[:3], kwargs.get('dropout_p', 0.0))[0]
        if func is F.dropout:
            x, p, training = (*args, *(kwargs.get(name) for name in ('p', 'training')[len(args) - 1 :]))[:3]
            return torch.native_dropout(x, p, True)[0] if training and p else x
        return func(*args, **kwargs)


def count_kernels(step: Callable[[], object], autocast: torch.dtype | None = None) -> Counter[str]:
    """Operators by name that a call on ``meta`` tensors runs on a GPU, with ``autocast`` to a type or without."""
    with ExitStack() as stack:
        counter = stack.enter_context(KernelCounter())
        stack.enter_context(AsOnCuda(autocast))
        step()
    return counter.found
