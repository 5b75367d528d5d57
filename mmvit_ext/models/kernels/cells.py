"""Superpixel cross attention of one cell in one program: nine products per pixel, and what the cell gives to a window.

The plain form is ``cell_similarity`` and ``pool_cells`` of :mod:`mmvit_ext.models.superpixels.grid`. A superpixel's
softmax runs over the pixels of nine cells: each cell leaves the maximum, the sum and the pooled values for each of its
nine neighbours, and a second kernel merges them.

Shapes: B batch, K heads, d channels of a head, (sh, sw) superpixels, p pixels of a cell.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmvit_ext.models.superpixels.grid import cell_similarity, pool_cells

__all__ = ['fused_cells', 'plain_cells']


@triton.jit
def _cells(
    keys, values, queries, similarity, peaks, sums, pooled, sh, sw, K, p, d, scale, PP: tl.constexpr, DP: tl.constexpr
):
    cell, head = tl.program_id(0), tl.program_id(1)  # cells of all images
    row, column = (cell // sw) % sh, cell % sw
    pixel, channel = tl.arange(0, PP), tl.arange(0, DP)
    real = (pixel[:, None] < p) & (channel[None] < d)
    place = ((cell * K + head) * p + pixel[:, None]) * d + channel[None]
    k = tl.load(keys + place, real, 0.0).to(tl.float32)
    v = tl.load(values + place, real, 0.0).to(tl.float32)
    for n in tl.static_range(9):
        down, right = n // 3 - 1, n % 3 - 1
        inside = (row + down >= 0) & (row + down < sh) & (column + right >= 0) & (column + right < sw)
        other = cell + down * sw + right
        q = tl.load(queries + (other * K + head) * d + channel, (channel < d) & inside, 0.0).to(tl.float32)
        products = tl.sum(k * q[None], 1) * scale
        products = tl.where(inside & (pixel < p), products, float('-inf'))
        tl.store(similarity + ((cell * K + head) * 9 + n) * p + pixel, products, pixel < p)
        peak = tl.max(products, 0)
        weights = tl.exp(products - tl.where(peak == float('-inf'), 0.0, peak))
        slot = (cell * K + head) * 9 + n
        tl.store(peaks + slot, peak)
        tl.store(sums + slot, tl.sum(weights, 0))
        tl.store(pooled + slot * d + channel, tl.sum(weights[:, None] * v, 0), channel < d)


@triton.jit
def _merge(peaks, sums, pooled, out, sh, sw, K, d, DP: tl.constexpr):
    superpixel, head = tl.program_id(0), tl.program_id(1)
    row, column = (superpixel // sw) % sh, superpixel % sw
    channel = tl.arange(0, DP)
    top = float('-inf')
    for n in tl.static_range(9):  # the cell that calls this superpixel its neighbour n is on the other side
        up, left = n // 3 - 1, n % 3 - 1
        inside = (row - up >= 0) & (row - up < sh) & (column - left >= 0) & (column - left < sw)
        slot = ((superpixel - up * sw - left) * K + head) * 9 + n
        top = tl.maximum(top, tl.load(peaks + slot, inside, float('-inf')))
    top = tl.where(top == float('-inf'), 0.0, top)
    total = 0.0
    mean = tl.zeros([DP], tl.float32)
    for n in tl.static_range(9):
        up, left = n // 3 - 1, n % 3 - 1
        inside = (row - up >= 0) & (row - up < sh) & (column - left >= 0) & (column - left < sw)
        slot = ((superpixel - up * sw - left) * K + head) * 9 + n
        factor = tl.exp(tl.load(peaks + slot, inside, float('-inf')) - top)
        total += factor * tl.load(sums + slot, inside, 0.0)
        mean += factor * tl.load(pooled + slot * d + channel, (channel < d) & inside, 0.0)
    total = tl.where(total == 0, 1.0, total)
    tl.store(out + (superpixel * K + head) * d + channel, mean / total, channel < d)


def plain_cells(keys: Tensor, values: Tensor, queries: Tensor, cell: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Similarity ``(B, K, 9, h, w)`` and what each superpixel collects ``(B, K, d, sh, sw)``."""
    similarity = cell_similarity(keys, queries, cell)
    return similarity, pool_cells(similarity, values)


class _FusedCells(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, keys: Tensor, values: Tensor, queries: Tensor, cell: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(keys, values, queries)
        ctx.cell = cell
        B, sh, sw, K, p, d = keys.shape
        by_cell = queries.permute(0, 3, 4, 1, 2).contiguous()  # (B, sh, sw, K, d)
        similarity = keys.new_empty(B, sh, sw, K, 9, p)
        out = keys.new_empty(B, sh, sw, K, d)
        peaks, sums = (torch.empty(B, sh, sw, K, 9, device=keys.device) for _ in range(2))
        pooled = torch.empty(B, sh, sw, K, 9, d, device=keys.device)
        grid = (B * sh * sw, K)
        padded = (max(2, triton.next_power_of_2(p)), triton.next_power_of_2(d))
        tensors = (keys.contiguous(), values.contiguous(), by_cell, similarity)
        _cells[grid](*tensors, peaks, sums, pooled, sh, sw, K, p, d, d**-0.5, *padded)
        _merge[grid](peaks, sums, pooled, out, sh, sw, K, d, padded[1])
        ph, pw = cell
        maps = similarity.unflatten(5, (ph, pw)).permute(0, 3, 4, 1, 5, 2, 6)  # (B, K, 9, sh, ph, sw, pw)
        return maps.reshape(B, K, 9, sh * ph, sw * pw), out.permute(0, 3, 4, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_similarity: Tensor, grad_pooled: Tensor) -> tuple[Tensor | None, ...]:
        keys, values, queries = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
        with torch.enable_grad():
            similarity, pooled = plain_cells(keys, values, queries, ctx.cell)
        # A pixel outside the grid has similarity -inf, whose gradient is none.
        grad_similarity = grad_similarity.masked_fill(similarity == float('-inf'), 0)
        grads = (grad_similarity, grad_pooled)
        return *torch.autograd.grad((similarity, pooled), (keys, values, queries), grads), None


def fused_cells(keys: Tensor, values: Tensor, queries: Tensor, cell: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """:func:`plain_cells` of keys and values in cells ``(B, sh, sw, K, p, d)``, in two kernels."""
    return _FusedCells.apply(keys, values, queries, cell)
