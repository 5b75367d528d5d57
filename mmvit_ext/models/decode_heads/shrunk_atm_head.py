r"""Decoder of SegViT's Shrunk structure (Zhang et al., NeurIPS 2022, arXiv 2210.05844, section 3.2, figure 3 (c)).

Query-based upsampling (QU): learned queries, one per position of the fine grid, collect what they need by
cross-attention, first from the fine tokens taken just before the backbone shrinks, then from the coarse tokens of its
last layer. The result is a map at the fine grid from which the class queries decode their masks.

Deviations: the learned queries stand on the grid of the training crop and are resized to any other. A second form, for
training from scratch, begins with the fine tokens (``query_start='tokens'``).

Shapes: B batch, C backbone width, D head width, (h, w) fine grid, L tokens of the map that is looked at.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvit_ext.models.decode_heads.atm_head import ATMDecoderLayer, ATMHead, ATMStage
from mmvit_ext.models.layers.attention import PackedAttention, check_choices
from mmvit_ext.models.layers.position_embedding import resize_position_embedding, track_position
from mmvit_ext.models.losses.atm_loss import StageOutput
from mmvit_ext.registry import MODELS

__all__ = ['QULayer', 'QULevel', 'ShrunkATMHead']

QUERY_STARTS = ('learned', 'tokens')
"""What the queries of the first level begin as."""


class QULayer(ATMDecoderLayer):
    """Post-norm decoder layer with ordinary cross-attention."""

    cross_attention = PackedAttention

    def attend(self, queries: Tensor, tokens: Tensor, need_similarity: bool) -> tuple[Tensor, None]:
        """What the queries ``(B, h*w, D)`` collect from the tokens ``(B, L, D)``."""
        return self.cross_attn(queries, tokens), None


class QULevel(ATMStage):
    """One level of query-based upsampling: the tokens' projection and a stack of decoder layers."""

    layer_type = QULayer


@MODELS.register_module()
class ShrunkATMHead(ATMHead):
    r"""Query-based upsampling and a one-stage ATM decoder (arXiv 2210.05844, section 3.2).

    .. math::
        U_0 = \text{learned}, \qquad U_i = \mathrm{QU}_i(U_{i-1}, F_i), \qquad \text{masks} = \mathrm{ATM}(U_2)

    with :math:`F_1` the fine map before the backbone shrinks and :math:`F_2` the coarse map of its last layer. Every
    ATM layer is supervised with its own mask.

    Attention does not see where a token stands, so that learned queries have to find their places by what the tokens
    hold. From scratch that takes long, and the post-norm levels make all queries equal to each other first. With
    ``query_start='tokens'`` every query begins as the projected fine token of its place, and the levels add to it:

    .. math:: U_0 = F_1 + \text{learned}, \qquad U_i = U_{i-1} + \mathrm{QU}_i(U_{i-1}, F_i), \qquad
        \text{masks} = \mathrm{ATM}(\mathrm{LN}(U_2))

    Args:
        in_channels: Widths of the fine and the coarse map.
        channels: Width D of all queries.
        num_classes: Number of classes.
        img_size: Training crop in pixels, an edge or ``(H, W)``; fixes the grid of the learned queries only.
        query_stride: Stride of that grid in pixels, the fine map's.
        query_start: ``'learned'``, the published form, or ``'tokens'`` for training from scratch, where the learned
            part begins at zero. Both have the same parameters.
        in_index: Which maps of the backbone are the fine and the coarse one.
        num_heads: Attention heads; divides D.
        num_layers: Decoder layers of each level and of the ATM stage.
        dropout_ratio: Dropout in all decoder layers, a probability.
        **kwargs: Passed to ``ATMHead``: ``loss``, ``loss_decode``, ``ignore_index``, ``init_cfg``, ...

    Shape:
        Inputs: a fine map ``(B, C, h, w)`` and a coarse one; outputs as in ``ATMHead``, the masks being ``(h, w)``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        num_classes: int,
        img_size: int | Sequence[int],
        query_stride: int = 16,
        query_start: str = 'learned',
        in_index: Sequence[int] = (0, 1),
        num_heads: int = 12,
        num_layers: int = 3,
        dropout_ratio: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if len(in_channels) != len(in_index):
            raise ValueError(f'in_channels {in_channels} and in_index {in_index} must have the same length')
        check_choices(query_start=(query_start, QUERY_STARTS))
        if useless := [name for name in ('num_stages', 'fuse_inputs') if kwargs.get(name)]:
            raise ValueError(f'leave {" and ".join(useless)} out: ShrunkATMHead decodes one map, made of both inputs')
        super().__init__(
            channels,
            channels,
            num_classes=num_classes,
            in_index=0,
            num_heads=num_heads,
            num_layers=num_layers,
            dropout_ratio=dropout_ratio,
            deep_supervision='layer',
            use_projection=False,
            **kwargs,
        )
        self.in_channels, self.in_index = list(in_channels), list(in_index)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.query_grid = (-(-height // query_stride), -(-width // query_stride))
        self.query_start = query_start
        self.position_queries = nn.Embedding(math.prod(self.query_grid), channels)
        if query_start == 'tokens':
            nn.init.zeros_(self.position_queries.weight)
        self.levels = nn.ModuleList(QULevel(c, channels, num_heads, num_layers, dropout_ratio) for c in in_channels)
        track_position(self, 'position_queries.weight', self.query_grid)

    def decode(self, inputs: Sequence[Tensor]) -> list[StageOutput]:
        """Fine and coarse map to class logits and masks of every ATM layer, the final one last."""
        maps = self._transform_inputs(inputs)
        B, _, h, w = maps[0].shape
        places = torch.arange(math.prod(self.query_grid), device=maps[0].device)
        learned = resize_position_embedding(self.position_queries(places)[None], self.query_grid, (h, w))
        levels = cast('list[QULevel]', list(self.levels))
        tokens = [level.tokens(feature) for level, feature in zip(levels, maps, strict=True)]
        from_tokens = self.query_start == 'tokens'
        queries = learned + tokens[0] if from_tokens else learned.repeat(B, 1, 1)
        for level, memory in zip(levels, tokens, strict=True):
            collected, _ = level(queries, memory)
            queries = queries + collected if from_tokens else collected
        if from_tokens:
            queries = F.layer_norm(queries, queries.shape[-1:])
        return self.decode_maps([queries.transpose(1, 2).unflatten(2, (h, w))])
