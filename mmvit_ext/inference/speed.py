"""Run a trained model in mixed precision, or compiled."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from mmvit_ext.config.adjust import reduced_precision
from mmvit_ext.errors import UserError
from mmvit_ext.models.compiled import compile_blocks, repeated_blocks

__all__ = ['speed_up']


def speed_up(model: nn.Module, device: torch.device, *, amp: bool = False, compile: bool = False) -> None:
    """Let a model be compiled, and its backbone and neck compute in mixed precision, in place.

    Compiled are its repeated blocks, or the whole backbone where these are not ours.

    Heads and all that follows them stay in float32: they are a small part of the work, and what is done with their
    results, from the choice of boxes to NumPy, does not know every type.
    """
    parts = {name: part for name in ('backbone', 'neck') if isinstance(part := getattr(model, name, None), nn.Module)}
    if (amp or compile) and 'backbone' not in parts:
        option = '--amp' if amp else '--compile'
        raise UserError(f'{option} is for models with a backbone, {type(model).__name__} has none: leave it out')
    if compile and repeated_blocks(model):
        compile_blocks(model)
    elif compile:
        parts['backbone'].forward = torch.compile(parts['backbone'].forward)  # type: ignore[method-assign]
    for part in parts.values() if amp else ():
        part.forward = _reduced(part.forward, device)  # type: ignore[method-assign]


def _reduced(forward: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """A forward pass in mixed precision that gives float32."""
    dtype = reduced_precision(device.type)

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, dtype=dtype):
            found = forward(*args, **kwargs)
        return _widened(found)

    return run


def _widened(found: Any) -> Any:
    if isinstance(found, Tensor):
        return found.to(torch.promote_types(found.dtype, torch.float32)) if found.is_floating_point() else found
    if isinstance(found, Mapping):
        return {name: _widened(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return (
            type(found)(map(_widened, found)) if not hasattr(found, '_fields') else type(found)(*map(_widened, found))
        )
    return found
