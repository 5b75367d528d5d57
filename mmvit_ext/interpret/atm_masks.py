"""Pictures of the masks of class queries: one row per class, one column per supervised stage.

Paper: SegViT, Zhang et al., NeurIPS 2022, arXiv 2210.05844; its figure 1 shows such masks. EoMT
(arXiv 2503.19108) has queries of no fixed class: the mask of a class is that of the query that is most sure of it, at
each stage its own. A mask is treated as the
model treats it on the way to its prediction: resized to the network's input, sigmoid, mean over the windows where
inference slides, padding cut off, resized to the image.

Shapes: N classes = queries, S stages (or decoder layers), K chosen classes, (h, w) mask size, (H, W) image size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.drawing import colour_mask, draw_overlay
from mmvit_ext.inference.predictor import MAX_SCORES, Predictor, enlarged_labels
from mmvit_ext.inference.sheets import Cell, draw_table, fit_edge, write_picture
from mmvit_ext.models.backbones.base import Backbone
from mmvit_ext.models.decode_heads.atm_head import ATMHead
from mmvit_ext.models.losses.atm_loss import StageOutput

from .explain import Explainer, check_cell, choose_shown
from .inputs import OpenedImage
from .report import Explanation, write_arrays

__all__ = ['ClassMasks', 'class_masks', 'draw_sheet', 'explain_masks', 'stage_names']

TOP = 4  # classes that are shown when none are named
CELL = 320  # longer edge of each picture of a sheet in pixels
PALENESS = 0.25  # what is left of the prediction's colours outside the class of a row
LEGEND = (
    'A mask is shown as the model uses it: resized to the input of the network, sigmoid, padding removed, resized to '
    'the image. p is the probability that the query of the class gives to its class.'
)

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ClassMasks:
    """Masks of an image."""

    image: np.ndarray  # RGB (H, W, 3)
    labels: np.ndarray  # the prediction, class index of each pixel (H, W)
    classes: tuple[int, ...]  # index of each chosen class (K)
    masks: np.ndarray  # at the size of the image (S, K, H, W), 0 to 1
    probabilities: np.ndarray  # of the class by its query (S, K), the highest of a sliding inference's windows


def stage_names(model: Any) -> list[str]:
    """Headings of the supervised stages of a head: the layer each one looks at, from 1, or its ``in_index``."""
    head: Any = model.decode_head
    if hasattr(head, 'set_mask_probabilities'):
        depth = len(model.backbone.block_names)
        return [f'behind block {depth - head.num_blocks + index}' for index in range(head.num_blocks + 1)]
    sources = [_map_name(model, index) for index in head.in_index]
    if head.deep_supervision == 'layer':
        whole = ' + '.join(sources)
        return [f'decoder layer {number} ({whole})' for number, _ in enumerate(head.stages[0].layers, 1)]
    return [f'stage {number} ({source})' for number, source in enumerate(reversed(sources), 1)]


def _map_name(model: Any, index: int) -> str:
    backbone = model.backbone
    if model.with_neck:
        return f'in_index {index}'
    if isinstance(backbone, Backbone):
        name = backbone.out_names[index]
        kind, _, number = name.removeprefix('net.').rpartition('s.')  # of timm's network
        if kind in ('layer', 'block'):
            return f'{kind} {int(number) + 1}'
        return 'patch embedding' if name == 'patch_embed' else f'in_index {index}'
    if not isinstance(getattr(backbone, 'layers', None), nn.ModuleList) or hasattr(backbone, 'num_stages'):
        return f'in_index {index}'
    # mmseg's plain ViTs give their maps in the order of the layers, whatever the order in out_indices.
    return f'layer {sorted(layer % len(backbone.layers) for layer in backbone.out_indices)[index] + 1}'


def _windows(model: Any, size: tuple[int, int]) -> list[Box]:
    """Top, left, bottom and right of the windows that a model's inference takes of an input."""
    test_cfg: Mapping[str, Any] = model.test_cfg
    if test_cfg['mode'] == 'whole':
        return [(0, 0, *size)]
    if hasattr(model, 'windows'):
        return [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in model.windows(size)]
    spans = []
    for length, crop, stride in zip(size, test_cfg['crop_size'], test_cfg['stride'], strict=True):
        count = max(length - crop + stride - 1, 0) // stride + 1
        ends = [min(index * stride + crop, length) for index in range(count)]
        spans.append([(max(end - crop, 0), end) for end in ends])
    return [(top, left, bottom, right) for top, bottom in spans[0] for left, right in spans[1]]


def _mean(pieces: Iterable[Tensor], boxes: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """Maps ``(1, C, ., .)`` of windows to their mean ``(1, C, H, W)``."""
    total = torch.zeros(0)
    count = torch.zeros(size)
    for piece, (top, left, bottom, right) in zip(pieces, boxes, strict=True):
        total = total if total.numel() else piece.new_zeros(1, piece.shape[1], *size)
        total[..., top:bottom, left:right] += piece
        count[top:bottom, left:right] += 1
    return total.div_(count.to(total))


def _decode(model: Any, img: Tensor) -> tuple[Tensor, list[StageOutput]]:
    """Scores ``(1, N, H, W)``, and the classes and masks of all stages with one query for each class."""
    head = model.decode_head
    if isinstance(head, ATMHead):
        outputs = head.decode(model.extract_feat(img))
        return head.fuse(outputs[-1], img.shape[-2:]), outputs
    from mmvit_ext.models.eomt import predict_with_queries  # needs mmdet

    found = predict_with_queries(model.backbone, head, img, every_stage=True)
    ordered = []
    for logits, masks in found.stages:
        query = logits.softmax(-1)[0, :, :-1].argmax(0)  # (N)
        full = F.interpolate(masks[:, query], size=found.padded, mode='bilinear', align_corners=False)
        ordered.append(StageOutput(logits[:, query], full[..., : img.shape[-2], : img.shape[-1]]))
    return head(found), ordered


@torch.no_grad()
def class_masks(opened: OpenedImage, classes: Sequence[int] | None = None, *, top: int = TOP) -> ClassMasks:
    """Predict an image and keep the masks of some classes, by default of the ``top`` largest predicted areas."""
    model: Any = opened.predictor.model
    inputs, samples = opened.inputs, opened.samples
    size = (int(inputs.shape[2]), int(inputs.shape[3]))
    boxes = _windows(model, size)
    pieces, decoded = zip(*(_decode(model, inputs[..., t:b, l:r]) for t, l, b, r in boxes), strict=True)
    edges = [(bottom - top, right - left) for top, left, bottom, right in boxes]
    scores = _mean(pieces, boxes, size)
    whole = opened.image.shape[:2]
    enlarge, seen = scores.shape[1] * whole[0] * whole[1] > MAX_SCORES, copy.deepcopy(samples)
    if enlarge:
        seen[0].set_metainfo({'ori_shape': opened.input_size})
    found = model.postprocess_result(scores, seen)[0]
    predicted = found.pred_sem_seg.data[0]
    if enlarge:
        predicted = enlarged_labels(predicted, found.seg_logits.data, whole, bool(model.align_corners))
    labels = predicted.cpu().numpy().astype(np.int64)
    if classes is None:
        area = np.bincount(labels.ravel())
        classes = [int(index) for index in np.argsort(-area, kind='stable')[:top] if area[index]]
    chosen = torch.tensor(list(classes), device=inputs.device)
    small = (torch.cat([output.masks[:, chosen] for output in outputs], 1) for outputs in decoded)  # (1, S*K, h, w)
    upsampled = (
        F.interpolate(masks, size=edge, mode='bilinear', align_corners=False).sigmoid_()
        for masks, edge in zip(small, edges, strict=True)
    )
    masks = _mean(upsampled, boxes, size)
    # A segmentor takes a single channel for logits of a binary problem, hence one more.
    masks = torch.cat([masks, masks[:, :1]], 1)
    masks = model.postprocess_result(masks, copy.deepcopy(samples))[0].seg_logits.data[:-1]
    probabilities = torch.stack(
        [torch.stack([output.logits[0].softmax(-1)[chosen, chosen] for output in outputs]) for outputs in decoded]
    ).amax(0)
    masks = masks.unflatten(0, tuple(probabilities.shape)).float().cpu().numpy()
    return ClassMasks(opened.image, labels, tuple(classes), masks, probabilities.float().cpu().numpy())


def draw_sheet(
    result: ClassMasks,
    stages: Sequence[str],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    *,
    opacity: float = 1.0,
    edge: int = CELL,
) -> Image.Image:
    """The image, the mask of every stage, and the prediction with the class in full colour, a row for each class."""
    if len(stages) != len(result.masks):
        raise ValueError(f'stages must have {len(result.masks)} headings, got {len(stages)}')
    image = Image.fromarray(result.image)
    grey = np.array(image.convert('L').convert('RGB'))
    prediction = np.array(draw_overlay(grey, result.labels, classes, palette, opacity=opacity, legend=False))
    pale = np.rint(255 - (255 - prediction.astype(np.float32)) * PALENESS).astype(np.uint8)
    rows: list[tuple[str, list[Cell]]] = []
    for column, index in enumerate(result.classes):
        region = result.labels == index
        row: list[Cell] = [image]
        for masks, probabilities in zip(result.masks, result.probabilities, strict=True):
            blended = grey + (colour_mask(masks[column]) - grey.astype(np.float32)) * opacity
            row.append((Image.fromarray(np.rint(blended).astype(np.uint8)), f'p = {probabilities[column]:.3f}'))
        shown = Image.fromarray(np.where(region[..., None], prediction, pale))
        row.append((shown, f'{100 * region.mean():.1f} % of the image'))
        rows.append((classes[index], row))
    cell, footer = fit_edge(result.labels.shape, edge), 'p: probability that the query of the class gives to its class'
    return draw_table(rows, ['image', *stages, 'fused prediction'], cell, footer, 'mask, 0 to 1')


def explain_masks(
    predictor: Predictor,
    folder: Path,
    source: str | Path,
    *,
    classes: Sequence[str] | None = None,
    top: int | None = None,
    save_masks: bool = False,
    opacity: float = 1.0,
    edge: int = CELL,
) -> Explainer:
    """The masks of each image as a sheet ``NAME.png`` and, with ``save_masks``, the arrays ``NAME.npz``."""
    if not 0 <= opacity <= 1:
        raise UserError(f'--opacity must be 0 to 1, got {opacity}')
    check_cell(edge)
    head = getattr(predictor.model, 'decode_head', predictor.model)
    if not isinstance(head, ATMHead) and not hasattr(head, 'set_mask_probabilities'):
        wanted = 'expected a decode_head ATMHead, ShrunkATMHead or EoMTHead, as in configs/segvit and configs/eomt'
        raise UserError(f'{source} has a {type(head).__name__} and no masks of classes to show: {wanted}')
    chosen, count = choose_shown(classes, top, predictor.classes, 'largest', TOP, numbers=False)
    stages = stage_names(predictor.model)

    def explain(opened: OpenedImage, name: str) -> Explanation:
        result = class_masks(opened, chosen, top=count)
        sheet = draw_sheet(result, stages, predictor.classes, predictor.palette, opacity=opacity, edge=edge)
        names = np.array([predictor.classes[index] for index in result.classes])
        arrays = dict(masks=result.masks, probabilities=result.probabilities, labels=result.labels, classes=names)
        arrays.update(class_indices=np.array(result.classes), stages=np.array(stages))
        data = [write_arrays(folder / f'{name}.npz', **arrays)] if save_masks else []
        picture = write_picture(sheet, folder / f'{name}.png')
        rows = [
            {
                'class': predictor.classes[index],
                'share of the image': float((result.labels == index).mean()),
                **{f'p, {stage}': float(p) for stage, p in zip(stages, result.probabilities[:, row], strict=True)},
            }
            for row, index in enumerate(result.classes)
        ]
        caption = 'a row per class, a column per stage, behind them the prediction'
        return Explanation([(caption, picture)], {'classes': rows}, data)

    return Explainer('Masks of the class queries', LEGEND, explain)
