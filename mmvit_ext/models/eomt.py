r"""Encoder-only mask transformer: a plain ViT that segments, with queries among the tokens of its last blocks.

Paper: Your ViT is Secretly an Image Segmentation Model, Kerssies et al., CVPR 2025, arXiv 2503.19108, section 3 and
figures 1 and 2. Queries join the tokens before the last L2 blocks. A linear layer gives their classes, and the product
of an MLP of theirs with the upscaled patch tokens their masks. In training every one of these blocks is preceded by
such a prediction, whose mask the block's queries attend within, with a probability that is annealed to zero.

Beyond the paper: ``fixed_matching``, SegViT's.

Deviations: queries stand behind the class token and registers, not in front, which changes no output; while a block is
being annealed, a network in evaluation rounds its probability, so that its output does not depend on chance.

Shapes: B batch, Q queries, K classes, C width, N tokens, (h, w) grid of tokens, (H, W) image size in pixels, s the
scale of the masks over the grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.dense_heads.mask2former_head import Mask2FormerHead
from mmdet.models.detectors.maskformer import MaskFormer
from mmdet.models.task_modules.assigners import AssignResult
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.registry import TASK_UTILS
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmvit_ext.models.backbones.base import Tokens
from mmvit_ext.models.layers.masks import fuse_masks
from mmvit_ext.models.losses.atm_loss import StageOutput, refuse_labels
from mmvit_ext.registry import MODELS

__all__ = ['EoMTDetector', 'EoMTHead', 'EoMTPanopticHead', 'Predictions', 'predict_with_queries']


class Predictions(NamedTuple):
    """Classes and masks before each of the last blocks that was asked for and behind them, of an image size."""

    stages: list[StageOutput]
    size: tuple[int, int]  # (H, W)
    padded: tuple[int, int]  # the pixels that the tokens cover


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map ``(B, C, h, w)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class UpscaleBlock(nn.Sequential):
    """Twice the size: transposed convolution, GELU, depthwise convolution and norm (section 3.1)."""

    def __init__(self, embed_dims: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(embed_dims, embed_dims, 2, stride=2),
            nn.GELU(),
            nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims, bias=False),
            ChannelNorm(embed_dims, eps=1e-6),
        )


class FixedAssigner:
    """Query c answers for class c, as in Attention-to-Mask (SegViT, arXiv 2210.05844, section 3.2)."""

    def assign(self, pred_instances: InstanceData, gt_instances: InstanceData, **_: Any) -> AssignResult:
        """The region of each query, counted from 1, or 0 where the image does not have its class."""
        labels = gt_instances.labels
        regions = labels.new_zeros(len(pred_instances))
        regions[labels] = torch.arange(1, len(labels) + 1, device=labels.device)
        return AssignResult(len(labels), regions, None, labels=None)


@MODELS.register_module()
class EoMTHead(Mask2FormerHead):
    r"""Queries, classes, masks and losses of an encoder-only mask transformer (arXiv 2503.19108, section 3).

    With query tokens :math:`q_i` and patch tokens :math:`X` behind the network's last norm,

    .. math:: c_i = \mathrm{Linear}(q_i), \qquad m_i = \mathrm{MLP}(q_i)^\top \mathrm{Upscale}(X)

    The losses are Mask2Former's (arXiv 2112.01527), on sampled points after Hungarian matching, by mmdetection.

    Args:
        in_channels: Width C of the backbone.
        num_classes: Number of classes K, at least 2.
        num_queries: Number of queries Q.
        num_blocks: Number L2 of the backbone's last blocks that see the queries.
        num_upscale_blocks: Number of times that the grid is doubled for the masks.
        loss_weights: Weights of the losses of classes, masks and dice, and of their costs in the matching.
        no_object_weight: Weight of queries without an object in the loss of classes.
        num_points: Points that a mask is compared on.
        oversample_ratio: How many times the points are drawn from which the uncertain ones are taken.
        importance_sample_ratio: Share of the points that are chosen for being uncertain.
        fixed_matching: Let query c answer for class c, which no paper of EoMT does, instead of the cheapest matching;
            there are as many queries as classes, then.
        ignore_index: Label of pixels that belong to no mask.
        train_cfg: Unused, for the sake of mmdetection's detector.
        test_cfg: Unused, for the sake of mmdetection's detector.
        init_cfg: Initialisation, mmengine style.

    Shape:
        Input: :class:`Predictions`; :meth:`forward` gives scores ``(B, K, H, W)``, not logits.

    Raises:
        ValueError: There are too few classes, or numbers that contradict each other.
    """

    align_corners = False
    attn_mask_probs: Tensor
    least_classes = 2
    """With a single class, mmsegmentation puts the scores through a sigmoid."""

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        num_queries: int = 100,
        num_blocks: int = 4,
        num_upscale_blocks: int = 2,
        loss_weights: Sequence[float] = (2.0, 5.0, 5.0),
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        fixed_matching: bool = False,
        ignore_index: int = 255,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        BaseDenseHead.__init__(self, init_cfg=init_cfg)
        if num_classes < self.least_classes or num_blocks < 1 or num_queries < 1:
            wanted = 'two classes, one of them the background, one' if self.least_classes > 1 else 'one class,'
            given = f'{num_classes=}, {num_queries=}, {num_blocks=}'
            raise ValueError(f'at least {wanted} query and one block are needed, got {given}')
        if fixed_matching and num_queries != num_classes:
            raise ValueError(f'fixed_matching needs a query for each class, got {num_queries=} and {num_classes=}')
        self.num_classes = self.out_channels = num_classes
        self.in_channels, self.num_queries, self.num_blocks = in_channels, num_queries, num_blocks
        self.ignore_index, self.threshold = ignore_index, None
        self.query = nn.Embedding(num_queries, in_channels)
        self.class_embed = nn.Linear(in_channels, self.num_classes + 1)
        layers = [layer for _ in range(3) for layer in (nn.Linear(in_channels, in_channels), nn.GELU())]
        self.mask_embed = nn.Sequential(*layers[:-1])
        self.upscale = nn.Sequential(*(UpscaleBlock(in_channels) for _ in range(num_upscale_blocks)))
        self.register_buffer('attn_mask_probs', torch.zeros(num_blocks))
        self.mask_probabilities = (0.0,) * num_blocks  # the buffer's values, known without asking a device
        self.register_load_state_dict_post_hook(_read_back)

        weights = dict(zip(('cls', 'mask', 'dice'), loss_weights, strict=True))
        self.class_weight = [1.0] * self.num_classes + [no_object_weight]
        entropy = {'type': 'mmdet.CrossEntropyLoss', 'reduction': 'mean'}
        dice = {'type': 'mmdet.DiceLoss', 'use_sigmoid': True, 'activate': True, 'naive_dice': True, 'eps': 1.0}
        self.loss_cls = MMDET_MODELS.build(
            {**entropy, 'loss_weight': weights['cls'], 'class_weight': self.class_weight}
        )
        self.loss_mask = MMDET_MODELS.build({**entropy, 'use_sigmoid': True, 'loss_weight': weights['mask']})
        self.loss_dice = MMDET_MODELS.build({**dice, 'loss_weight': weights['dice']})
        costs = [
            {'type': 'mmdet.ClassificationCost', 'weight': weights['cls']},
            {'type': 'mmdet.CrossEntropyLossCost', 'weight': weights['mask'], 'use_sigmoid': True},
            {'type': 'mmdet.DiceCost', 'weight': weights['dice'], 'pred_act': True, 'eps': 1.0},
        ]
        matching = {'type': 'mmdet.HungarianAssigner', 'match_costs': costs}
        self.assigner = FixedAssigner() if fixed_matching else TASK_UTILS.build(matching)
        self.sampler = TASK_UTILS.build({'type': 'mmdet.MaskPseudoSampler'})
        self.num_points, self.oversample_ratio = num_points, oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio

    def init_weights(self) -> None:
        """Keep PyTorch's first values, as published, unless ``init_cfg`` says otherwise."""
        BaseModule.init_weights(self)

    def set_mask_probabilities(self, probabilities: Sequence[float]) -> None:
        """State with which probability the queries of each of the last blocks attend within their masks; at first 0."""
        if len(probabilities) != self.num_blocks or not all(0 <= value <= 1 for value in probabilities):
            raise ValueError(f'{self.num_blocks} probabilities are needed, got {list(probabilities)}')
        if self.mask_probabilities != tuple(probabilities):
            self.mask_probabilities = tuple(float(value) for value in probabilities)
            self.attn_mask_probs.copy_(torch.tensor(self.mask_probabilities))

    def join(self, tokens: Tokens) -> Tokens:
        """Put the queries behind the tokens that have no place in the image."""
        B, P = tokens.x.shape[0], tokens.num_prefix_tokens
        queries = self.query(torch.arange(self.num_queries, device=tokens.x.device)).expand(B, -1, -1)
        x = torch.cat([tokens.x[:, :P], queries.to(tokens.x.dtype), tokens.x[:, P:]], dim=1)
        return tokens._replace(x=x, num_prefix_tokens=P + self.num_queries)

    def predict_stage(self, tokens: Tokens) -> StageOutput:
        """Class logits ``(B, Q, K + 1)`` and mask logits ``(B, Q, s*h, s*w)`` of normalised tokens."""
        last = tokens.num_prefix_tokens
        queries = tokens.x[:, last - self.num_queries : last]
        pixels = self.upscale(tokens.to_map())
        masks = torch.matmul(self.mask_embed(queries), pixels.flatten(2)).unflatten(2, pixels.shape[-2:])
        return StageOutput(self.class_embed(queries), masks)

    def masks_attention(self, block: int) -> bool:
        """Whether the queries of one of the last blocks are kept within their masks, at least in part."""
        probability = self.mask_probabilities[block]
        return probability > 0 if self.training else round(probability) == 1

    @torch.no_grad()
    def attention_mask(self, block: int, masks: Tensor, tokens: Tokens) -> Tensor:
        """Which tokens attend to which ``(B, 1, N, N)``: queries to the patches in their mask, else all to all."""
        inside = F.interpolate(masks, size=tokens.size, mode='bilinear', align_corners=False).flatten(2) > 0
        if self.training and (probability := self.mask_probabilities[block]) < 1:
            inside |= torch.rand(inside.shape[:2], device=inside.device)[..., None] > probability
        B, N, last = *tokens.x.shape[:2], tokens.num_prefix_tokens
        allowed = inside.new_ones(B, N, N)
        allowed[:, last - self.num_queries : last, last:] = inside
        return allowed[:, None]

    def forward(self, x: Predictions) -> Tensor:
        """Semantic scores ``(B, K, H, W)``: class probabilities without "no object" times the masks' sigmoids."""
        logits, masks = x.stages[-1]
        return fuse_masks(logits.softmax(-1)[..., :-1], masks, x.padded)[..., : x.size[0], : x.size[1]]

    def predict(self, x: Predictions, *_: Any) -> Any:
        """What :meth:`forward` gives; mmsegmentation passes what it knows of the images, and its settings."""
        return self(x)

    def regions(self, sample: Any) -> InstanceData:
        """The classes of a label map as ``labels`` and ``masks``."""
        label = sample.gt_sem_seg.data[0]
        classes = torch.unique(label)
        values = classes.tolist()  # the host waits for the device here, instead of for the size of a selection
        if wrong := [value for value in values if not (0 <= value < self.num_classes or value == self.ignore_index)]:
            refuse_labels(wrong, self.num_classes, f' and are not ignore_index={self.ignore_index}')
        if self.ignore_index in values:
            place = values.index(self.ignore_index)
            classes = torch.cat([classes[:place], classes[place + 1 :]])
        classes = classes.long()
        return InstanceData(labels=classes, masks=(label == classes[:, None, None]).long())

    def loss(self, x: Predictions, batch_data_samples: Sequence[Any], train_cfg: Any = None) -> dict[str, Tensor]:
        """Losses of all stages against the regions of each image.

        Raises:
            ValueError: A label is no class, or labels or masks do not have the size of the padded images.
        """
        H, W = x.size
        regions = [self.regions(sample) for sample in batch_data_samples]
        for region in regions:
            if region.masks.shape[-2:] != (H, W):
                found = f'{tuple(region.masks.shape[-2:])} of labels or masks are not those of the images, {(H, W)}'
                raise ValueError(f'the sizes {found}: the data_preprocessor of a detector needs pad_mask=True')
            region.masks = F.pad(region.masks, (0, x.padded[1] - W, 0, x.padded[0] - H))
        logits, masks = ([part.float() for part in parts] for parts in zip(*x.stages, strict=True))
        with torch.autocast(masks[0].device.type, enabled=False):  # costs of half precision cannot be matched
            return self.loss_by_feat(logits, masks, regions, [sample.metainfo for sample in batch_data_samples])


@MODELS.register_module()
class EoMTPanopticHead(EoMTHead):
    """The head of :class:`EoMTDetector`: as :class:`EoMTHead`, for objects and, in panoptic segmentation, stuff.

    Args:
        in_channels: Width C of the backbone.
        num_things_classes: Number of classes of objects, which come first.
        num_stuff_classes: Number of classes without objects.
        **kwargs: The other arguments of ``EoMTHead``, but ``num_classes`` and ``fixed_matching``.

    Shape:
        Input: :class:`Predictions`; :meth:`forward` gives class logits ``(B, Q, K + 1)`` and mask logits
        ``(B, Q, s*h, s*w)`` of every stage, :meth:`predict` the last ones, the masks ``(B, Q, H, W)``.
    """

    least_classes = 1

    def __init__(self, in_channels: int, *, num_things_classes: int, num_stuff_classes: int = 0, **kwargs: Any) -> None:
        if kwargs.get('fixed_matching'):
            raise ValueError('fixed_matching is for label maps: a class may have several objects')
        super().__init__(in_channels, num_classes=num_things_classes + num_stuff_classes, **kwargs)
        self.num_things_classes, self.num_stuff_classes = num_things_classes, num_stuff_classes

    def forward(self, x: Predictions, *_: Any) -> Any:
        return [stage.logits for stage in x.stages], [stage.masks for stage in x.stages]

    def predict(self, x: Predictions, *_: Any) -> tuple[Tensor, Tensor]:
        logits, masks = x.stages[-1]
        masks = F.interpolate(masks, size=x.padded, mode='bilinear', align_corners=False)
        return logits, masks[..., : x.size[0], : x.size[1]]

    def regions(self, sample: Any) -> InstanceData:
        """Objects and, where a label map has them, stuff, by mmdetection."""
        (found,) = self.preprocess_gt([sample.gt_instances], [sample.get('gt_sem_seg')])
        return found


def _read_back(head: EoMTHead, _: Any) -> None:
    """After a load: the state that was stored in a buffer."""
    if not head.attn_mask_probs.is_meta:
        head.mask_probabilities = tuple(head.attn_mask_probs.tolist())


def predict_with_queries(backbone: Any, head: EoMTHead, img: Tensor, *, every_stage: bool = False) -> Predictions:
    """Run a backbone on images ``(B, 3, H, W)`` with the queries of a head among the tokens of its last blocks.

    Stages are predicted before each of these blocks in training or if ``every_stage`` is wanted, and otherwise where a
    block needs the masks.

    Raises:
        ValueError: The backbone takes no queries, leaves out its last block or norm, or does not fit the head.
    """
    depth, last = len(backbone.block_names), backbone.map_info[backbone.block_names[-1]]
    if depth <= head.num_blocks or head.in_channels != last.channels:
        wanted = f'more than num_blocks={head.num_blocks} blocks of width in_channels={head.in_channels}'
        raise ValueError(f'the head needs {wanted}, the backbone has {depth} of {last.channels}')
    first, stages = depth - head.num_blocks, []
    tokens = head.join(backbone.tokens_before(img, first))
    for block in range(head.num_blocks):
        mask = None
        if head.training or every_stage or head.masks_attention(block):
            stages.append(head.predict_stage(backbone.normalise(tokens)))
            if head.masks_attention(block):
                mask = head.attention_mask(block, stages[-1].masks, tokens)
        tokens = backbone.run_block(first + block, tokens, mask)
    stages.append(head.predict_stage(backbone.normalise(tokens)))
    padded = (tokens.size[0] * last.stride, tokens.size[1] * last.stride)
    return Predictions(stages, (img.shape[-2], img.shape[-1]), padded)


@MODELS.register_module()
class EoMTDetector(MaskFormer):
    """Instance and panoptic segmentation by an encoder-only mask transformer (arXiv 2503.19108).

    mmdetection's ``MaskFormer`` with :class:`EoMTPanopticHead` as its ``panoptic_head``. Its ``panoptic_fusion_head``
    makes objects or a panoptic map of classes and masks. There is no neck: the queries join the backbone's own tokens.

    Args:
        backbone: A ``TimmViT`` or a ``ViT`` with ``final_norm=True``, whose last block is among ``out_indices``.
        panoptic_head: An ``EoMTPanopticHead``.
        panoptic_fusion_head: mmdetection's ``MaskFormerFusionHead``.
        train_cfg: Unused.
        test_cfg: Settings of the fusion head, such as ``panoptic_on`` and ``instance_on``.
        data_preprocessor: mmdetection's ``DetDataPreprocessor``.
        init_cfg: Initialisation, mmengine style.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        panoptic_head: Mapping[str, Any],
        panoptic_fusion_head: Mapping[str, Any],
        *,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            backbone,
            panoptic_head=panoptic_head,
            panoptic_fusion_head=panoptic_fusion_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )

    def extract_feat(self, batch_inputs: Tensor) -> Predictions:
        return predict_with_queries(self.backbone, self.panoptic_head, batch_inputs)
