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
    """Resize a learned position embedding to another token grid.

    Args:
        embedding: ``(1, P + h*w, C)`` with P leading tokens that have no place in the image (class token).
        grid: ``(h, w)`` the embedding stands on, in tokens.
        size: ``(H, W)`` wanted, in tokens.
        num_prefix_tokens: P, kept as they are.
        mode: interpolation, ``'bicubic'``, ``'bilinear'`` or ``'nearest'``.

    Returns:
        ``(1, P + H*W, C)``; the argument itself when the grid already fits.

    Raises:
        ValueError: if the number of tokens is not ``P + h*w``.
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
    """The square grid of a stored embedding that does not tell its grid.

    Args:
        num_tokens: tokens on the image plane.
        name: the parameter's name, for the message.

    Returns:
        ``(edge, edge)``.

    Raises:
        ValueError: if the count is no square number.
    """
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

    Args:
        state_dict: What is loaded.
        key: The embedding's; nothing happens where it is missing.
        grid: ``(h, w)`` of the network.
        stored_grid: ``(h, w)`` of the file, None where it does not tell: then a number of tokens like the network's
            means the network's grid, and any other one a square.
        num_prefix_tokens: Leading tokens without a place in the image.
        mode: Interpolation.

    Raises:
        ValueError: The grid of the file cannot be known.
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
