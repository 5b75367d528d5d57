"""Learned position embeddings: changing the grid they stand on."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['fit_position_embedding', 'resize_position_embedding', 'square_grid']


def resize_position_embedding(
    embedding: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    *,
    num_prefix_tokens: int = 0,
    mode: str = 'bicubic',
) -> Tensor:
    """Resize ``(1, P + h*w, C)`` from ``grid`` to ``size``; the P prefix tokens have no place in the image and stay.

    Raises:
        ValueError: The number of tokens is not ``P + h*w``.
    """
    _, num_tokens, C = embedding.shape
    if num_tokens != num_prefix_tokens + grid[0] * grid[1]:
        raise ValueError(
            f'position embedding has {num_tokens} tokens, but {num_prefix_tokens} + {grid[0]}x{grid[1]} were expected'
        )
    if tuple(grid) == tuple(size):
        return embedding
    prefix, plane = embedding[:, :num_prefix_tokens], embedding[:, num_prefix_tokens:]
    plane = plane.reshape(1, grid[0], grid[1], C).permute(0, 3, 1, 2)  # (1, C, h, w)
    plane = F.interpolate(plane, size=size, mode=mode, align_corners=None if mode == 'nearest' else False)
    return torch.cat([prefix, plane.flatten(2).transpose(1, 2)], dim=1)


def square_grid(num_tokens: int, name: str) -> tuple[int, int]:
    """The square grid of a stored embedding that does not tell its grid; ``name`` is for the message."""
    edge = math.isqrt(num_tokens)
    if edge * edge != num_tokens:
        raise ValueError(
            f'{name} has {num_tokens} tokens on the image plane, which is no square number: its grid cannot be known '
            f'from the file; build the model with the img_size the weights were trained at'
        )
    return edge, edge


def fit_position_embedding(
    state_dict: dict[str, Tensor],
    key: str,
    grid: tuple[int, int],
    stored_grid: tuple[int, int] | None = None,
    *,
    num_prefix_tokens: int = 0,
    mode: str = 'bicubic',
) -> None:
    """Resize a position embedding that is about to be loaded, in place of the one in the state dict.

    A file that does not tell its grid (``stored_grid`` is None) has the network's grid if it has as many tokens, and a
    square one otherwise. Nothing happens where the key is missing.
    """
    stored = state_dict.get(key)
    if stored is None or stored.ndim != 3:
        return
    count = stored.shape[1] - num_prefix_tokens
    if stored_grid is None or stored_grid[0] * stored_grid[1] != count:
        stored_grid = grid if count == grid[0] * grid[1] else square_grid(count, key)
    state_dict[key] = resize_position_embedding(
        stored, (stored_grid[0], stored_grid[1]), grid, num_prefix_tokens=num_prefix_tokens, mode=mode
    )
