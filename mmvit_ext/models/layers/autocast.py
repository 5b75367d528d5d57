"""What automatic mixed precision would do, asked in the words of the installed torch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ['autocast_dtype']


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Type to which autocast would take a matrix product of ``x``, or None where it is off.

    A ``torch.autograd.Function`` runs without autocast backwards, so one that computes again has to cast by itself.
    """
    device = x.device.type
    if device not in ('cpu', 'cuda'):
        return None
    if hasattr(torch, 'get_autocast_dtype'):
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    # torch < 2.4 has a pair of functions for each device
    if device == 'cuda':
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
