"""Sizes that an exported graph leaves open: code must take the same way for all of them, where it usually branches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import PatchEmbed as MMCVPatchEmbed
from torch import Tensor

__all__ = ['PatchEmbed', 'cover', 'cut_to', 'is_open', 'is_traced', 'pad_to_multiple', 'pool_windows']


def is_open(*edges: int | torch.SymInt) -> bool:
    """Whether one of the edges is left open by the graph that is being exported."""
    return any(isinstance(edge, torch.SymInt) for edge in edges)


def is_traced() -> bool:
    """Whether a graph is being traced; torch 2.1 knows only the private name."""
    return bool(getattr(torch.compiler, 'is_compiling', torch._utils.is_compiling)())


def cover(edge: int, unit: int) -> int:
    """How many units cover an edge. Never divides a negative number, whose quotient ONNX rounds the other way."""
    return (edge + unit - 1) // unit


def cut_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The first rows and columns of a map ``(..., H, W)``; of an open size a copy, as a view may be the whole map."""
    if not is_open(*size):
        return x[..., : size[0], : size[1]]
    for axis, edge in zip((-2, -1), size, strict=True):
        x = x.index_select(axis, torch.arange(edge, device=x.device))
    return x


def pad_to_multiple(x: Tensor, edge: int) -> Tensor:
    """A map ``(..., H, W)`` with zeros below and on the right up to whole multiples of ``edge``."""
    down, right = (cover(length, edge) * edge - length for length in x.shape[-2:])
    return F.pad(x, (0, right, 0, down)) if is_open(down, right) or down or right else x


def pool_windows(x: Tensor, size: tuple[int, int], *, largest: bool) -> Tensor:
    """Adaptive mean or max pooling of a map to an open size, and a row and column of zeros: 1 could not be open."""
    for target in reversed(size):
        # The last axis is pooled and becomes the last but one, so that the second round pools the other one.
        index, places = torch.arange(target + 1, device=x.device)[:, None], torch.arange(x.shape[-1], device=x.device)
        start, stop = index * x.shape[-1] // target, ((index + 1) * x.shape[-1] + target - 1) // target
        inside = (index < target) & (places >= start) & (places < stop)  # (target + 1, length)
        if largest:
            pooled = torch.where(inside, x.unsqueeze(-2), -torch.inf).amax(-1)
            x = torch.where(index[:, 0] < target, pooled, 0.0).transpose(-1, -2)
        else:
            x = torch.matmul((inside / inside.sum(1, keepdim=True).clamp(min=1)).to(x.dtype), x.transpose(-1, -2))
    return x


class PatchEmbed(MMCVPatchEmbed):
    """mmcv's patch embedding, whose padding ``'corner'`` to whole patches can be exported for open sizes."""

    def __init__(self, patch_size: int, padding: str | int, **kwargs: Any) -> None:
        kwargs['padding'] = 0 if padding == 'corner' else padding
        super().__init__(kernel_size=patch_size, stride=patch_size, **kwargs)
        self.multiple = patch_size if padding == 'corner' else 1

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Image ``(B, C', H, W)`` to tokens ``(B, h*w, C)`` and their grid ``(h, w)``."""
        return super().forward(pad_to_multiple(x, self.multiple))
