"""Superpixel cross attention with nine copies of each map, on the weights of a ``SuperpixelCrossAttention``.

The nine neighbours of every pixel are laid beside it as a tensor ``(B, heads, 9, d, h, w)`` before products and sums
are taken, and so are the nine weighted copies of every pixel that its superpixels add up: the form that the equations
suggest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmvit_ext.models.superpixels.attention import SCAIteration, SuperpixelCrossAttention
from mmvit_ext.models.superpixels.grid import shift


def to_pixels(x: Tensor, sign: int, fill: float, cell: int) -> Tensor:
    """A map of superpixels ``(..., sh, sw)`` as every pixel's neighbours see it, ``(..., 9, h, w)``."""
    shifted = shift(x.unsqueeze(-3), sign, fill)
    return shifted.repeat_interleave(cell, -2).repeat_interleave(cell, -1)


def around(superpixels: Tensor, cell: int) -> Tensor:
    """The nine superpixels of every pixel, ``(B, heads, d, sh, sw)`` to ``(B, heads, 9, d, h, w)``."""
    return to_pixels(superpixels, 1, 0.0, cell).transpose(2, 3)


def over_window(x: Tensor, cell: int, fill: float, reduce: str) -> Tensor:
    """Sum or maximum over every superpixel's window, ``(..., 9, h, w)`` to ``(..., sh, sw)``."""
    cells = x.unflatten(-1, (-1, cell)).unflatten(-3, (-1, cell))  # (..., 9, sh, p, sw, p)
    if reduce == 'max':
        return shift(cells.amax((-3, -1)), -1, fill).amax(-3)
    return shift(cells.sum((-3, -1)), -1, fill).sum(-3)


def plain_iteration(module: SCAIteration, pixels: Tensor, superpixels: Tensor) -> tuple[Tensor, Tensor]:
    """One iteration: pixels and superpixels after it."""
    C, cell = pixels.shape[1], pixels.shape[2] // superpixels.shape[2]
    scale = (C // module.num_heads) ** -0.5
    outside = to_pixels(torch.ones_like(superpixels[0, 0]), 1, 0.0, cell) == 0  # (9, h, w)
    placed = module.heads(module.pixel_position(pixels))[:, :, None]  # (B, heads, 1, d, h, w)
    q_s, *kv_s = module.superpixel_qkv(module.superpixel_position(superpixels))

    similarity = (placed * around(module.heads(q_s), cell)).sum(3) * scale  # (B, heads, 9, h, w)
    similarity = similarity.masked_fill(outside, float('-inf'))
    peak = to_pixels(over_window(similarity, cell, float('-inf'), 'max'), 1, 0.0, cell)
    weights = (similarity - peak).exp()
    weights = weights / to_pixels(over_window(weights, cell, 0.0, 'sum'), 1, 1.0, cell)
    copies = placed * weights[:, :, :, None]  # (B, heads, 9, d, h, w)
    pooled = over_window(copies.transpose(2, 3), cell, 0.0, 'sum').flatten(1, 2)
    updated = superpixels + module.superpixel_scale[:, None, None] * pooled

    if module.pixel_scale is not None:
        key, value = (around(module.heads(part), cell) for part in kv_s)
        association = (placed * key).sum(3) * scale
        association = association.masked_fill(outside, float('-inf')).softmax(2)
        lifted = (association[:, :, :, None] * value).sum(2).flatten(1, 2)
        pixels = pixels + module.pixel_scale[:, None, None] * lifted
    return pixels, updated


def plain_attention(module: SuperpixelCrossAttention, pixels: Tensor, superpixels: Tensor) -> tuple[Tensor, Tensor]:
    """All iterations."""
    for iteration in module.iterations:
        pixels, superpixels = plain_iteration(iteration, pixels, superpixels)
    return pixels, superpixels
