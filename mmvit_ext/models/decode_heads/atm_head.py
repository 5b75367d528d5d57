r"""Attention-to-Mask decoder of SegViT (Zhang et al., NeurIPS 2022, arXiv 2210.05844, section 3.2 and figure 2).

One learned query per class goes through a cascade of decoders, one per backbone map from the last layer to the first.
The similarity between the queries and the tokens, which cross-attention computes anyway, is the class's mask.

Deviations from the paper's equations: as in the published models the similarity is the mean over the heads of the
last decoder layer of a stage, queries carry no position embedding, and layers are post-norm.

Shapes: B batch, N classes = queries, C backbone width, D head width, L = h * w tokens, (h, w) map size.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvit_ext.models.decode_heads.pixel_losses import PixelLossHead
from mmvit_ext.models.kernels import are_plain, may_fuse
from mmvit_ext.models.kernels.keys_values import keys_values
from mmvit_ext.models.layers.attention import PackedAttention, SplitAttention, check_heads
from mmvit_ext.models.layers.masks import fuse_masks
from mmvit_ext.models.layers.open_sizes import is_traced
from mmvit_ext.models.losses.atm_loss import ATMLoss, StageOutput
from mmvit_ext.registry import MODELS

__all__ = ['ATMDecoderLayer', 'ATMHead', 'ATMStage']

Memory = Tensor | tuple[Tensor, Tensor]  # tokens (B, L, D), or their keys and values
FFN_RATIO = 4  # hidden width of the decoder's FFN over D, fixed by the published models
LOSSES = {'atm': 'mmvit_ext.ATMLoss', 'ce': 'mmseg.CrossEntropyLoss'}


class ATMDecoderLayer(nn.Module):
    """Post-norm decoder layer: self-attention over the queries, cross-attention to the tokens, FFN."""

    compiled_alone = True
    cross_attention: type[nn.Module] = SplitAttention

    def __init__(self, embed_dims: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = PackedAttention(embed_dims, num_heads, dropout=dropout)
        self.norm1 = nn.LayerNorm(embed_dims)
        self.cross_attn = self.cross_attention(embed_dims, num_heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(embed_dims)
        widen, narrow = nn.Linear(embed_dims, FFN_RATIO * embed_dims), nn.Linear(FFN_RATIO * embed_dims, embed_dims)
        self.ffn = nn.Sequential(widen, nn.ReLU(), nn.Dropout(dropout), narrow)
        self.norm3 = nn.LayerNorm(embed_dims)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, tokens: Memory, need_similarity: bool = False) -> tuple[Tensor, Tensor | None]:
        """Queries ``(B, N, D)`` and tokens ``(B, L, D)`` to queries and, if wanted, similarity ``(B, N, L)``."""
        queries = self.norm1(queries + self.dropout(self.self_attn(queries)))
        attended, similarity = self.attend(queries, tokens, need_similarity)
        queries = self.norm2(queries + self.dropout(attended))
        return self.norm3(queries + self.dropout(self.ffn(queries))), similarity

    def attend(self, queries: Tensor, tokens: Any, need_similarity: bool) -> tuple[Tensor, Tensor | None]:
        """What the queries collect from the tokens ``(B, N, D)`` and, if wanted and known, the similarity."""
        return self.cross_attn(queries, tokens, need_similarity)


PLAIN = (nn.ModuleList, nn.Sequential, nn.Linear, nn.LayerNorm, nn.ReLU, nn.Dropout, PackedAttention, SplitAttention)


class ATMStage(nn.Module):
    """One Attention-to-Mask module: the tokens' projection, if they need one, and a stack of decoder layers."""

    layer_type: type[ATMDecoderLayer] = ATMDecoderLayer

    def __init__(
        self, in_channels: int, embed_dims: int, num_heads: int, num_layers: int, dropout: float, project: bool = True
    ) -> None:
        super().__init__()
        if not project and in_channels != embed_dims:
            raise ValueError(f'without a projection in_channels must be channels={embed_dims}, got {in_channels}')
        self.proj = nn.Linear(in_channels, embed_dims) if project else nn.Identity()
        self.norm = nn.LayerNorm(embed_dims) if project else nn.Identity()
        self.layers = nn.ModuleList(self.layer_type(embed_dims, num_heads, dropout) for _ in range(num_layers))

    def tokens(self, feature: Tensor) -> Tensor:
        """``(B, C, h, w)`` to ``(B, h*w, D)``."""
        return self.norm(self.proj(feature.flatten(2).transpose(1, 2).contiguous()))

    def memories(self, tokens: Tensor) -> Sequence[Memory]:
        """What each layer attends to: the tokens, or its keys and values where those of all layers are one product."""
        if not is_traced() and may_fuse(tokens) and are_plain(self.layers, ATMDecoderLayer, *PLAIN):
            return keys_values([layer.cross_attn for layer in self.layers], tokens)  # type: ignore[misc]
        return [tokens] * len(self.layers)

    def forward(
        self, queries: Tensor, tokens: Tensor, every_layer: bool = False
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Last queries ``(B, N, D)``, and pairs of queries and similarity ``(B, N, L)`` of the last or every layer."""
        wanted, memories = [], self.memories(tokens)
        for index, (layer, memory) in enumerate(zip(self.layers, memories, strict=True), 1):
            queries, similarity = layer(queries, memory, every_layer or index == len(self.layers))
            if similarity is not None:
                wanted.append((queries, similarity))
        return queries, wanted


@MODELS.register_module()
class ATMHead(PixelLossHead):
    r"""Attention-to-Mask decode head (arXiv 2210.05844, section 3.2).

    Stage i, counted from the backbone's last map to its first, gives the similarity of its last decoder layer, and
    masks add up over the stages:

    .. math:: S_i = \frac1h \sum_{j=1}^{h} \frac{q_j k_j^\top}{\sqrt{D/h}}, \qquad M_i = M_{i-1} + S_i

    A shared linear layer classifies the queries into the classes and "no object". The score of a pixel for a class
    sums, over the queries, class probability times the sigmoid of the last mask.

    Args:
        in_channels: Widths of the maps named by ``in_index``, one number where there is one map.
        channels: Width D of the queries.
        num_classes: Number of classes N, at least 2: a background is a class.
        in_index: Which maps of the backbone are decoded, low to high layer.
        num_heads: Attention heads; divides D.
        num_layers: Decoder layers of a stage.
        num_stages: Number of maps, for a check; it follows from ``in_index``.
        dropout_ratio: Dropout in the decoder, attention weights included, a probability.
        deep_supervision: Supervised masks: ``'stage'``, accumulated, or of a single stage every ``'layer'``'s own one.
        use_projection: Whether tokens are projected to D and normalised; otherwise the maps must have width D.
        fuse_inputs: Whether every map is added, resized, to the next lower one before decoding (top-down).
        loss: ``'atm'`` trains classes and masks; ``'ce'`` the fused map with cross entropy (the paper's ablation).
        loss_decode: Replaces the loss that ``loss`` stands for: an ``ATMLoss``, or a loss of mmseg with ``'ce'``.
        init_cfg: Initialisation, mmengine style; linear layers get a truncated normal when not given.
        **kwargs: Passed to mmseg's ``BaseDecodeHead`` (``ignore_index``, ``align_corners`` is always False, ...).

    Shape:
        Inputs: maps ``(B, C_i, h_i, w_i)``; :meth:`forward` gives ``(B, N, h, w)`` at the size of the map decoded
        last; :meth:`predict` gives ``(B, N, H, W)``. Both are scores in [0, N], not logits: argmax and averaging of
        several predictions work on them as usual.

    Note:
        No image-sized map of all queries is ever built (see :mod:`mmvit_ext.models.layers.masks`).
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        channels: int,
        *,
        num_classes: int,
        in_index: int | Sequence[int] = -1,
        num_heads: int = 12,
        num_layers: int = 3,
        num_stages: int | None = None,
        dropout_ratio: float = 0.1,
        deep_supervision: str = 'stage',
        use_projection: bool = True,
        fuse_inputs: bool = False,
        loss: str = 'atm',
        loss_decode: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        init_cfg: dict | list[dict] | None = None,
        **kwargs: Any,
    ) -> None:
        in_channels, in_index = ([x] if isinstance(x, int) else list(x) for x in (in_channels, in_index))
        if len(in_channels) != len(in_index):
            raise ValueError(f'in_channels {in_channels} and in_index {in_index} must have the same length')
        if num_stages is not None and num_stages != len(in_index):
            raise ValueError(f'num_stages={num_stages}, but in_index names {len(in_index)} maps')
        check_heads(channels, num_heads, names=('num_heads', 'channels'))
        if deep_supervision not in ('stage', 'layer'):
            raise ValueError(f"deep_supervision must be 'stage' or 'layer', got {deep_supervision!r}")
        if deep_supervision == 'layer' and len(in_index) != 1:
            raise ValueError(f"deep_supervision='layer' needs a single stage, got in_index={in_index}")
        if loss not in LOSSES:
            raise ValueError(f"loss must be 'atm' or 'ce', got {loss!r}")
        out_channels, threshold = kwargs.get('out_channels', num_classes), kwargs.get('threshold')
        if num_classes < 2 or out_channels != num_classes or threshold is not None:
            given = (
                f'{num_classes=}, {out_channels=}, {threshold=}: the head compares the scores of at least two classes'
            )
            remedy = (
                "for binary segmentation set num_classes=2 and classes ('background', NAME), labelled 0 and 1, alone"
            )
            raise ValueError(f'{given}; {remedy}')
        kwargs |= {'num_classes': num_classes, 'out_channels': num_classes, 'in_index': in_index, 'dropout_ratio': 0}
        kwargs['loss_decode'] = {'type': LOSSES[loss]} if loss_decode is None else loss_decode
        kwargs['init_cfg'] = init_cfg or {'type': 'TruncNormal', 'layer': 'Linear', 'std': 0.02}
        super().__init__(in_channels, channels, input_transform='multiple_select', **kwargs)
        if isinstance(self.loss_decode, ATMLoss) != (loss == 'atm'):
            raise ValueError(f'loss={loss!r} does not go with loss_decode={loss_decode!r}')
        del self.conv_seg
        self.dropout_ratio, self.deep_supervision, self.fuse_inputs = dropout_ratio, deep_supervision, fuse_inputs
        self.class_queries = nn.Embedding(num_classes, channels)
        self.stages = nn.ModuleList(
            ATMStage(width, channels, num_heads, num_layers, dropout_ratio, use_projection)
            for width in reversed(in_channels)
        )
        self.class_embed = nn.Linear(channels, num_classes + 1)

    def decode(self, inputs: Sequence[Tensor]) -> list[StageOutput]:
        """Backbone maps to class logits and masks of every supervised stage, the final one last."""
        return self.decode_maps(self._transform_inputs(inputs)[::-1])

    def decode_maps(self, maps: Sequence[Tensor]) -> list[StageOutput]:
        """Maps in the order in which they are decoded to class logits and masks of every supervised stage."""
        sizes = [feature.shape[-2:] for feature in maps]
        stages = cast('list[ATMStage]', list(self.stages))
        tokens = [stage.tokens(x) for stage, x in zip(stages, maps, strict=True)]
        for index in range(1, len(tokens) if self.fuse_inputs else 0):
            above = _resize(tokens[index - 1].transpose(1, 2).unflatten(2, sizes[index - 1]), sizes[index])
            tokens[index] = tokens[index] + above.flatten(2).transpose(1, 2)
        classes = torch.arange(self.num_classes, device=maps[0].device)
        queries = self.class_queries(classes).expand(maps[0].shape[0], -1, -1)  # (B, N, D)
        outputs: list[StageOutput] = []
        for stage, memory, size in zip(stages, tokens, sizes, strict=True):
            queries, wanted = stage(queries, memory, self.deep_supervision == 'layer')
            for layer_queries, similarity in wanted:
                # Under autocast they would be added up, and later compared, with 8 bits.
                similarity = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
                mask = _resize(similarity.unflatten(2, size), sizes[-1])
                if outputs and self.deep_supervision == 'stage':
                    mask = mask + outputs[-1].masks
                outputs.append(StageOutput(self.class_embed(layer_queries), mask))
        return outputs

    def fuse(self, output: StageOutput, size: tuple[int, ...]) -> Tensor:
        """Class scores ``(B, N, H, W)`` at ``size = (H, W)``; masks are resized before the sigmoid."""
        return fuse_masks(output.logits.softmax(-1)[..., :-1], output.masks, (size[0], size[1]))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Backbone maps to class scores ``(B, N, h, w)`` at the masks' own size."""
        output = self.decode(inputs)[-1]
        return self.fuse(output, output.masks.shape[-2:])

    def loss(self, inputs: Sequence[Tensor], batch_data_samples: Sequence[Any], train_cfg: Any) -> dict[str, Tensor]:
        """Losses of a batch; see :class:`mmvit_ext.models.losses.atm_loss.ATMLoss`."""
        label = self._stack_batch_gt(batch_data_samples)
        outputs = self.decode(inputs)
        if isinstance(self.loss_decode, ATMLoss):
            return self.loss_decode(outputs, label.squeeze(1), self.ignore_index, _told_classes(batch_data_samples))
        return self.loss_by_feat(self.fuse(outputs[-1], label.shape[-2:]), batch_data_samples)

    def predict(self, inputs: Sequence[Tensor], batch_img_metas: Sequence[dict], test_cfg: Any) -> Tensor:
        """Class scores ``(B, N, H, W)`` at the size of the (padded) input images."""
        meta = batch_img_metas[0]
        window = isinstance(meta['img_shape'], torch.Size)  # of mmseg's sliding inference
        size = None if window else meta.get('pad_shape')
        return self.fuse(self.decode(inputs)[-1], meta['img_shape'] if size is None else size)


def _told_classes(samples: Sequence[Any]) -> list[Sequence[int]] | None:
    """The classes of each image, if all samples tell them in ``classes_present``: the host need not ask the device."""
    if is_traced():
        return None
    told = [sample.metainfo.get('classes_present') for sample in samples]
    return None if None in told else told


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)
