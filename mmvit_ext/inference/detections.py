"""A detector of mmdet as a graph: anchors, non-maximum suppression and second stage with shapes that are fixed ahead.

mmdet keeps as many boxes of an image as pass its thresholds, image by image. A graph for any number of images keeps the
best ``max_per_img`` places of each instead, and what no box fills has score 0. The boxes are mmdet's own.

Shapes: B images, L levels, K best anchors of a level, P proposals, C classes, N boxes of an image.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.ops import nms
from mmdet.models.dense_heads import AnchorHead, RetinaHead, RPNHead
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from torch import Tensor, nn

from mmvit_ext.errors.user_error import UserError

__all__ = ['Detections', 'suppress', 'suppress_in_onnx']


def _suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, least: float) -> Tensor:
    """The scores ``(G, C, M)`` of boxes ``(G, M, 4)`` above ``least`` that no better one covers, else 0."""
    kept = torch.zeros_like(scores)
    for group, category in torch.cartesian_prod(torch.arange(len(scores)), torch.arange(scores.shape[1])).tolist():
        values = scores[group, category]
        candidates = (values > least).nonzero()[:, 0]
        chosen = candidates[nms(boxes[group, candidates], values[candidates], iou_threshold)[1]]
        kept[group, category, chosen] = values[chosen]
    return kept


if hasattr(torch.library, 'custom_op'):  # as of torch 2.4, and exporting needs 2.5
    suppress = torch.library.custom_op('mmvit_ext::suppress', _suppress, mutates_args=())
    suppress.register_fake(lambda boxes, scores, iou_threshold, least: torch.empty_like(scores))
else:
    suppress = _suppress  # type: ignore[assignment]


def suppress_in_onnx(boxes: Any, scores: Any, iou_threshold: float, least: float) -> Any:
    """``suppress`` in ONNX's operators."""
    from onnxscript import opset18 as op  # only ONNX needs it

    settings: Any = (torch.iinfo(torch.int64).max, iou_threshold, least)
    chosen = op.NonMaxSuppression(boxes, scores, *settings)
    return op.ScatterND(op.ConstantOfShape(op.Shape(scores)), chosen, op.GatherND(scores, chosen))


class Detections(nn.Module):
    """Normalised images ``(B, C', H, W)`` to boxes ``(B, N, 4)``, scores and labels ``(B, N)``, best first.

    A box is ``x1, y1, x2, y2`` in pixels of the image. Mask R-CNN adds ``(B, N, m, m)``: of each place of a box, the
    probability that it belongs to the object. What no box fills has score 0 and label -1.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = copy.deepcopy(model)
        self.heads: Any = getattr(self.model, 'roi_head', None)
        self.dense: Any = getattr(self.model, 'bbox_head' if self.heads is None else 'rpn_head', None)
        _check_supported(type(model).__name__, self.dense, self.heads)
        for module in self.model.modules():
            if hasattr(module, 'use_torchvision'):  # mmcv's own operator has no form in a graph
                vars(module)['use_torchvision'] = True

    def forward(self, img: Tensor) -> tuple[Tensor, ...]:
        features, size = self.model.extract_feat(img), img.shape[2:]
        boxes, scores, labels = best_anchors(self.dense, features, size)  # (B, L, K, ...)
        cfg = self.dense.test_cfg
        if self.heads is None:
            boxes, scores, labels = (x.flatten(1, 2) for x in (boxes, scores, labels))
            classes = torch.arange(self.dense.num_classes, device=img.device)[:, None]
            of_class = torch.where(labels[:, None] == classes, scores[:, None], 0.0)  # (B, C, L*K)
            kept = suppress(boxes, of_class, cfg.nms.iou_threshold, cfg.score_thr).amax(1)
            return _best(cfg.max_per_img, kept, boxes, labels)
        kept = suppress(boxes.flatten(0, 1), scores.flatten(0, 1)[:, None], cfg.nms.iou_threshold, 0.0)
        kept = kept.unflatten(0, boxes.shape[:2]).flatten(1)
        proposals, scores, _ = _best(cfg.max_per_img, kept, boxes.flatten(1, 2), labels.flatten(1, 2))
        return self.second_stage(features, proposals, scores, size)

    def second_stage(
        self, features: Sequence[Tensor], proposals: Tensor, scores: Tensor, size: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Proposals ``(B, P, 4)`` and their scores to what :meth:`forward` gives."""
        cfg, head = self.heads.test_cfg, self.heads.bbox_head
        logits, deltas = head(pooled(self.heads.bbox_roi_extractor, features, proposals))
        of_class = logits.softmax(-1)[:, :-1].unflatten(0, proposals.shape[:2]).transpose(1, 2)  # (B, C, P)
        of_class = torch.where(scores[:, None] > 0, of_class, 0.0)
        boxes = _decode(head.bbox_coder, proposals.flatten(0, 1), deltas, size)  # (B*P, C, 4), or 1 instead of C
        boxes = boxes.unflatten(0, proposals.shape[:2]).transpose(1, 2).expand(-1, of_class.shape[1], -1, -1)
        kept = suppress(boxes.flatten(0, 1), of_class.flatten(0, 1)[:, None], cfg.nms.iou_threshold, cfg.score_thr)
        kept = kept.view_as(of_class).flatten(1)  # (B, C*P)
        labels = torch.arange(of_class.shape[1], device=kept.device)[:, None].expand_as(of_class)
        boxes, scores, labels = _best(cfg.max_per_img, kept, boxes.flatten(1, 2), labels.flatten(1))
        if not self.heads.with_mask:
            return boxes, scores, labels
        head = self.heads.mask_head
        masks = head(pooled(self.heads.mask_roi_extractor, features, boxes))  # (B*N, C, m, m)
        index = (torch.zeros_like(labels) if head.class_agnostic else labels.clamp(min=0)).flatten()[
            :, None, None, None
        ]
        masks = masks.gather(1, index.expand(-1, 1, *masks.shape[2:]))[:, 0].sigmoid()
        return boxes, scores, labels, masks.unflatten(0, labels.shape)


def best_anchors(head: Any, features: Sequence[Tensor], size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The boxes ``(B, L, K, 4)``, scores and labels ``(B, L, K)`` of the ``nms_pre`` best anchors of each level."""
    cfg, levels = head.test_cfg, []
    scores, deltas = head(features)
    anchors = head.prior_generator.grid_priors([x.shape[-2:] for x in scores], device=features[0].device)
    for logits, delta, anchor in zip(scores, deltas, anchors, strict=True):
        logits = F.pad(logits.permute(0, 2, 3, 1).flatten(1), (0, cfg.nms_pre), value=-torch.inf)
        logits, index = logits.topk(cfg.nms_pre)
        labels, place = index % head.cls_out_channels, index // head.cls_out_channels
        place = torch.where(logits.isinf(), 0, place)  # of the padding
        delta = delta.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4))
        delta = delta.gather(1, place[..., None].expand(-1, -1, 4))
        boxes = _decode(head.bbox_coder, anchor[place].flatten(0, 1), delta.flatten(0, 1), size).view_as(delta)
        found = logits.sigmoid()
        if cfg.get('min_bbox_size', -1) >= 0:
            found = torch.where((boxes[..., 2:] - boxes[..., :2]).amin(-1) > cfg.min_bbox_size, found, 0.0)
        levels.append((boxes, found, labels))
    boxes, found, labels = (torch.stack(parts, 1) for parts in zip(*levels, strict=True))
    return boxes, found, labels


def pooled(extractor: Any, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """The maps ``(B*N, C', edge, edge)`` inside boxes ``(B, N, 4)``, each from the level that its size belongs to."""
    images = torch.arange(boxes.shape[0], device=boxes.device).to(boxes)[:, None, None]
    rois = torch.cat((images.expand(-1, boxes.shape[1], 1), boxes), -1).flatten(0, 1)
    features = features[: extractor.num_inputs]
    levels = extractor.map_roi_levels(rois, len(features))[:, None]
    maps = torch.zeros((), device=rois.device)
    for level, (layer, feature) in enumerate(zip(extractor.roi_layers, features, strict=True)):
        inside = levels == level
        found = layer(feature, torch.where(inside, rois, 0.0))  # an empty box of image 0 costs next to nothing
        maps = torch.where(inside[..., None, None], found, maps)
    return maps


def _decode(coder: Any, boxes: Tensor, deltas: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes ``(M, 4)`` moved by deltas ``(M, C*4)``, as ``(M, C, 4)`` and inside an image of a size ``(H, W)``."""
    moved = coder.decode(boxes, deltas).unflatten(1, (-1, 4))
    if not coder.clip_border:
        return moved
    x, y = moved[..., 0::2].clamp(0, size[1]), moved[..., 1::2].clamp(0, size[0])
    return torch.stack((x, y), -1).flatten(-2)


def _best(count: int, scores: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ``count`` boxes, scores and labels of each image with the highest scores ``(B, M)``."""
    scores, index = scores.topk(min(count, scores.shape[1]))
    boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    found = scores > 0
    return torch.where(found[..., None], boxes, 0.0), scores, torch.where(found, labels.gather(1, index), -1)


def _check_supported(name: str, dense: Any, heads: Any) -> None:
    """Refuse what works otherwise than :class:`Detections`; a subclass may, too."""
    anchors = type(dense) in (AnchorHead, RetinaHead, RPNHead) and dense.use_sigmoid_cls
    coders: list[Any] = [getattr(dense, 'bbox_coder', None)]
    configs: list[Any] = [getattr(dense, 'test_cfg', None)]
    plain = heads is None
    if type(heads) is StandardRoIHead:
        extractors = [heads.bbox_roi_extractor, *([heads.mask_roi_extractor] if heads.with_mask else [])]
        plain = not heads.with_shared_head and all(type(extractor) is SingleRoIExtractor for extractor in extractors)
        coders, configs = [*coders, heads.bbox_head.bbox_coder], [*configs, heads.test_cfg]
    boxes = all(type(coder) is DeltaXYWHBBoxCoder for coder in coders)
    greedy = all(cfg and cfg.get('nms') == {'type': 'nms', 'iou_threshold': cfg.nms.iou_threshold} for cfg in configs)
    if not (anchors and plain and boxes and greedy and configs[0].get('nms_pre', -1) > 0):
        parts = ' and '.join(type(head).__name__ for head in (dense, heads) if head is not None)
        known = 'RetinaNet, Faster R-CNN and Mask R-CNN with sigmoid anchors and plain NMS can, as in configs/p2t'
        raise UserError(f'a {name} with {parts or "no head of anchors"} cannot be exported: {known}')
