"""Superpixel cross attention on a CPU, image by image.

A map of all pixel features of a batch is larger than the caches and, worse, larger than what the C library's allocator
reuses: each new one costs more in page faults than the arithmetic on it. What lives only between two steps of an
iteration (pixels with their position, pixels sorted into cells) is therefore made for one image at a time and made
again for the backward pass; no copy of the pixel map is kept. The results are those of
:mod:`mmvit_ext.models.layers.superpixel`. Gradients are not differentiable again.

Shapes: B batch, C = heads * d channels, (h, w) pixels, (sh, sw) superpixels, p pixels of a cell.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmvit_ext.models.layers.autocast import autocast_dtype
from mmvit_ext.models.layers.compiling import is_compiling
from mmvit_ext.models.layers.superpixel import (
    cell_size,
    from_cells,
    from_small_cells,
    neighbour_sum,
    neighbours,
    outside_grid,
    superpixel_to_pixel,
    to_cells,
    to_small_cells,
    window_softmax,
    window_softmax_backward,
)

__all__ = ['add_lifted', 'applies_to', 'gather']


def applies_to(pixels: Tensor) -> bool:
    """Whether this route is taken: plain float arithmetic on a CPU, outside traced graphs."""
    return (
        pixels.device.type == 'cpu'
        and pixels.dtype in (torch.float32, torch.float64)
        and not is_compiling()
        and autocast_dtype(pixels) is None
    )


def gather(
    pixels: Tensor, weight: Tensor, bias: Tensor, queries: Tensor, keys: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """What the superpixels take from the pixels, and whom the pixels look at, with ``x = pixels + DWConv(pixels)``.

    Args:
        pixels: ``(B, C, h, w)``.
        weight: depthwise kernel ``(C, 1, 3, 3)``.
        bias: ``(C,)``.
        queries: of the superpixels, ``(B, heads, d, sh, sw)``.
        keys: of the superpixels, the same shape, or ``None`` where no association is wanted.

    Returns:
        the similarity of x and the queries ``(B, heads, 9, h, w)``; x pooled by its window softmax
        ``(B, heads, d, sh, sw)``; the softmax over 9 of the similarity of x and the keys, or ``None``; the pixels,
        unchanged. Whoever goes on with the pixels takes these, so that their gradient is added up image by image.
    """
    similarity, pooled, association, same = _Gather.apply(pixels, weight, bias, queries, keys)
    return similarity, pooled, association if keys is not None else None, same


def add_lifted(pixels: Tensor, superpixels: Tensor, association: Tensor) -> Tensor:
    """``pixels + superpixel_to_pixel(superpixels, association)``, image by image where that applies.

    Args:
        pixels: ``(B, C, h, w)``.
        superpixels: ``(B, C, sh, sw)``.
        association: ``(B, heads, 9, h, w)``.

    Returns:
        ``(B, C, h, w)``, channels last in memory.
    """
    if not applies_to(pixels):
        return pixels + superpixel_to_pixel(superpixels, association)
    return _AddLifted.apply(pixels, superpixels, association)


def _with_identity(weight: Tensor) -> Tensor:
    """Kernel of ``x + DWConv(x)``."""
    weight = weight.clone()
    weight[:, 0, 1, 1] += 1
    return weight


def _unfold(parts: list[Tensor]) -> Tensor:
    """Neighbours of several superpixel maps ``(B, heads, d, sh, sw)`` at once, ``(B, sh, sw, heads, 9 * parts, d)``.

    Neighbour n of part i is row ``n * parts + i``.
    """
    stacked = torch.stack([part.permute(0, 3, 4, 1, 2) for part in parts], dim=4)  # (B, sh, sw, heads, parts, d)
    return neighbours(stacked.flatten(4)).unflatten(5, stacked.shape[4:]).flatten(4, 5)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pixels: Tensor, weight: Tensor, bias: Tensor, queries: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, ...]:
        heads, d, *edges = queries.shape[1:]
        B, grid = len(pixels), tuple(edges)
        cell = cell_size(pixels.shape[2:], grid)
        outside = outside_grid(grid, pixels.device).permute(1, 2, 0)[:, :, None, None]  # (sh, sw, 1, 1, 9)
        kernel = _with_identity(weight)
        parts = [x * d**-0.5 for x in (queries, keys) if x is not None]
        similarity = pixels.new_empty(B, heads, 9, *pixels.shape[2:])
        association = torch.empty_like(similarity) if keys is not None else pixels.new_empty(0)
        weights = torch.empty_like(similarity)
        pooled = pixels.new_empty(B, *grid, heads, d)
        for i in range(B):
            one = slice(i, i + 1)
            cells = to_cells(_placed(pixels[one], kernel, bias).unflatten(1, (heads, d)), grid)
            around = _unfold([part[one] for part in parts])
            products = torch.matmul(cells, around.transpose(-1, -2)).unflatten(5, (9, len(parts)))
            seen = [part.masked_fill(outside, float('-inf')) for part in products.unbind(6)]
            similarity[one] = from_small_cells(seen[0], cell)
            weights[one] = window_softmax(similarity[one], grid)
            pooled[one] = neighbour_sum(torch.matmul(to_small_cells(weights[one], grid), cells))
            if keys is not None:
                association[one] = from_small_cells(seen[1], cell).softmax(2)
        ctx.save_for_backward(pixels, weight, bias, queries, keys, weights, association)
        ctx.set_materialize_grads(False)  # zeros for an output that nobody reads would be a whole map
        return similarity, pooled.permute(0, 3, 4, 1, 2), association, pixels.view_as(pixels)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        grad_similarity: Tensor | None,
        grad_pooled: Tensor | None,
        grad_association: Tensor | None,
        grad_pixels: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        pixels, weight, bias, queries, keys, weights, association = ctx.saved_tensors
        grad_pooled = torch.zeros_like(queries) if grad_pooled is None else grad_pooled
        heads, d, *edges = queries.shape[1:]
        (B, C), grid = pixels.shape[:2], tuple(edges)
        cell = cell_size(pixels.shape[2:], grid)
        outside = outside_grid(grid, pixels.device).repeat_interleave(cell[0], 1).repeat_interleave(cell[1], 2)
        kernel = _with_identity(weight)
        parts = [grad_pooled, *(x * d**-0.5 for x in (queries, keys) if x is not None)]
        out = torch.empty_like(pixels, memory_format=torch.channels_last)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        grad_parts = pixels.new_empty(B, *grid, heads, (len(parts) - 1) * d)
        for i in range(B):
            one = slice(i, i + 1)
            cells = to_cells(_placed(pixels[one], kernel, bias).unflatten(1, (heads, d)), grid)
            around = _unfold([part[one] for part in parts])
            pooled_around = around.unflatten(4, (9, len(parts)))[..., 0, :]
            grad_weights = from_small_cells(torch.matmul(cells, pooled_around.transpose(-1, -2)), cell)
            grad_scores = window_softmax_backward(weights[one], grad_weights, grid)
            if grad_similarity is not None:
                grad_scores = grad_scores + grad_similarity[one]
            maps = [weights[one], grad_scores.masked_fill(outside, 0)]
            if keys is not None:
                if grad_association is None:
                    maps.append(torch.zeros_like(grad_scores))
                else:
                    product = association[one] * grad_association[one]
                    maps.append(product - association[one] * product.sum(2, keepdim=True))
            factors = torch.stack([to_small_cells(x, grid) for x in maps], 5)  # (1, sh, sw, heads, 9, parts, p)
            grad_cells = torch.matmul(factors.flatten(4, 5).transpose(-1, -2), around)
            both = torch.matmul(factors[..., 1:, :].flatten(4, 5), cells)  # (1, sh, sw, heads, 9 * (parts - 1), d)
            grad_parts[one] = neighbour_sum(both.unflatten(4, (9, -1)).flatten(5))
            grad_one, grad_kernel, grad_offset = torch.ops.aten.convolution_backward(
                from_cells(grad_cells, cell),
                pixels[one],
                kernel,
                [C],
                [1, 1],
                [1, 1],
                [1, 1],
                False,
                [0, 0],
                C,
                [True, True, True],
            )
            if grad_pixels is None:
                out[one] = grad_one
            else:
                torch.add(grad_one, grad_pixels[one], out=out[one])
            grad_weight += grad_kernel
            grad_bias += grad_offset
        grads = [(x * d**-0.5).permute(0, 3, 4, 1, 2) for x in grad_parts.split(d, dim=4)] + [None]
        return out, grad_weight, grad_bias, grads[0], grads[1]


def _placed(pixels: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Pixels with their convolutional position, channels last in memory."""
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    return F.conv2d(pixels, kernel, bias, padding=1, groups=pixels.shape[1])


class _AddLifted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor, superpixels: Tensor, association: Tensor) -> Tensor:
        heads, grid = association.shape[1], superpixels.shape[2:]
        cell = cell_size(pixels.shape[2:], grid)
        out = torch.empty_like(pixels, memory_format=torch.channels_last)
        for i in range(len(pixels)):
            one = slice(i, i + 1)
            around = _spread(superpixels[one], heads)
            lifted = torch.matmul(to_small_cells(association[one], grid).transpose(-1, -2), around)
            torch.add(
                _by_pixel(pixels[one], grid, heads), lifted.unflatten(4, cell), out=_by_pixel(out[one], grid, heads)
            )
        ctx.save_for_backward(superpixels, association)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        superpixels, association = ctx.saved_tensors
        heads, grid = association.shape[1], superpixels.shape[2:]
        cell = cell_size(grad.shape[2:], grid)
        grad_superpixels, grad_association = torch.empty_like(superpixels), torch.empty_like(association)
        for i in range(len(grad)):
            one = slice(i, i + 1)
            cells = to_cells(grad[one].unflatten(1, (heads, grad.shape[1] // heads)), grid)
            around = _spread(superpixels[one], heads)
            grad_association[one] = from_small_cells(torch.matmul(cells, around.transpose(-1, -2)), cell)
            pooled = neighbour_sum(torch.matmul(to_small_cells(association[one], grid), cells))
            grad_superpixels[one] = pooled.flatten(3).permute(0, 3, 1, 2)
        return grad, grad_superpixels, grad_association


def _spread(superpixels: Tensor, heads: int) -> Tensor:
    """``(B, C, sh, sw)`` to the neighbours of each cell ``(B, sh, sw, heads, 9, d)``."""
    return neighbours(superpixels.permute(0, 2, 3, 1).unflatten(3, (heads, superpixels.shape[1] // heads)))


def _by_pixel(x: Tensor, grid: tuple[int, ...], heads: int) -> Tensor:
    """``(B, C, h, w)`` as a view ``(B, sh, sw, heads, ph, pw, d)``."""
    B, C, h, w = x.shape
    (sh, sw), (ph, pw) = grid, cell_size((h, w), grid)
    return x.view(B, heads, C // heads, sh, ph, sw, pw).permute(0, 3, 5, 1, 4, 6, 2)
