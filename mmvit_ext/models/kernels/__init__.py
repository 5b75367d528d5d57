"""Fused forms, most of them kernels in Triton, each beside the plain form that defines it.

No GPU has measured them yet, so that they are off: ``MMVIT_UNMEASURED_KERNELS=1`` in the environment takes them, on a
GPU and where :func:`are_plain` holds of the modules whose work they do. Their backward passes but that of the mask
losses compute the plain form again.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

from torch import Tensor, nn

__all__ = ['are_plain', 'may_fuse']

HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')


def may_fuse(x: Tensor) -> bool:
    """Whether a kernel may take a tensor's work: wanted, on a GPU, and Triton is installed. Not for code in a trace."""
    wanted = os.environ.get('MMVIT_UNMEASURED_KERNELS', '') not in ('', '0')
    return wanted and x.is_cuda and find_spec('triton') is not None


def are_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module and all inside are exactly of these types, uncompiled, without hooks and parametrisations."""
    return all(
        type(part) in kinds
        and getattr(part, '_compiled_call_impl', None) is None  # PyTorch 2.1 has none
        and not any(getattr(part, name) for name in HOOKS)
        and not hasattr(part, 'parametrizations')
        for part in module.modules()
    )
