r"""Segmentation by classifying superpixels (SPFormer, Mei et al., arXiv 2401.02931, section 4.3.3).

SETR's naive decoder classifies every superpixel, and equation 1 with the association of the last superpixel cross
attention lifts the logits to the pixels. How the association's heads are merged the paper does not describe.

Shapes: B batch, C width, K classes, (sh, sw) superpixels, (h, w) pixel features.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmvit_ext.models.decode_heads.pixel_losses import PixelLossHead
from mmvit_ext.models.layers.attention import check_choices
from mmvit_ext.models.layers.open_sizes import cut_to, is_open
from mmvit_ext.models.superpixels.grid import fine_association, grid_of, superpixel_to_pixel
from mmvit_ext.registry import MODELS

__all__ = ['SuperpixelHead', 'merged_association']

MERGES = ('similarity', 'average')


def merged_association(
    similarity: Tensor, grid: tuple[int, int], cell_size: int, *, merge: str = 'similarity', factor: int = 1
) -> Tensor:
    """SPFormer's similarity as one association ``(B, 1, 9, .., ..)`` of all heads on whole cells, 0 in what was cut."""
    h, w = similarity.shape[-2:]
    cut = (0, grid[1] * cell_size - w, 0, grid[0] * cell_size - h)
    similarity = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
    if merge == 'similarity':
        similarity = similarity.sum(1, keepdim=True) / similarity.shape[1] ** 0.5
    association = fine_association(similarity, cell_size, factor).mean(1, keepdim=True)
    return F.pad(association, tuple(edge * factor for edge in cut))


@MODELS.register_module()
class SuperpixelHead(PixelLossHead):
    r"""Superpixel logits lifted to pixels (arXiv 2401.02931, section 4.3.3).

    With superpixel features S and the association A of the last superpixel cross attention, merged over its heads,

    .. math:: L = \mathrm{Conv}_{1 \times 1}(\mathrm{norm}(S)), \qquad
        \mathrm{logits}_i = \sum_{n=0}^{8} A_{n, i}\, L_{n(i)}

    and the logits are resized to the label's or the image's size (bilinear).

    Args:
        in_channels: Width C of the superpixel map.
        channels: As in mmseg's heads; it must be ``in_channels``, which it is when not given.
        num_classes: Number of classes K.
        in_index: Which output of the backbone is the superpixel map; the one before the association when not given.
        association_index: Which output of the backbone is the similarity, SPFormer's last (``out_association=True``).
        cell_size: Edge of a superpixel's cell in pixel features, the backbone's ``cell_size``.
        pixel_stride: Stride of the pixel features in pixels, the backbone's ``pixel_stride``.
        lift_stride: Stride in pixels of the lifted logits, a divisor of ``pixel_stride`` (the default); below it, the
            similarity is interpolated inside each superpixel's window first.
        merge: Of heads: ``'similarity'`` (sum over the root of their number before the softmax) or ``'average'`` after.
        norm_cfg: Normalisation of the superpixels; ``dict(type='LN', eps=1e-6)`` when not given.
        **kwargs: Passed to mmseg's ``BaseDecodeHead`` (``loss_decode``, ``dropout_ratio``, ``init_cfg``, ...).

    Shape:
        Superpixel map ``(B, C, sh, sw)`` and similarity ``(B, heads, 9, h, w)`` to logits ``(B, K, h * f, w * f)``,
        f = pixel_stride / lift_stride.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int | None = None,
        *,
        num_classes: int,
        in_index: int = -2,
        association_index: int = -1,
        cell_size: int = 4,
        pixel_stride: int = 4,
        lift_stride: int | None = None,
        merge: str = 'similarity',
        norm_cfg: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        lift_stride = pixel_stride if lift_stride is None else lift_stride
        if channels not in (None, in_channels):
            raise ValueError(f'channels must be in_channels={in_channels}, or left out, got {channels}')
        check_choices(merge=(merge, MERGES))
        if lift_stride < 1 or pixel_stride % lift_stride:
            raise ValueError(f'lift_stride must divide pixel_stride={pixel_stride}, got {lift_stride}')
        if not isinstance(in_index, int):
            raise ValueError(f'in_index must name one output of the backbone, got {in_index!r}')
        kwargs |= {'in_index': in_index, 'norm_cfg': dict(norm_cfg or {'type': 'LN', 'eps': 1e-6})}
        super().__init__(in_channels, in_channels, num_classes=num_classes, **kwargs)
        self.association_index, self.cell_size, self.merge = association_index, cell_size, merge
        self.lift_factor = pixel_stride // lift_stride
        self.norm = build_norm_layer(self.norm_cfg, in_channels)[1]
        self.norm_is_channels_last = isinstance(self.norm, nn.LayerNorm)

    def _select(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The superpixel map and the similarity among the backbone's outputs."""
        similarity = inputs[self.association_index]
        if similarity.ndim != 5 or similarity.shape[2] != 9:
            remedy = 'build SPFormer with out_association=True and put no neck in between'
            found = f'output {self.association_index} of the backbone must be the similarity (B, heads, 9, h, w)'
            raise ValueError(f'{found}, got {tuple(similarity.shape)}; {remedy}')
        superpixels = self._transform_inputs(inputs)
        expected = grid_of(similarity, self.cell_size)
        if superpixels.ndim != 4 or (not is_open(*expected) and superpixels.shape[-2:] != expected):
            h, w = similarity.shape[-2:]
            wanted = f'{h}x{w} with cell_size={self.cell_size} goes with {expected[0]}x{expected[1]} superpixels'
            found = f'output {self.in_index} of the backbone is {tuple(superpixels.shape)}: use its cell_size'
            raise ValueError(f'a similarity of {wanted}, but {found}')
        return superpixels, similarity

    def classify(self, superpixels: Tensor) -> Tensor:
        """Superpixels ``(B, C, sh, sw)`` to their logits ``(B, K, sh, sw)``."""
        if not self.norm_is_channels_last:
            return self.cls_seg(self.norm(superpixels))
        return self.cls_seg(self.norm(superpixels.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Backbone outputs to logits at ``lift_stride``; see the class."""
        superpixels, similarity = self._select(inputs)
        grid = (superpixels.shape[2], superpixels.shape[3])
        association = merged_association(similarity, grid, self.cell_size, merge=self.merge, factor=self.lift_factor)
        logits = superpixel_to_pixel(self.classify(superpixels), association)
        h, w = (edge * self.lift_factor for edge in similarity.shape[-2:])
        return cut_to(logits, (h, w))
