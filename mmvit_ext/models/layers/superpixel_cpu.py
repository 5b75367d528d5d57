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

from mmvit_ext.models.layers.superpixel import (
    cell_size,
    from_cells,
    from_small_cells,
    neighbour_sum,
    neighbours,
    outside_grid,
    to_cells,
    to_small_cells,
    window_softmax,
    window_softmax_backward,
)

__all__ = ['add_lifted', 'gather']


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
    """``pixels + superpixel_to_pixel(superpixels, association)``.

    Args:
        pixels: ``(B, C, h, w)``.
        superpixels: ``(B, C, sh, sw)``.
        association: ``(B, heads, 9, h, w)``.

    Returns:
        ``(B, C, h, w)``, channels last in memory.
    """
    return _AddLifted.apply(pixels, superpixels, association)


def _with_identity(weight: Tensor) -> Tensor:
    """Kernel of ``x + DWConv(x)``."""
    weight = weight.clone()
    weight[:, 0, 1, 1] += 1
    return weight


def _cells_first(x: Tensor) -> Tensor:
    """``(B, heads, d, sh, sw)`` to ``(B, sh, sw, heads, d)``."""
    return x.permute(0, 3, 4, 1, 2)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pixels: Tensor, weight: Tensor, bias: Tensor, queries: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, ...]:
        B, _, h, w = pixels.shape
        heads, d, *grid = queries.shape[1:]
        cell = cell_size((h, w), tuple(grid))
        outside = outside_grid(tuple(grid), pixels.device).permute(1, 2, 0)[:, :, None, None]  # (sh, sw, 1, 1, 9)
        kernel, scale = _with_identity(weight), d**-0.5
        similarity = pixels.new_empty(B, heads, 9, h, w)
        association = pixels.new_empty(B, heads, 9, h, w) if keys is not None else pixels.new_empty(0)
        weights = torch.empty_like(similarity)
        pooled = pixels.new_empty(B, *grid, heads, d)
        for i in range(B):
            one = slice(i, i + 1)
            cells = _placed_cells(pixels[one], kernel, bias, heads, grid)
            around = neighbours(_cells_first(queries[one] * scale))
            if keys is not None:
                around = torch.cat([around, neighbours(_cells_first(keys[one] * scale))], dim=4)
            products = torch.matmul(cells, around.transpose(-1, -2))  # (1, sh, sw, heads, p, 9 or 18)
            similarity[one] = from_small_cells(products[..., :9].masked_fill(outside, float('-inf')), cell)
            weights[one] = window_softmax(similarity[one], tuple(grid))
            pooled[one] = neighbour_sum(torch.matmul(to_small_cells(weights[one], tuple(grid)), cells))
            if keys is not None:
                shares = products[..., 9:].masked_fill(outside, float('-inf')).softmax(-1)
                association[one] = from_small_cells(shares, cell)
        ctx.save_for_backward(pixels, weight, bias, queries, keys, weights, association)
        return similarity, pooled.permute(0, 3, 4, 1, 2), association, pixels.view_as(pixels)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_similarity: Tensor, grad_pooled: Tensor, grad_association: Tensor, grad_pixels: Tensor
    ) -> tuple[Tensor | None, ...]:
        pixels, weight, bias, queries, keys, weights, association = ctx.saved_tensors
        heads, d, *grid = queries.shape[1:]
        B, C, h, w = pixels.shape
        cell = cell_size((h, w), tuple(grid))
        outside = outside_grid(tuple(grid), pixels.device).permute(1, 2, 0)[:, :, None, None]
        kernel, scale = _with_identity(weight), d**-0.5
        out = torch.empty_like(pixels, memory_format=torch.channels_last)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        grads = [pixels.new_empty(B, *grid, heads, d) for _ in range(1 if keys is None else 2)]
        for i in range(B):
            one = slice(i, i + 1)
            placed = _placed(pixels[one], kernel, bias)
            cells = to_cells(placed.unflatten(1, (heads, d)), tuple(grid))
            grad_around = neighbours(_cells_first(grad_pooled[one]))
            around = [
                neighbours(_cells_first(x[one] * scale)) for x in ((queries,) if keys is None else (queries, keys))
            ]
            grad_weights = from_small_cells(torch.matmul(cells, grad_around.transpose(-1, -2)), cell)
            grad_scores = window_softmax_backward(weights[one], grad_weights, tuple(grid)) + grad_similarity[one]
            scores = [to_small_cells(grad_scores, tuple(grid)).transpose(-1, -2).masked_fill(outside, 0)]
            if keys is not None:
                product = association[one] * grad_association[one]
                share = product - association[one] * product.sum(2, keepdim=True)
                scores.append(to_small_cells(share, tuple(grid)).transpose(-1, -2))
            shares = to_small_cells(weights[one], tuple(grid)).transpose(-1, -2)
            grad_cells = torch.matmul(torch.cat([shares, *scores], -1), torch.cat([grad_around, *around], -2))
            both = torch.matmul(torch.cat(scores, -1).transpose(-1, -2), cells)  # (1, sh, sw, heads, 9 or 18, d)
            for part, grad in zip(both.split(9, dim=4), grads, strict=True):
                grad[one] = neighbour_sum(part)
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
            torch.add(grad_one, grad_pixels[one], out=out[one])
            grad_weight += grad_kernel
            grad_bias += grad_offset
        inputs = [(grad * scale).permute(0, 3, 4, 1, 2) for grad in grads] + [None]
        return out, grad_weight, grad_bias, inputs[0], inputs[1]


def _placed(pixels: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Pixels with their convolutional position, channels last in memory."""
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    return F.conv2d(pixels, kernel, bias, padding=1, groups=pixels.shape[1])


def _placed_cells(pixels: Tensor, kernel: Tensor, bias: Tensor, heads: int, grid: list[int]) -> Tensor:
    placed = _placed(pixels, kernel, bias)
    return to_cells(placed.unflatten(1, (heads, placed.shape[1] // heads)), tuple(grid))


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
