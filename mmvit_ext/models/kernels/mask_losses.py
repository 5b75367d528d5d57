"""Losses of matched masks in one pass over the label map, and their gradient in another.

The plain form is :func:`mmvit_ext.models.layers.masks.mask_losses`, which reads and writes some 25 maps of the label's
size for every mask; here an upsampled mask is never in memory. Masks come with their rows interpolated already, columns
are interpolated by a matrix product inside.

Shapes: S stages, M masks, (h, w) mask size, (H, W) label size.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmvit_ext.models.layers.masks import FOCAL_ALPHA, bilinear_matrix

__all__ = ['fused_mask_losses']

BLOCK = 32  # rows and columns of a label that a program has at a time
SUMS = 5  # focal loss, hits, probabilities, area, pixels


@triton.jit
def _pixels(rows, columns, label, classes, images, program, y, x, H, W, w, M, IGNORE, WP: tl.constexpr):
    """Signed logits, target and whether they count, of the pixels of a block, and the block's columns."""
    source = tl.arange(0, WP)
    row = tl.load(rows + (program * H + y[:, None]) * w + source[None], (y[:, None] < H) & (source[None] < w), 0.0)
    column = tl.load(columns + x[:, None] * w + source[None], (x[:, None] < W) & (source[None] < w), 0.0)
    inside = (y[:, None] < H) & (x[None] < W)
    image = tl.load(images + program % M)
    found = tl.load(label + (image * H + y[:, None]) * W + x[None], inside, -1)
    target = (found == tl.load(classes + program % M)) & inside
    logits = tl.dot(row, tl.trans(column), input_precision='ieee')
    return tl.where(target, -logits, logits), target, inside & (found != IGNORE), column


@triton.jit
def _sums(
    rows, columns, label, classes, images, out, H, W, w, M, IGNORE, ALPHA,
    WP: tl.constexpr, BLOCK: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    program, strip = tl.program_id(0), tl.program_id(1)
    y = strip * BLOCK + tl.arange(0, BLOCK)
    focal = tl.zeros([BLOCK, BLOCK], tl.float32)
    hits, total, area, pixels = focal, focal, focal, focal
    for start in range(0, W, BLOCK):
        x = start + tl.arange(0, BLOCK)
        z, target, keep, _ = _pixels(rows, columns, label, classes, images, program, y, x, H, W, w, M, IGNORE, WP)
        error = tl.where(keep, 1 / (1 + tl.exp(-z)), 0.0)
        entropy = tl.maximum(z, 0.0) + tl.log(1 + tl.exp(-tl.abs(z)))
        focal += tl.where(target, ALPHA, 1 - ALPHA) * error * error * entropy
        hits += tl.where(target, 1 - error, 0.0)
        total += tl.where(target, 1 - error, error)
        area += tl.where(target, 1.0, 0.0)
        pixels += tl.where(keep, 1.0, 0.0)
    place = out + (program * tl.num_programs(1) + strip) * SUMS
    tl.store(place, tl.sum(tl.sum(focal, 1), 0))
    tl.store(place + 1, tl.sum(tl.sum(hits, 1), 0))
    tl.store(place + 2, tl.sum(tl.sum(total, 1), 0))
    tl.store(place + 3, tl.sum(tl.sum(area, 1), 0))
    tl.store(place + 4, tl.sum(tl.sum(pixels, 1), 0))


@triton.jit
def _gradient(
    rows, columns, label, classes, images, factors, out, H, W, w, M, IGNORE, ALPHA,
    WP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program, strip = tl.program_id(0), tl.program_id(1)
    y = strip * BLOCK + tl.arange(0, BLOCK)
    of_focal, of_hits = tl.load(factors + 3 * program), tl.load(factors + 3 * program + 1)
    of_area = tl.load(factors + 3 * program + 2)
    grad = tl.zeros([BLOCK, WP], tl.float32)
    for start in range(0, W, BLOCK):
        x = start + tl.arange(0, BLOCK)
        z, target, keep, column = _pixels(rows, columns, label, classes, images, program, y, x, H, W, w, M, IGNORE, WP)
        error = tl.where(keep, 1 / (1 + tl.exp(-z)), 0.0)
        entropy = tl.maximum(z, 0.0) + tl.log(1 + tl.exp(-tl.abs(z)))
        slope = error * (1 - error)
        focal = of_focal * tl.where(target, -ALPHA, 1 - ALPHA) * error * (2 * slope * entropy + error * error)
        dice = (of_area - tl.where(target, of_hits, 0.0)) * slope
        grad += tl.dot(focal + dice, column, input_precision='ieee')
    source = tl.arange(0, WP)
    tl.store(out + (program * H + y[:, None]) * w + source[None], grad, (y[:, None] < H) & (source[None] < w))


class _FusedMaskLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, masks: Tensor, label: Tensor, images: Tensor, classes: Tensor, ignore: int | None, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        S, M, h, w = masks.shape
        H, W = label.shape[-2:]
        vertical, columns = bilinear_matrix(h, H, masks), bilinear_matrix(w, W, masks)
        rows = torch.matmul(vertical, masks).contiguous()  # (S, M, H, w)
        # Impossible labels stand for "no pixel is ignored" and for "outside of the label map".
        fixed = (H, W, w, M, -2 if ignore is None else ignore, FOCAL_ALPHA)
        padded = max(16, triton.next_power_of_2(w))
        grid = (S * M, triton.cdiv(H, BLOCK))
        parts = masks.new_empty(*grid, SUMS)
        tensors = (rows, columns, label.contiguous(), classes, images)
        if S * M:
            _sums[grid](*tensors, parts, *fixed, padded, BLOCK, SUMS)
        focal, hits, total, area, pixels = parts.sum(1).view(S, M, SUMS).unbind(-1)
        pixels, union = pixels.clamp(min=1), total + area + 1
        ctx.save_for_backward(
            *tensors, vertical, weights / pixels, 2 * weights / union, weights * (2 * hits + 1) / union**2
        )
        ctx.call = fixed, padded, grid
        return (weights * focal / pixels).sum(1), (weights * (1 - (2 * hits + 1) / union)).sum(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_focal: Tensor, grad_dice: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, vertical, of_focal, of_hits, of_area = ctx.saved_tensors
        fixed, padded, grid = ctx.call
        of_dice = grad_dice[:, None]
        factors = torch.stack([of_focal * grad_focal[:, None], of_hits * of_dice, of_area * of_dice], -1).contiguous()
        out = torch.empty_like(tensors[0])  # (S, M, H, w)
        if grid[0]:
            _gradient[grid](*tensors, factors, out, *fixed, padded, BLOCK)
        return torch.matmul(vertical.T, out), None, None, None, None, None


def fused_mask_losses(
    masks: Tensor,
    label: Tensor,
    image_index: Tensor,
    class_index: Tensor,
    ignore_index: int | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`mmvit_ext.models.layers.masks.mask_losses` of float32 masks, in two kernels."""
    weights = masks.new_ones(masks.shape[1]) if weights is None else weights
    return _FusedMaskLosses.apply(masks, label, image_index, class_index, ignore_index, weights)
