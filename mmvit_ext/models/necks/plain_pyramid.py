r"""Maps of several strides from a backbone that has a single one.

TNT (Han et al., arXiv 2103.00112) hands the outputs of four blocks to a feature pyramid network after deconvolutions
and strided convolutions; ViTDet (Li et al., arXiv 2203.16527, section 3) makes all levels of the last map alone and
needs no such network. Neither mmdet nor torch and mmcv alone have a neck for either.

Shapes: B batch, C width, H and W of an input map.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmvit_ext.models.layers.attention import check_choices
from mmvit_ext.registry import MODELS

__all__ = ['PlainPyramid']

FORMS = ('vitdet', 'tnt')
#: Deconvolutions by the size of a level over that of its input.
UPSAMPLINGS = {4: 2, 2: 1, 1: 0, 0.5: 0}


class MapNorm(nn.Module):
    """A norm over the channels of every pixel of a map."""

    def __init__(self, embed_dims: int, norm_cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.norm = build_norm_layer(dict(norm_cfg), embed_dims)[1]

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class PlainPyramid(BaseModule):
    """Brings maps of one stride to the strides of a feature pyramid.

    A level that is 4 times as large takes two deconvolutions of stride 2 with a norm and GELU between them, one that is
    twice as large takes one, one that is half as large a convolution of stride 2; the level of the same size is passed
    on (arXiv 2203.16527, section 3).

    TNT's paper (arXiv 2103.00112) has deconvolutions and "proper strides" without further words. Its count of Faster
    R-CNN (48.1 M, and 46.4 M with DeiT-S) is met by ``form='tnt'``: 4x4 deconvolutions with a bias, and a pooling for
    the level of half the size, by means as in the paper's DETR. The activation between deconvolutions is our choice.

    Args:
        in_channels: Widths of the input maps, one for each scale, or a single one: the last input makes all levels.
        scales: Size of each level over the size of its input: 4, 2, 1 or 0.5.
        out_channels: Width of the levels, reached by a 1x1 and a 3x3 convolution with a norm each, as in ViTDet; None
            adds nothing, as is right in front of a feature pyramid network.
        num_outs: Number of levels; those beyond ``scales`` (none by default) are every other pixel of the one below.
        form: ``'vitdet'``, or ``'tnt'`` with 4x4 deconvolutions without norms and means of 2x2 pixels.
        norm_cfg: Norms over the channels, mmcv style; ``dict(type='LN', eps=1e-6)`` when not given.
        init_cfg: Initialisation, mmengine style.

    Shape:
        Inputs ``(B, C, H, W)`` of equal size; outputs ``(B, C', ceil(s H), ceil(s W))`` for each scale s, contiguous.

    Raises:
        ValueError: An argument is out of range, or the maps are not as many as the widths.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        *,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        out_channels: int | None = None,
        num_outs: int | None = None,
        form: str = 'vitdet',
        norm_cfg: Mapping[str, Any] | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        widths = (in_channels,) if isinstance(in_channels, int) else tuple(in_channels)
        if len(widths) not in (1, len(scales)):
            raise ValueError(f'in_channels must be one width or one for each of {len(scales)} scales, got {widths}')
        check_choices(form=(form, FORMS))
        if unknown := [scale for scale in scales if scale not in UPSAMPLINGS]:
            raise ValueError(f'scales must be 4, 2, 1 or 0.5, got {unknown}')
        if num_outs is not None and num_outs < len(scales):
            raise ValueError(f'num_outs must be at least the number of scales, {len(scales)}, got {num_outs}')
        self.in_channels = widths
        self.num_extra = 0 if num_outs is None else num_outs - len(scales)
        norm_cfg = dict(norm_cfg or {'type': 'LN', 'eps': 1e-6})
        kernel, padding = (4, 1) if form == 'tnt' else (2, 0)

        def steps(width: int, scale: float) -> Iterator[nn.Module]:
            if scale == 0.5 and form == 'tnt':
                yield nn.AvgPool2d(2, ceil_mode=True)
            elif scale == 0.5:
                yield nn.Conv2d(width, width, 3, stride=2, padding=1)
            for index in range(UPSAMPLINGS[scale]):
                if index and form == 'vitdet':
                    yield MapNorm(width, norm_cfg)
                if index:
                    yield nn.GELU()
                yield nn.ConvTranspose2d(width, width, kernel, stride=2, padding=padding)
            if out_channels is not None:
                yield nn.Conv2d(width, out_channels, 1, bias=False)
                yield MapNorm(out_channels, norm_cfg)
                yield nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
                yield MapNorm(out_channels, norm_cfg)

        all_widths = widths if len(widths) == len(scales) else widths * len(scales)
        self.levels = nn.ModuleList(nn.Sequential(*steps(*level)) for level in zip(all_widths, scales, strict=True))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of the backbone to the levels; see the class."""
        maps = list(inputs) if len(self.in_channels) > 1 else list(inputs)[-1:] * len(self.levels)
        if len(maps) != len(self.levels):
            remedy = 'out_indices of the backbone and in_channels must name as many'
            raise ValueError(f'PlainPyramid has {len(self.levels)} widths and scales, got {len(maps)} maps: {remedy}')
        levels = [level(x) for level, x in zip(self.levels, maps, strict=True)]
        for _ in range(self.num_extra):
            levels.append(F.max_pool2d(levels[-1], 1, stride=2))
        # mmcv's RoIAlign reads a map's memory as if it were contiguous, and the norms leave the channels last.
        return tuple(level.contiguous() for level in levels)
