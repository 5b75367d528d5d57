r"""From the similarity that SPFormer returns to maps of superpixels as pictures and metrics need them.

Paper: SPFormer, Mei et al., arXiv 2401.02931, section 4.2.1: the superpixel of a pixel is the one of its 9 neighbours
with the largest association, after the similarity was upsampled, each superpixel's inside its own window.

Shapes: heads of the superpixel cross attention, (h, w) pixel features, p edge of a cell in pixel features, f how many
times finer the maps are, (sh, sw) = ceil(h / p), ceil(w / p) superpixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvit_ext.models.superpixels.grid import upsample_similarity

__all__ = ['fine_association', 'grid_of', 'hard_superpixels', 'neighbour_ids', 'with_merged_head']


def with_merged_head(similarity: Tensor) -> Tensor:
    """Append the similarity of all heads together, their sum over the square root of their number; at least float32."""
    similarity = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
    return torch.cat([similarity, similarity.sum(1, keepdim=True) / similarity.shape[1] ** 0.5], 1)


def grid_of(similarity: Tensor, cell_size: int) -> tuple[int, int]:
    """Rows and columns of the superpixels of a similarity ``(..., h, w)``, whose last cells may be cut."""
    h, w = similarity.shape[-2:]
    return -(-h // cell_size), -(-w // cell_size)


def fine_association(similarity: Tensor, cell_size: int, factor: int = 1) -> Tensor:
    """Softmax over the 9 neighbours of the similarity ``(B, heads, 9, h, w)``, made ``factor`` times finer."""
    h, w = similarity.shape[-2:]
    if factor > 1:
        grid = grid_of(similarity, cell_size)
        # What was cut is no pixel: -inf keeps it out of the interpolation.
        whole = F.pad(similarity, (0, grid[1] * cell_size - w, 0, grid[0] * cell_size - h), value=float('-inf'))
        similarity = upsample_similarity(whole, grid, factor)[..., : h * factor, : w * factor]
    return similarity.softmax(2)


def neighbour_ids(
    size: tuple[int, int], grid: tuple[int, int], cell: int, device: torch.device | None = None
) -> Tensor:
    """Index ``row * sw + column`` of neighbour n of each pixel, ``(9, H, W)``; -1 where there is none."""
    rows, columns = (torch.arange(edge, device=device) // cell for edge in size)
    offsets = torch.arange(-1, 2, device=device)
    y = rows[None, :] + offsets[:, None]  # (3, H)
    x = columns[None, :] + offsets[:, None]  # (3, W)
    inside = ((y >= 0) & (y < grid[0]))[:, None, :, None] & ((x >= 0) & (x < grid[1]))[None, :, None, :]
    ids = y[:, None, :, None] * grid[1] + x[None, :, None, :]  # (3, 3, H, W)
    return ids.masked_fill(~inside, -1).flatten(0, 1)


def hard_superpixels(association: Tensor, cell_size: int, factor: int = 1) -> Tensor:
    """Index ``row * sw + column`` of each pixel's superpixel with the largest association, ``(B, heads, H, W)``."""
    cell = cell_size * factor
    size = (int(association.shape[-2]), int(association.shape[-1]))
    ids = neighbour_ids(size, grid_of(association, cell), cell, association.device)
    chosen = association.argmax(2, keepdim=True)  # (B, heads, 1, H, W)
    return ids.expand(*association.shape[:2], *ids.shape).gather(2, chosen).squeeze(2)
