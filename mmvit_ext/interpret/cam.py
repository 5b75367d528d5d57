"""Class activation maps of images: where the last map of a classifier speaks for a class, and the box around it.

Paper: Learning Deep Features for Discriminative Localization, Zhou et al., CVPR 2016, arXiv 1512.04150.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from mmvit_ext.datasets.placement import Box
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.drawing import colour_mask, draw_frame
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.inference.sheets import fit_edge, write_picture
from mmvit_ext.models.classifiers.cam_classifier import RIVALS, beyond_rivals, check_class_maps, class_maps

from .explain import Explainer, check_cell, choose_rivals, choose_shown
from .inputs import OpenedImage, PlacedImage
from .report import Explanation, write_arrays

__all__ = ['THRESHOLD', 'ClassActivation', 'box_from_map', 'class_activation_maps', 'draw_activation', 'explain_cam']

THRESHOLD = 0.4  # of the range of a map, above which a place belongs to the object; measured in docs/gradcat.md
TOP = 3  # classes that are shown when none are named
CELL = 480  # longer edge of each picture in pixels
OPACITY = 0.55  # of the colours over the image in grey
LEGEND = (
    'The colours say what each place adds to the logit of the class, compared with its rivals, from the least (dark) '
    'to the most (bright) of this map. The rectangle is drawn around the largest connected piece above the threshold. '
    'What is grey lies outside of what the network sees.'
)


def upsample_map(cam: Tensor, size: tuple[int, int]) -> np.ndarray:
    """A class activation map ``(h, w)`` at the size ``(H, W)`` of the network's input, interpolated bilinearly."""
    return F.interpolate(cam[None, None].float(), size, mode='bilinear', align_corners=False)[0, 0].cpu().numpy()


def box_from_map(cam: np.ndarray, threshold: float = THRESHOLD) -> Box:
    """The box in pixels around the largest connected piece of a map ``(H, W)`` above a share of the map's range.

    Places are connected along rows, columns and diagonals. The box of a map without any range is all of it.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f'threshold must be a share from 0 to below 1, got {threshold}')
    if not np.isfinite(cam).all():
        raise ValueError('the class activation map is not finite: the training diverged, take an earlier checkpoint')
    low, high = float(cam.min()), float(cam.max())
    above = (cam > low + threshold * (high - low)).astype(np.uint8)
    if not above.any():
        return 0.0, 0.0, float(cam.shape[1]), float(cam.shape[0])
    _, _, pieces, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    left, top, width, height, _ = pieces[1 + int(pieces[1:, cv2.CC_STAT_AREA].argmax())]
    return float(left), float(top), float(left + width), float(top + height)


@dataclass(frozen=True)
class ClassActivation:
    """The class activation map of a class."""

    label: int
    logit: float
    probability: float  # 0 to 1
    values: np.ndarray  # (H, W) of the network's input; their mean is the logit minus its rivals', without biases
    box: Box  # around the largest piece, in pixels of the input


@torch.no_grad()
def class_activation_maps(
    model: nn.Module,
    inputs: Tensor,
    classes: Sequence[int] | None = None,
    *,
    top: int = TOP,
    threshold: float = THRESHOLD,
    rivals: int = RIVALS,
    source: str = 'the config',
) -> list[ClassActivation]:
    """The maps of a normalised image ``(1, C, H, W)`` for some classes, the ``top`` most probable by default.

    The mean of the maps of the strongest ``rivals`` of a class, or of all others, is subtracted.
    """
    _require_maps(model, source)
    (logits,), (maps,) = class_maps(model, inputs)
    chosen = logits.topk(min(top, len(logits))).indices.tolist() if classes is None else list(classes)
    of_each = hasattr(model.head, 'thr')  # mmpretrain's heads for several labels of an image
    probabilities = logits.sigmoid() if of_each else logits.softmax(0)
    found = []
    for label in chosen:
        values = upsample_map(beyond_rivals(maps, logits, label, rivals), (inputs.shape[2], inputs.shape[3]))
        box = box_from_map(values, threshold)
        found.append(ClassActivation(label, float(logits[label]), float(probabilities[label]), values, box))
    return found


def _require_maps(model: nn.Module, source: str | Path) -> None:
    try:
        check_class_maps(model)
    except ValueError as error:
        raise UserError(f'{source} has no class activation maps: {error}') from error


def draw_activation(placed: PlacedImage, found: ClassActivation, *, edge: int = CELL) -> Image.Image:
    """The map in colours over the image, whose longer edge is brought to ``edge`` pixels, and its box."""
    factor = edge / max(placed.image.shape[:2])
    picture = Image.fromarray(placed.image).resize(fit_edge(placed.image.shape, edge)).convert('L').convert('RGB')
    left, top, right, bottom = (round(value * factor) for value in placed.seen)
    values = found.values
    span = float(values.max() - values.min())
    colours = Image.fromarray(colour_mask((values - values.min()) / span if span else np.zeros_like(values)))
    colours = colours.resize((max(right - left, 1), max(bottom - top, 1)), Image.Resampling.BILINEAR)
    part = picture.crop((left, top, left + colours.width, top + colours.height))
    picture.paste(Image.blend(part, colours, OPACITY), (left, top))
    left, top, right, bottom = (value * factor for value in placed.placement.to_image(found.box))
    draw_frame(ImageDraw.Draw(picture), (left, top, right, bottom), (255, 255, 255), max(edge // 160, 2))
    return picture


def explain_cam(
    predictor: Predictor,
    folder: Path,
    source: str | Path,
    *,
    classes: Sequence[str | int] | None = None,
    top: int | None = None,
    threshold: float = THRESHOLD,
    rivals: int | None = None,
    save_maps: bool = False,
    edge: int = CELL,
) -> Explainer:
    """The class activation maps of each image: ``NAME_CLASS.png`` and, with ``save_maps``, ``NAME.npz``."""
    check_cell(edge)
    if not 0 <= threshold < 1:
        raise UserError(f'--threshold must be a share from 0 to below 1, got {threshold}')
    if predictor.scope != 'mmpretrain':
        wanted = 'expected a classifier, such as those in configs/nest, configs/p2t and configs/spformer'
        raise UserError(f'{source} is of scope {predictor.scope} and has no class activation maps: {wanted}')
    _require_maps(predictor.model, source)
    rivals = choose_rivals(rivals, predictor.classes)
    chosen, count = choose_shown(classes, top, predictor.classes, 'most probable', TOP)

    def explain(opened: OpenedImage, name: str) -> Explanation:
        placed = opened.placed
        maps = class_activation_maps(
            predictor.model, placed.inputs, chosen, top=count, threshold=threshold, rivals=rivals, source=str(source)
        )
        pictures, rows = [], []
        for found in maps:
            title = predictor.classes[found.label]
            file = write_picture(draw_activation(placed, found, edge=edge), folder / f'{name}_{found.label}.png')
            pictures.append((f'{title}, p = {found.probability:.3f}', file))
            row = {'class': title, 'index': found.label, 'probability': found.probability, 'logit': found.logit}
            rows.append({**row, 'box in image pixels': placed.told(found.box)})
        data = []
        if save_maps:
            values, indices = np.stack([found.values for found in maps]), np.array([found.label for found in maps])
            data.append(write_arrays(folder / f'{name}.npz', maps=values, indices=indices))
        facts = {'classes': rows, 'seen of the image': [round(edge, 1) for edge in placed.seen]}
        return Explanation(pictures, facts, data)

    return Explainer('Class activation maps', LEGEND, explain, settings={'threshold': threshold, 'rivals': rivals})
