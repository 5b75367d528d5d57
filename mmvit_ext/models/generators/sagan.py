"""Convolutional networks of adversarial training: a generator to compare with, and the discriminator for both.

Paper: Self-Attention Generative Adversarial Networks, Zhang et al., ICML 2019, arXiv 1805.08318; here without classes.
Attention is not fused, because a gradient penalty differentiates it twice, which fused kernels cannot do.

Shapes: B batch, Z noise, C width, H and W a map's size.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mmvit_ext.registry import MODELS

__all__ = ['ConvDiscriminator', 'ConvGenerator']

FIRST_EDGE = 4  # in pixels, of the map that noise becomes


def check_levels(embed_dims: Sequence[int], attention_level: int | None) -> None:
    """Raise ``ValueError`` unless there are widths, all multiples of 8, and the level of the attention exists."""
    last = len(embed_dims) - 1
    if not embed_dims or any(width < 8 or width % 8 for width in embed_dims):
        raise ValueError(f'embed_dims must be one multiple of 8 or several, got {tuple(embed_dims)}')
    if attention_level is not None and not 0 <= attention_level <= last:
        raise ValueError(f'attention_level must be 0 to {last} or None for no attention, got {attention_level}')


def conv(in_dims: int, out_dims: int, kernel: int, bias: bool = True) -> nn.Module:
    """Convolution with spectral norm that keeps the size of a map."""
    return spectral_norm(nn.Conv2d(in_dims, out_dims, kernel, padding=kernel // 2, bias=bias))


class PlaneAttention(nn.Module):
    """``x + g o(softmax(q k^T) v)`` on the image plane (arXiv 1805.08318, equations 1 to 3), g learned from 0."""

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.query, self.key = (conv(embed_dims, embed_dims // 8, 1, bias=False) for _ in range(2))
        self.value = conv(embed_dims, embed_dims // 2, 1, bias=False)
        self.out = conv(embed_dims // 2, embed_dims, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same."""
        query = self.query(x).flatten(2).transpose(1, 2)  # (B, H W, C / 8)
        key = F.max_pool2d(self.key(x), 2).flatten(2)  # (B, C / 8, H W / 4)
        value = F.max_pool2d(self.value(x), 2).flatten(2)  # (B, C / 2, H W / 4)
        weights = torch.matmul(query, key).softmax(-1)
        out = torch.matmul(value, weights.transpose(1, 2)).unflatten(2, x.shape[2:])  # (B, C / 2, H, W)
        return x + self.gain * self.out(out)


class UpBlock(nn.Module):
    """Residual block that doubles the map: norm, ReLU, nearest neighbours, convolution; norm, ReLU, convolution."""

    def __init__(self, in_dims: int, embed_dims: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_dims)
        self.conv1 = conv(in_dims, embed_dims, 3)
        self.norm2 = nn.BatchNorm2d(embed_dims)
        self.conv2 = conv(embed_dims, embed_dims, 3)
        self.skip = conv(in_dims, embed_dims, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C', H, W)`` to ``(B, C, 2 H, 2 W)``."""
        out = self.conv1(F.interpolate(self.norm1(x).relu(), scale_factor=2.0))
        # A 1x1 convolution and nearest neighbours can change places, which takes a quarter of the operations.
        return self.conv2(self.norm2(out).relu()) + F.interpolate(self.skip(x), scale_factor=2.0)


class DownBlock(nn.Module):
    """Residual block that halves the map: ReLU (but in the first), convolution, ReLU, convolution, mean over 2x2."""

    def __init__(self, in_dims: int, embed_dims: int, *, first: bool) -> None:
        super().__init__()
        self.conv1 = conv(in_dims, embed_dims, 3)
        self.conv2 = conv(embed_dims, embed_dims, 3)
        self.skip = conv(in_dims, embed_dims, 1)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C', H, W)`` to ``(B, C, H / 2, W / 2)``."""
        out = self.conv2(self.conv1(x if self.first else x.relu()).relu())
        return F.avg_pool2d(out, 2) + self.skip(F.avg_pool2d(x, 2))


@MODELS.register_module()
class ConvGenerator(BaseModule):
    """Images from noise by residual convolutions and one self-attention, as in SAGAN (arXiv 1805.08318).

    Args:
        embed_dims: Width of each level, multiples of 8; the first one is 4x4 pixels, each further one twice the edge.
        noise_dims: Numbers of a noise vector, Z.
        attention_level: Level after which the self-attention acts, from 0; None for no attention.
        out_channels: Image channels.
        init_cfg: Initialisation, mmengine style.

    Shape:
        Input ``(B, noise_dims)``; output ``(B, out_channels, S, S)`` with values from -1 to 1, where S is
        ``4 * 2 ** (levels - 1)`` pixels.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (1024, 512, 256, 128, 64),
        *,
        noise_dims: int = 128,
        attention_level: int | None = 3,
        out_channels: int = 3,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        check_levels(embed_dims, attention_level)
        if noise_dims < 1 or out_channels < 1:
            raise ValueError(f'noise_dims and out_channels must be at least 1, got {noise_dims} and {out_channels}')
        self.noise_dims = noise_dims
        self.img_size = FIRST_EDGE * 2 ** (len(embed_dims) - 1)
        self.stem = spectral_norm(nn.Linear(noise_dims, FIRST_EDGE * FIRST_EDGE * embed_dims[0]))
        self.blocks = nn.ModuleList(UpBlock(below, width) for below, width in pairwise(embed_dims))
        self.attention_level = attention_level
        self.attention = nn.Identity() if attention_level is None else PlaneAttention(embed_dims[attention_level])
        self.norm = nn.BatchNorm2d(embed_dims[-1])
        self.to_image = conv(embed_dims[-1], out_channels, 3)

    def forward(self, noise: Tensor) -> Tensor:
        """Noise ``(B, Z)`` to images; see the class."""
        x = self.stem(noise).unflatten(1, (-1, FIRST_EDGE, FIRST_EDGE))  # (B, C, 4, 4)
        x = x.contiguous(memory_format=torch.channels_last)
        for level, block in enumerate((nn.Identity(), *self.blocks)):
            x = block(x)
            if level == self.attention_level:
                x = self.attention(x)
        return self.to_image(self.norm(x).relu()).tanh().contiguous()


@MODELS.register_module()
class ConvDiscriminator(BaseModule):
    """One score per image, high for real ones, by residual convolutions and one self-attention (arXiv 1805.08318).

    Args:
        embed_dims: Width of each level; the map is halved at each. Multiples of 8.
        attention_level: Level after which the self-attention acts, from 0; None for no attention.
        in_channels: Image channels.
        init_cfg: Initialisation, mmengine style.

    Shape:
        Input ``(B, in_channels, H, W)``, multiples of ``2 ** levels`` pixels (twice that with an attention at the last
        level); output ``(B,)``. It can be differentiated twice, as a gradient penalty needs.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        *,
        attention_level: int | None = 0,
        in_channels: int = 3,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        check_levels(embed_dims, attention_level)
        widths = [in_channels, *embed_dims]
        self.blocks = nn.ModuleList(
            DownBlock(below, width, first=level == 0) for level, (below, width) in enumerate(pairwise(widths))
        )
        self.attention_level = attention_level
        self.attention = nn.Identity() if attention_level is None else PlaneAttention(embed_dims[attention_level])
        self.score = spectral_norm(nn.Linear(embed_dims[-1], 1))

    def forward(self, img: Tensor) -> Tensor:
        """Images to scores; see the class."""
        least = 2 ** len(self.blocks)
        if any(edge % least or edge < least for edge in img.shape[2:]):
            halved = f'{tuple(img.shape[2:])} pixels cannot be halved {len(self.blocks)} times'
            raise ValueError(f'images of {halved}: use multiples of {least} or fewer levels')
        x = img.contiguous(memory_format=torch.channels_last)
        for level, block in enumerate(self.blocks):
            x = block(x)
            if level == self.attention_level:
                x = self.attention(x)
        return self.score(x.relu().sum((2, 3))).squeeze(1)
