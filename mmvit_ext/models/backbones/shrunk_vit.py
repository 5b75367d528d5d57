r"""Plain ViT whose token grid is halved once, by a layer with fewer queries than keys.

Paper: SegViT, Zhang et al., NeurIPS 2022, arXiv 2210.05844, section 3.2 (the Shrunk structure) and figure 3.

Shapes: B batch, C width, (h, w) token grid, (h', w') = (ceil(h / 2), ceil(w / 2)).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmvit_ext.models.backbones.vit import ViT, ViTLayer
from mmvit_ext.models.layers.attention import check_choices
from mmvit_ext.models.layers.open_sizes import is_open
from mmvit_ext.registry import MODELS

__all__ = ['QDLayer', 'ShrunkViT']

QD_MODES = ('query', 'qkv', 'conv')  # which tokens a QD layer thins out; the paper's table on the QD module


class QDLayer(ViTLayer):
    r"""Layer that halves the grid: :math:`x' = x_\downarrow + \mathrm{Attn}(q=x_\downarrow, k=v=x)`, then FFN."""

    def __init__(self, embed_dims: int, *arguments: Any, qd_mode: str = 'query', **settings: Any) -> None:
        super().__init__(embed_dims, *arguments, **settings)
        self.qd_mode = qd_mode
        if qd_mode == 'conv':
            self.downsample = nn.Conv2d(embed_dims, embed_dims, 3, stride=2, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """Tokens ``(B, h*w, C)`` of the grid ``size = (h, w)`` to ``(B, h'*w', C)``."""
        plane = x.unflatten(1, size)  # (B, h, w, C)
        if self.qd_mode == 'conv':
            down = self.downsample(plane.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        elif is_open(*size):  # whose strided views cannot be flattened
            rows, columns = (torch.arange(0, edge, 2, device=x.device) for edge in size)
            down = plane.index_select(1, rows).index_select(2, columns).flatten(1, 2)
        else:
            down = plane[:, ::2, ::2].flatten(1, 2)
        memory = down if self.qd_mode == 'qkv' else x
        down = down + self.drop_path(self.attn(self.norm1(down), self.norm1(memory)))
        return down + self.drop_path(self.ffn(self.norm2(down)))


@MODELS.register_module()
class ShrunkViT(ViT):
    r"""``mmvit_ext.ViT`` with query-based downsampling before layer ``shrink_index`` does its work.

    The layer takes tokens at the patch stride and gives them at twice that (arXiv 2210.05844, section 3.2). The
    checkpoints of ``ViT`` load (with ``qd_mode='conv'`` without the convolution, which no checkpoint has).

    Args:
        arch: As in ``ViT``.
        shrink_index: Layer that downsamples, counted from 0; in the paper 8 of 24, and 6 of 12 by its operation counts.
        qd_mode: ``'query'`` (the paper's choice) thins out the queries to every second row and column, ``'qkv'`` keys
            and values too; ``'conv'`` takes the queries from a 3x3 convolution with stride 2.
        with_cls_token: Must be False.
        **kwargs: The other arguments of ``ViT``.

    Shape:
        Input ``(B, in_channels, H, W)``; outputs ``(B, C, h, w)``, from layer ``shrink_index`` on ``(B, C, h', w')``.

    Raises:
        ValueError: For a ``shrink_index`` outside the layers, an unknown ``qd_mode``, or a class token.
    """

    OUT_TYPES: tuple[str, ...] = ('featmap', 'avg_featmap')

    def __init__(
        self,
        arch: Any = 'base',
        *,
        shrink_index: int,
        qd_mode: str = 'query',
        with_cls_token: bool = False,
        **kwargs: Any,
    ) -> None:
        if with_cls_token or kwargs.get('output_cls_token'):
            raise ValueError('ShrunkViT has no class token: with_cls_token and output_cls_token must be False')
        check_choices(qd_mode=(qd_mode, QD_MODES))
        self.shrink_index, self.qd_mode = shrink_index, qd_mode
        super().__init__(arch, with_cls_token=False, **kwargs)
        if not 0 <= shrink_index < self.num_layers:
            raise ValueError(f'shrink_index must name one of {self.num_layers} layers, got {shrink_index}')

    def _build_layer(self, index: int, **settings: Any) -> nn.Module:
        return QDLayer(**settings, qd_mode=self.qd_mode) if index == self.shrink_index else ViTLayer(**settings)

    def layer_stride(self, index: int) -> int:
        return self.patch_size * (1 + (index >= self.shrink_index))
