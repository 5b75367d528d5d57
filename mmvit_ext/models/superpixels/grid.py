r"""Attention between pixels and the 3x3 superpixels around them.

Paper: SPFormer, Mei et al., arXiv 2401.02931, sections 3.1 and 3.2. A superpixel *cell* is a block of ``ph x pw``
pixels, one superpixel per cell. The neighbours of a pixel are the superpixel of its own cell and the 8 around it; the
window of a superpixel are the pixels of the 3x3 cells around its own. Neighbour ``n = 3 (dy + 1) + (dx + 1)`` with
``dy, dx`` in {-1, 0, 1}, so that n = 4 is a pixel's own cell. A neighbour outside the grid has similarity -inf.

Maps with d channels are never copied nine times: only the superpixels, the small side, are unfolded to ``9 d`` values
per cell, and products are batches of small matrices, one per cell and head.

Shapes: B batch, C channels split over the heads, d = C / heads, (h, w) pixels, (sh, sw) superpixels,
(ph, pw) = (h / sh, w / sw) pixels of a cell.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['pixel_superpixel_similarity', 'pixel_to_superpixel', 'superpixel_to_pixel', 'upsample_similarity']

NEIGHBOURS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
"""Offset in cells of neighbour n."""


def cell_size(size: tuple[int, ...], grid: tuple[int, ...]) -> tuple[int, int]:
    """Pixels ``(ph, pw)`` of a cell; the grid has to divide the map."""
    (h, w), (sh, sw) = size, grid
    if min(sh, sw) < 1 or min(h, w) < 1 or h % sh or w % sw:
        raise ValueError(
            f'a pixel map of {h}x{w} does not divide into {sh}x{sw} superpixel cells; pad it to whole cells first'
        )
    return h // sh, w // sw


def shift(x: Tensor, sign: int, fill: float) -> Tensor:
    """Move ``(..., 9 or 1, sh, sw)`` by neighbour n's offset: ``y[n, i] = x[n, i + sign * offset(n)]``, else ``fill``.

    With sign +1 a superpixel's value goes to the cells that see it as neighbour n; with -1 what cells hold about their
    neighbour n goes to that superpixel.
    """
    sh, sw = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1), value=fill).expand(*x.shape[:-3], 9, sh + 2, sw + 2)
    starts = [(1 + sign * dy, 1 + sign * dx) for dy, dx in NEIGHBOURS]
    return torch.stack([padded[..., n, y : y + sh, x : x + sw] for n, (y, x) in enumerate(starts)], dim=-3)


def to_cells(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Sort a map ``(B, heads, d, h, w)``, quickest with d last in memory, into ``(B, sh, sw, heads, ph * pw, d)``."""
    return _by_cell(x, grid).permute(0, 3, 5, 1, 4, 6, 2).flatten(4, 5)


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
    """Softmax of ``(B, heads, 9, h, w)`` over the pixels of each superpixel's window, seen from the pixels.

    The weights are at least in float32, and exactly 0 where the similarity is -inf, also if a whole window is.
    """
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


def pixel_superpixel_similarity(pixels: Tensor, superpixels: Tensor) -> Tensor:
    r"""Scaled products of every pixel with its 9 neighbour superpixels, :math:`p_i^\top s_{n(i)} / \sqrt d`.

    ``(B, heads, d, h, w)`` and ``(B, heads, d, sh, sw)``, whose grid divides the map, to ``(B, heads, 9, h, w)``.
    """
    if pixels.ndim != 5 or superpixels.ndim != 5 or pixels.shape[:3] != superpixels.shape[:3]:
        raise ValueError(
            f'pixels (B, heads, d, h, w) and superpixels (B, heads, d, sh, sw) must agree in B, heads and d, '
            f'got {tuple(pixels.shape)} and {tuple(superpixels.shape)}'
        )
    grid = superpixels.shape[-2:]
    return cell_similarity(to_cells(pixels, grid), superpixels, cell_size(pixels.shape[-2:], grid))


def cell_similarity(cells: Tensor, superpixels: Tensor, cell: tuple[int, int]) -> Tensor:
    """:func:`pixel_superpixel_similarity` of pixels that :func:`to_cells` has sorted."""
    around = neighbours(superpixels.permute(0, 3, 4, 1, 2) * cells.shape[5] ** -0.5)
    products = torch.matmul(cells, around.transpose(-1, -2))  # (B, sh, sw, heads, ph*pw, 9)
    inside = shift(torch.ones(1, *superpixels.shape[-2:], device=cells.device), 1, 0.0)  # (9, sh, sw)
    products = products.masked_fill(inside.permute(1, 2, 0)[:, :, None, None] == 0, float('-inf'))
    return products.unflatten(4, cell).permute(0, 3, 6, 1, 4, 2, 5).flatten(5).flatten(3, 4)


def pixel_to_superpixel(similarity: Tensor, values: Tensor, cell: int | tuple[int, int] | None = None) -> Tensor:
    r"""Attention of each superpixel to the pixels of its window (P2S; arXiv 2401.02931, section 3.2).

    .. math:: \Delta_s = \sum_{i \in \mathrm{window}(s)} \mathrm{softmax}_i(\mathrm{similarity}_{i, s}) \, v_i

    Args:
        similarity: ``(B, heads, 9, h, w)``, -inf where the neighbour is outside the grid.
        values: ``(B, heads, d, h, w)``.
        cell: Pixels of a cell, an edge or ``(ph, pw)``; when not given, read off the values of the similarity.

    Returns:
        ``(B, heads, d, sh, sw)``; 0 for a superpixel whose whole window has similarity -inf.
    """
    if values.ndim != 5 or similarity.shape != (*values.shape[:2], 9, *values.shape[3:]):
        raise ValueError(
            f'similarity (B, heads, 9, h, w) and values (B, heads, d, h, w) must agree in B, heads, h and w, '
            f'got {tuple(similarity.shape)} and {tuple(values.shape)}'
        )
    h, w = values.shape[-2:]
    if cell is None:  # the first row and column of cells have no neighbours above and on the left
        cell = _leading_infinities(similarity[0, 0, 1, :, 0]), _leading_infinities(similarity[0, 0, 3, 0])
    ph, pw = (cell, cell) if isinstance(cell, int) else cell
    if min(ph, pw) < 1 or h % ph or w % pw:
        raise ValueError(f'cells of {ph}x{pw} pixels do not divide a map of {h}x{w}; pad it to whole cells first')
    return pool_cells(similarity, to_cells(values, (h // ph, w // pw)))


def pool_cells(similarity: Tensor, cells: Tensor) -> Tensor:
    """:func:`pixel_to_superpixel` of values that :func:`to_cells` has sorted."""
    grid = cells.shape[1:3]
    weights = to_small_cells(window_softmax(similarity, grid).to(cells.dtype), grid)
    pooled = torch.matmul(weights, cells)  # (B, sh, sw, heads, 9, d)
    return neighbour_sum(pooled).permute(0, 3, 4, 1, 2)


def _leading_infinities(x: Tensor) -> int:
    """How many of the first entries are -inf."""
    return int((x == float('-inf')).to(torch.uint8).cumprod(0).sum())


def superpixel_to_pixel(superpixels: Tensor, association: Tensor) -> Tensor:
    r"""Pixel features from superpixel features (arXiv 2401.02931, equation 1), per head.

    .. math:: \mathrm{pixel}_i = \sum_{n=0}^{8} A_{n, i} \, S_{n(i)}

    ``(B, C, sh, sw)``, whose channels are split over the heads, and ``(B, heads, 9, h, w)``, softmax over the 9 already
    applied, to ``(B, C, h, w)``, channels last in memory. A neighbour outside the grid counts as zeros.
    """
    if superpixels.ndim != 4 or association.ndim != 5 or association.shape[2] != 9:
        raise ValueError(
            f'expected superpixels (B, C, sh, sw) and association (B, heads, 9, h, w), '
            f'got {tuple(superpixels.shape)} and {tuple(association.shape)}'
        )
    (B, C, *grid), heads = superpixels.shape, association.shape[1]
    if C % heads or association.shape[0] != B:
        raise ValueError(
            f'{heads} heads must divide the {C} channels and the batch be the same, '
            f'got {tuple(superpixels.shape)} and {tuple(association.shape)}'
        )
    around = neighbours(superpixels.permute(0, 2, 3, 1).unflatten(3, (heads, C // heads)))
    weights = to_small_cells(association.to(superpixels.dtype), tuple(grid)).transpose(-1, -2)
    pixels = torch.matmul(weights, around).unflatten(4, cell_size(association.shape[3:], tuple(grid)))
    pixels = pixels.permute(0, 1, 4, 2, 5, 3, 6)  # (B, sh, ph, sw, pw, heads, d)
    return pixels.reshape(B, *association.shape[3:], C).permute(0, 3, 1, 2)


def upsample_similarity(similarity: Tensor, grid: tuple[int, ...], factor: int) -> Tensor:
    """Bilinear upsampling of the similarity ``(B, heads, 9, h, w)`` of each superpixel inside its own window.

    Neighbour n of two pixels in different cells is not the same superpixel, so the 9 channels cannot be resized as
    they are. Pixels that do not exist or are masked (-inf) take no part.
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
