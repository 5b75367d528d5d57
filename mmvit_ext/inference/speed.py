"""Run a trained model in mixed precision, or compiled."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from mmvit_ext.config.adjust import reduced_precision
from mmvit_ext.errors import UserError
from mmvit_ext.machine import warn_of_emulated_bfloat16
from mmvit_ext.models.compiled import compile_blocks, repeated_blocks

__all__ = ['speed_up']

METHODS = ('forward', 'averaged_maps', 'run', 'tokens_before', 'run_block', 'normalise')
"""What models call of a backbone or neck, where it has that."""


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
    if compile and (blocks := repeated_blocks(model)):
        said = compile_blocks(model)
        if not any(block._compiled_call_impl for block in blocks):
            raise UserError(f'--compile has no effect ({said}): leave it out, or install a newer PyTorch')
    elif compile:
        parts['backbone'].forward = torch.compile(parts['backbone'].forward)  # type: ignore[method-assign]
    if amp and device.type == 'cpu':
        warn_of_emulated_bfloat16()
    for part in parts.values() if amp else ():
        for name in METHODS:
            if hasattr(part, name):
                setattr(part, name, _reduced(getattr(part, name), device))


def _reduced(method: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """A method that computes in mixed precision and gives float32."""
    dtype = reduced_precision(device.type)

    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, dtype=dtype):
            found = method(*args, **kwargs)
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
