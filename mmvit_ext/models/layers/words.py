"""Words of TNT (arXiv 2103.00112): cutting them from an image and projecting them to the token of their patch.

Shapes: B batch, (h, w) grid of patches, n = h w, m words of a patch, c width of the words, C width of the patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmvit_ext.models.layers.linear import Linear

__all__ = ['SqueezeExcitation', 'WordEmbedding', 'WordProjection', 'embed_words']

WORD_KERNEL = 7
SE_REDUCTION = 4
WORD_PADDINGS = ('patch', 'image')
WORD_NORMS = ('sentence', 'word')


def embed_words(img: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int, patch_size: int) -> Tensor:
    """A convolution of every patch of an image by itself, padded with zeros at the border of the patch.

    Both ways copy the image once. Where a patch has many words, every patch becomes an image of its own, and the
    convolution pads it. Where it has four or fewer, a row of patches is one image in which they stand apart by gutters
    of zeros, because tiny images cost more than the words in the gutters, which nobody reads. Measured figures, also of
    other ways, are in docs/benchmarks.md.

    Args:
        img: ``(B, C', H, W)``, H and W multiples of ``patch_size``.
        weight: ``(c, C', k, k)``, k odd; the padding is ``k // 2``.
        bias: ``(c,)`` or None.
        stride: of the convolution, in pixels; divides ``patch_size``.
        patch_size: edge of a patch in pixels.

    Returns:
        words of every patch ``(B*n, m, c)``, row by row.
    """
    B, C, H, W = img.shape
    h, w, edge = H // patch_size, W // patch_size, patch_size // stride
    margin = weight.shape[-1] // 2
    patches = img.view(B, C, h, patch_size, w, patch_size).permute(0, 2, 4, 1, 3, 5)  # (B, h, w, C', patch, patch)
    if edge > 2:
        words = F.conv2d(patches.flatten(0, 2), weight, bias, stride=stride, padding=margin)  # (B*n, c, edge, edge)
        return words.flatten(2).transpose(1, 2).contiguous()
    gutter = -(-margin // stride) * stride  # a multiple of the stride: windows keep their place in every patch
    cell = patch_size + gutter
    strips = img.new_zeros(B, h, C, patch_size, w * cell + max(gutter + margin + 1 - stride, 0))
    strips[..., : w * cell].unflatten(-1, (w, cell))[..., gutter:] = patches.permute(0, 1, 3, 4, 2, 5)
    rows = strips.flatten(0, 1)[..., gutter - margin :]  # (B*h, C', patch, *)
    words = F.conv2d(rows, weight, bias, stride=stride, padding=(margin, 0))  # (B*h, c, edge, *)
    words = words[..., : w * cell // stride].unflatten(-1, (w, cell // stride))[..., :edge]
    return words.permute(0, 3, 2, 4, 1).reshape(B * h * w, edge * edge, -1)


class WordEmbedding(nn.Module):
    """Image to the words of its patches: a 7 x 7 convolution.

    Args:
        in_channels: image channels.
        embed_dims: width c.
        stride: edge of a word in pixels.
        patch_size: edge of a patch in pixels.
        padding: ``'patch'``, zeros at the border of each patch, or ``'image'``, at the border of the image only.
    """

    def __init__(self, in_channels: int, embed_dims: int, *, stride: int, patch_size: int, padding: str) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, embed_dims, WORD_KERNEL, stride, WORD_KERNEL // 2)
        self.stride, self.patch_size, self.padding = stride, patch_size, padding

    def forward(self, img: Tensor) -> Tensor:
        """``(B, in_channels, H, W)``, multiples of the patch, to ``(B*n, m, c)``."""
        if self.padding == 'patch':
            weight, bias = self.projection.weight, self.projection.bias
            return embed_words(img, weight, bias, stride=self.stride, patch_size=self.patch_size)
        edge = self.patch_size // self.stride
        words = self.projection(img).unflatten(3, (-1, edge)).unflatten(2, (-1, edge))  # (B, c, h, edge, w, edge)
        return words.permute(0, 2, 4, 3, 5, 1).reshape(-1, edge * edge, words.shape[1])


class WordProjection(nn.Module):
    """All words of a patch to one vector of the patches' width.

    Args:
        num_words: m.
        word_dims: c.
        embed_dims: C.
        norm: ``'sentence'`` normalises the m c numbers of a patch together, and the result again; ``'word'``
            normalises every word by itself and not the result.
        bias: whether the projection has a bias.
        norm_cfg: normalisation, mmcv style.
    """

    def __init__(
        self, num_words: int, word_dims: int, embed_dims: int, *, norm: str, bias: bool, norm_cfg: Mapping[str, Any]
    ) -> None:
        super().__init__()
        width = num_words * word_dims
        self.per_word = norm == 'word'
        self.norm1 = build_norm_layer(dict(norm_cfg), word_dims if self.per_word else width)[1]
        self.proj = Linear(width, embed_dims, bias=bias)
        self.norm2 = nn.Identity() if self.per_word else build_norm_layer(dict(norm_cfg), embed_dims)[1]

    def forward(self, words: Tensor) -> Tensor:
        """``(B*n, m, c)`` to ``(B*n, C)``."""
        normalised = self.norm1(words).flatten(1) if self.per_word else self.norm1(words.flatten(1))
        return self.norm2(self.proj(normalised))


class SqueezeExcitation(nn.Module):
    """Gates the channels of all tokens by what their mean says (arXiv 1709.01507).

    Args:
        embed_dims: width C.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, embed_dims // SE_REDUCTION)
        self.fc2 = nn.Linear(embed_dims // SE_REDUCTION, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, N, C)``."""
        return x * self.fc2(self.fc1(x.mean(1, keepdim=True)).relu()).sigmoid()
