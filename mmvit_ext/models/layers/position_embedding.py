"""Learned position embeddings: changing the grid they stand on."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from mmvit_ext.models.layers.open_sizes import is_open

__all__ = ['INTERPOLATIONS', 'note_grids', 'resize_position_embedding', 'square_grid', 'told_grids', 'track_position']

INTERPOLATIONS = ('bicubic', 'bilinear', 'nearest')


def resize_position_embedding(
    embedding: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    *,
    num_prefix_tokens: int = 0,
    mode: str = 'bicubic',
) -> Tensor:
    """Resize ``(1, P + h*w, C)`` from ``grid`` to ``size``; the P prefix tokens have no place in the image and stay."""
    _, num_tokens, C = embedding.shape
    if num_tokens != num_prefix_tokens + grid[0] * grid[1]:
        wanted = f'{num_prefix_tokens} + {grid[0]}x{grid[1]}'
        raise ValueError(f'position embedding has {num_tokens} tokens, but {wanted} were expected')
    if not is_open(*size) and tuple(grid) == tuple(size):
        return embedding
    prefix, plane = embedding[:, :num_prefix_tokens], embedding[:, num_prefix_tokens:]
    plane = plane.reshape(1, grid[0], grid[1], C).permute(0, 3, 1, 2)  # (1, C, h, w)
    plane = F.interpolate(plane, size=size, mode=mode, align_corners=None if mode == 'nearest' else False)
    return torch.cat([prefix, plane.flatten(2).transpose(1, 2)], dim=1)


def square_grid(num_tokens: int, name: str) -> tuple[int, int]:
    """The square grid of a stored embedding that does not tell its grid; ``name`` is for the message."""
    edge = math.isqrt(num_tokens)
    if edge * edge != num_tokens:
        remedy = 'build the model with the img_size the weights were trained at'
        raise ValueError(f'{name} has {num_tokens} tokens, which is no square number and tells no grid; {remedy}')
    return edge, edge


def track_position(
    module: nn.Module, name: str, grid: tuple[int, int], *, num_prefix_tokens: int = 0, mode: str = 'bicubic'
) -> None:
    """Resize a module's position embedding, ``(1, P + h*w, C)`` or ``(h*w, C)``, in every state dict that is loaded.

    The grid is told in the metadata of every state dict that is made. Where it is not told, as in other packages'
    files, a square is assumed, otherwise the module's grid, with a warning.
    """
    module._register_load_state_dict_pre_hook(partial(_fit, name, grid, num_prefix_tokens, mode))
    module._register_state_dict_hook(partial(_tell, name, grid))


def _fit(
    name: str,
    grid: tuple[int, int],
    num_prefix_tokens: int,
    mode: str,
    state_dict: dict[str, Tensor],
    prefix: str,
    local_metadata: Mapping[str, Any],
    *_: Any,
) -> None:
    """Before any load: resize the embedding in the state dict."""
    key = prefix + name
    stored = state_dict.get(key)
    if stored is None or stored.ndim not in (2, 3) or not stored.is_floating_point():
        return
    tokens = stored if stored.ndim == 3 else stored[None]
    count = tokens.shape[1] - num_prefix_tokens
    told: Any = getattr(stored, 'grid', None) or local_metadata.get('grids', {}).get(name)
    if _is_grid(told) and told[0] * told[1] == count:
        stored_grid = (told[0], told[1])
    else:
        own = count == grid[0] * grid[1] and math.isqrt(count) ** 2 != count
        stored_grid = grid if own else square_grid(count, key)
        if own or stored_grid != grid:
            taken = f'which is taken to be {stored_grid[0]}x{stored_grid[1]}; this model has {grid[0]}x{grid[1]}'
            text = f'{key}: the file does not tell the grid of its {count} tokens, {taken}'
            print_log(text, 'current', logging.WARNING)
    if stored_grid == grid:
        return
    tokens = tokens.float() if tokens.element_size() < 4 else tokens  # some interpolations know no float16
    fitted = resize_position_embedding(tokens, stored_grid, grid, num_prefix_tokens=num_prefix_tokens, mode=mode)
    state_dict[key] = fitted if stored.ndim == 3 else fitted[0]


def _is_grid(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(type(edge) is int and edge > 0 for edge in value)


def _tell(
    name: str, grid: tuple[int, int], module: nn.Module, state_dict: Any, prefix: str, local_metadata: dict[str, Any]
) -> None:
    """After a state dict was made: note the grid in its metadata."""
    local_metadata.setdefault('grids', {})[name] = grid


def note_grids(state_dict: Mapping[Any, Any]) -> None:
    """Note the grids of a file's metadata on its tensors: the libraries drop the metadata where they filter names."""
    for prefix, grids in told_grids(state_dict).items():
        for name, grid in grids.items():
            tensor = state_dict.get(f'{prefix}.{name}' if prefix else name)
            if isinstance(tensor, Tensor):
                vars(tensor)['grid'] = grid


def told_grids(state_dict: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """The grids that the metadata of a state dict tell, by prefix and name, whatever else a file has there."""
    metadata = getattr(state_dict, '_metadata', None)
    found: dict[str, dict[str, Any]] = {}
    for prefix, local in metadata.items() if isinstance(metadata, Mapping) else ():
        grids = local.get('grids') if isinstance(local, Mapping) else None
        if isinstance(grids, Mapping):
            found[str(prefix)] = {str(name): grid for name, grid in grids.items() if _is_grid(grid)}
    return found
