r"""Attention between pixels and the 3x3 superpixels around them.

Paper: SPFormer, Mei et al., arXiv 2401.02931, sections 3.1 and 3.2. A superpixel *cell* is a block of ``ph x pw``
pixels, one superpixel per cell. The neighbours of a pixel are the superpixel of its own cell and the 8 around it; the
window of a superpixel are the pixels of the 3x3 cells around its own. Neighbour ``n = 3 (dy + 1) + (dx + 1)`` with
``dy, dx`` in {-1, 0, 1}, so that n = 4 is a pixel's own cell. A neighbour outside the grid has similarity -inf.

Maps with d channels are never copied nine times: only the superpixels, the small side, are unfolded to ``9 d`` values
per cell, and products are batches of small matrices, one per cell and head.

Shapes: B batch, C channels split over the heads, d = C / heads, (h, w) pixels, (sh, sw) superpixels,
(ph, pw) = (h / sh, w / sw) pixels of a cell, p its edge; the maps of the last functions are f times finer, with
(sh, sw) = ceil(h / p), ceil(w / p).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvit_ext.models.layers.open_sizes import cover

__all__ = ['fine_association', 'grid_of', 'hard_superpixels', 'neighbour_ids', 'superpixel_to_pixel']

NEIGHBOURS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))  # offset in cells of neighbour n


def cell_size(size: tuple[int, ...], grid: tuple[int, ...]) -> tuple[int, int]:
    """Pixels ``(ph, pw)`` of a cell; the grid has to divide the map."""
    (h, w), (sh, sw) = size, grid
    if min(sh, sw) < 1 or min(h, w) < 1 or h % sh or w % sw:
        raise ValueError(f'a map of {h}x{w} does not divide into {sh}x{sw} superpixel cells; pad it to whole cells')
    return h // sh, w // sw


def shift(x: Tensor, sign: int, fill: float) -> Tensor:
    """Move ``(..., 9 or 1, sh, sw)`` by n's offset: ``y[n, i] = x[n, i + sign * offset(n)]``, else ``fill``."""
    sh, sw = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1), value=fill).expand(*x.shape[:-3], 9, sh + 2, sw + 2)
    starts = [(1 + sign * dy, 1 + sign * dx) for dy, dx in NEIGHBOURS]
    return torch.stack([padded[..., n, y : y + sh, x : x + sw] for n, (y, x) in enumerate(starts)], dim=-3)


def to_cells(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Sort a map ``(B, heads, d, h, w)``, quickest with d last in memory, into ``(B, sh, sw, heads, ph * pw, d)``."""
    B, heads, d, h, w = x.shape
    (sh, sw), (ph, pw) = grid, cell_size((h, w), grid)
    rows = x.permute(0, 3, 4, 1, 2).reshape(B, sh, ph, sw, pw, heads, d)  # so that gradients have d last in memory, too
    return rows.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5)


def neighbours(x: Tensor) -> Tensor:
    """``(B, sh, sw, heads, d)`` to the 9 superpixels around each cell ``(B, sh, sw, heads, 9, d)``, zeros outside."""
    padded = F.pad(x, (0, 0, 0, 0, 1, 1, 1, 1))
    windows = padded.unfold(1, 3, 1).unfold(2, 3, 1)  # (B, sh, sw, heads, d, 3, 3)
    return windows.permute(0, 1, 2, 3, 5, 6, 4).flatten(4, 5)


def neighbour_sum(x: Tensor) -> Tensor:
    """Transpose of :func:`neighbours`: what each cell holds about its neighbours, summed at these."""
    moved = (
        F.pad(part, (0, 0, 0, 0, dx, -dx, dy, -dy)) for part, (dy, dx) in zip(x.unbind(4), NEIGHBOURS, strict=True)
    )
    return torch.stack(list(moved)).sum(0)


def window_softmax(similarity: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Softmax of ``(B, heads, 9, h, w)`` over the pixels of each superpixel's window, at least in float32."""
    similarity = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
    cells = _by_cell(similarity, grid)
    peak = shift(cells.detach().amax(4).amax(5), -1, float('-inf')).amax(2, keepdim=True)  # (B, heads, 1, sh, sw)
    peak = peak.masked_fill(peak == float('-inf'), 0)
    weights = (cells - shift(peak, 1, 0.0)[:, :, :, :, None, :, None]).exp()
    total = shift(weights.sum(4).sum(5), -1, 0.0).sum(2, keepdim=True)
    total = total.masked_fill(total == 0, 1)
    return (weights / shift(total, 1, 1.0)[:, :, :, :, None, :, None]).view_as(similarity)


def _by_cell(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """``(B, heads, d, h, w)`` to ``(B, heads, d, sh, ph, sw, pw)``."""
    (sh, sw), (ph, pw) = grid, cell_size(x.shape[3:], grid)
    return x.reshape(*x.shape[:3], sh, ph, sw, pw)


def to_small_cells(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """``(B, heads, 9, h, w)`` to ``(B, sh, sw, heads, 9, ph * pw)``."""
    return _by_cell(x, grid).permute(0, 3, 5, 1, 2, 4, 6).flatten(5)


def cell_similarity(cells: Tensor, superpixels: Tensor, cell: tuple[int, int]) -> Tensor:
    r"""Scaled products of every pixel with its 9 neighbour superpixels, :math:`p_i^\top s_{n(i)} / \sqrt d`.

    Pixels that :func:`to_cells` has sorted and ``(B, heads, d, sh, sw)`` give ``(B, heads, 9, h, w)``.
    """
    if (cells.shape[0], *cells.shape[3::2]) != superpixels.shape[:3]:
        found = f'{tuple(cells.shape)} and {tuple(superpixels.shape)}'
        raise ValueError(f'cells of pixels and superpixels must agree in B, heads and d, got {found}')
    around = neighbours(superpixels.permute(0, 3, 4, 1, 2) * cells.shape[5] ** -0.5)
    products = torch.matmul(cells, around.transpose(-1, -2))  # (B, sh, sw, heads, ph*pw, 9)
    inside = shift(torch.ones(1, *superpixels.shape[-2:], device=cells.device), 1, 0.0)  # (9, sh, sw)
    products = products.masked_fill(inside.permute(1, 2, 0)[:, :, None, None] == 0, float('-inf'))
    return products.unflatten(4, cell).permute(0, 3, 6, 1, 4, 2, 5).flatten(5).flatten(3, 4)


def pool_cells(similarity: Tensor, cells: Tensor) -> Tensor:
    r"""Attention of each superpixel to the pixels of its window (P2S; arXiv 2401.02931, section 3.2).

    .. math:: \Delta_s = \sum_{i \in \mathrm{window}(s)} \mathrm{softmax}_i(\mathrm{similarity}_{i, s}) \, v_i

    ``(B, heads, 9, h, w)``, -inf where the neighbour is outside the grid, and values that :func:`to_cells` has sorted
    give ``(B, heads, d, sh, sw)``; 0 for a superpixel whose whole window has similarity -inf.
    """
    if similarity.shape[:3] != (cells.shape[0], cells.shape[3], 9):
        found = f'{tuple(similarity.shape)} and {tuple(cells.shape)}'
        raise ValueError(f'similarity and values must agree in B, heads, h and w, got {found}')
    grid = cells.shape[1:3]
    weights = to_small_cells(window_softmax(similarity, grid).to(cells.dtype), grid)
    pooled = torch.matmul(weights, cells)  # (B, sh, sw, heads, 9, d)
    return neighbour_sum(pooled).permute(0, 3, 4, 1, 2)


def superpixel_to_pixel(superpixels: Tensor, association: Tensor) -> Tensor:
    r"""Pixel features from superpixel features (arXiv 2401.02931, equation 1), per head.

    .. math:: \mathrm{pixel}_i = \sum_{n=0}^{8} A_{n, i} \, S_{n(i)}

    ``(B, C, sh, sw)``, whose channels are split over the heads, and ``(B, heads, 9, h, w)``, softmax over the 9 already
    applied, to ``(B, C, h, w)``, channels last in memory. A neighbour outside the grid counts as zeros.
    """
    if superpixels.ndim != 4 or association.ndim != 5 or association.shape[2] != 9:
        found = f'{tuple(superpixels.shape)} and {tuple(association.shape)}'
        raise ValueError(f'expected superpixels (B, C, sh, sw) and association (B, heads, 9, h, w), got {found}')
    (B, C, *grid), heads = superpixels.shape, association.shape[1]
    if C % heads or association.shape[0] != B:
        found = f'{tuple(superpixels.shape)} and {tuple(association.shape)}'
        raise ValueError(f'{heads} heads must divide the {C} channels and the batch be the same, got {found}')
    around = neighbours(superpixels.permute(0, 2, 3, 1).unflatten(3, (heads, C // heads)))
    weights = to_small_cells(association.to(superpixels.dtype), tuple(grid)).transpose(-1, -2)
    pixels = torch.matmul(weights, around).unflatten(4, cell_size(association.shape[3:], tuple(grid)))
    pixels = pixels.permute(0, 1, 4, 2, 5, 3, 6)  # (B, sh, ph, sw, pw, heads, d)
    return pixels.reshape(B, *association.shape[3:], C).permute(0, 3, 1, 2)


def upsample_similarity(similarity: Tensor, grid: tuple[int, ...], factor: int) -> Tensor:
    """Bilinear upsampling of the similarity ``(B, heads, 9, h, w)`` of each superpixel inside its own window.

    Neighbour n is not the same superpixel in every cell. Pixels that do not exist or are masked (-inf) take no part.
    """
    B, heads, _, h, w = similarity.shape
    (sh, sw), (ph, pw) = grid, cell_size((h, w), grid)
    cells = _by_cell(similarity, grid).permute(0, 1, 4, 6, 2, 3, 5)  # (B, heads, ph, pw, 9, sh, sw)
    # A superpixel sees the cell that calls it neighbour n at the opposite place of its window, 8 - n.
    windows = shift(cells, -1, float('-inf')).flip(4).unflatten(4, (3, 3))  # (B, heads, ph, pw, 3, 3, sh, sw)
    windows = windows.permute(0, 1, 6, 7, 4, 2, 5, 3).reshape(-1, 1, 3 * ph, 3 * pw)
    valid = windows != float('-inf')
    size = (3 * ph * factor, 3 * pw * factor)
    values = F.interpolate(windows.masked_fill(~valid, 0), size=size, mode='bilinear', align_corners=False)
    share = F.interpolate(valid.to(values.dtype), size=size, mode='bilinear', align_corners=False)
    values = (values / share.masked_fill(share == 0, 1)).masked_fill(share == 0, float('-inf'))
    values = values.reshape(B, heads, sh, sw, 3, ph * factor, 3, pw * factor).permute(0, 1, 5, 7, 4, 6, 2, 3)
    cells = shift(values.flatten(4, 5).flip(4), 1, float('-inf'))  # (B, heads, ph*f, pw*f, 9, sh, sw)
    return cells.permute(0, 1, 4, 5, 2, 6, 3).reshape(B, heads, 9, h * factor, w * factor)


def with_merged_head(similarity: Tensor) -> Tensor:
    """Append the similarity of all heads together, their sum over the square root of their number; at least float32."""
    similarity = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
    return torch.cat([similarity, similarity.sum(1, keepdim=True) / similarity.shape[1] ** 0.5], 1)


def grid_of(similarity: Tensor, cell_size: int) -> tuple[int, int]:
    """Rows and columns of the superpixels of a similarity ``(..., h, w)``, whose last cells may be cut."""
    h, w = similarity.shape[-2:]
    return cover(h, cell_size), cover(w, cell_size)


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
