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
from mmvit_ext.models.classifiers.class_maps import RIVALS, check_class_maps, class_maps, strongest_rivals

from .explain import Explainer, check_cell, choose_rivals, choose_shown
from .inputs import OpenedImage, PlacedImage
from .report import Explanation, write_arrays

__all__ = ['THRESHOLD', 'ClassActivation', 'box_from_map', 'class_activation_maps', 'draw_activation', 'explain_cam']

THRESHOLD = 0.4
"""Share of the range of a map above which a place belongs to the object; docs/gradcat.md has the measurements."""


def upsample_map(cam: Tensor, size: tuple[int, int]) -> np.ndarray:
    """A class activation map ``(h, w)`` at the size ``(H, W)`` of the network's input, interpolated bilinearly."""
    return F.interpolate(cam[None, None].float(), size, mode='bilinear', align_corners=False)[0, 0].cpu().numpy()


def box_from_map(cam: np.ndarray, threshold: float = THRESHOLD) -> Box:
    """The box around the largest connected piece of what a map shows.

    Args:
        cam: ``(H, W)``, any range.
        threshold: Share of the range, 0 to 1, from the map's least value at which the object begins; places above it
            count. They are connected along rows, columns and diagonals.

    Returns:
        Left, top, right and bottom in pixels of the map, the last two exclusive; all of a map without any range.

    Raises:
        ValueError: The threshold is outside [0, 1), or the map is not finite.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f'threshold must be a share from 0 to below 1, got {threshold}')
    if not np.isfinite(cam).all():
        raise ValueError(
            'the class activation map is not finite: the training has diverged, take an earlier checkpoint'
        )
    low, high = float(cam.min()), float(cam.max())
    above = (cam > low + threshold * (high - low)).astype(np.uint8)
    if not above.any():
        return 0.0, 0.0, float(cam.shape[1]), float(cam.shape[0])
    _, _, pieces, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    left, top, width, height, _ = pieces[1 + int(pieces[1:, cv2.CC_STAT_AREA].argmax())]
    return float(left), float(top), float(left + width), float(top + height)


TOP = 3
"""Classes that are shown when none are named."""

CELL = 480
"""Longer edge of each picture in pixels."""

OPACITY = 0.55
"""Of the colours over the image in grey."""

LEGEND = (
    'The colours say what each place adds to the logit of the class, compared with its rivals, from the least (dark) '
    'to the most (bright) of this map. The rectangle is drawn around the largest connected piece above the threshold. '
    'What is grey lies outside of what the network sees.'
)
"""How the pictures are read."""


@dataclass(frozen=True)
class ClassActivation:
    """The class activation map of a class.

    Args:
        label: Index of the class.
        logit: Its logit.
        probability: Its probability, 0 to 1.
        values: At the size of the network's input ``(H, W)``; their mean is the logit minus the mean of its rivals',
            without biases and but for the interpolation.
        box: Around the largest piece, in pixels of the input.
    """

    label: int
    logit: float
    probability: float
    values: np.ndarray
    box: Box


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
    """The class activation maps of an image, one for each class.

    Args:
        model: A classifier that takes the mean of a map, in evaluation mode.
        inputs: Normalised image ``(1, 3, H, W)``.
        classes: Indices; ``None`` takes the most probable ones.
        top: How many, if none are named.
        threshold: Share of a map's range above which its object lies, 0 to 1.
        rivals: How many other classes, those with the highest logits, are subtracted as a mean; 0 for the class alone.
        source: The config, for messages.

    Raises:
        UserError: The model has no such maps.
    """
    _require_maps(model, source)
    logits, maps = class_maps(model, inputs)
    chosen = logits[0].topk(min(top, logits.shape[1])).indices.tolist() if classes is None else list(classes)
    probabilities = logits[0].softmax(0)
    found = []
    for label in chosen:
        cam = maps[0, label]
        if rivals:
            cam = cam - maps[0, strongest_rivals(logits[0], label, rivals)].mean(0)
        values = upsample_map(cam, (inputs.shape[2], inputs.shape[3]))
        box = box_from_map(values, threshold)
        found.append(ClassActivation(label, float(logits[0, label]), float(probabilities[label]), values, box))
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
    """The class activation maps of each image.

    Args:
        predictor: A classifier that takes the mean of a map.
        folder: Gets ``NAME_CLASS.png`` and, with ``save_maps``, ``NAME.npz``.
        source: The config, for messages.
        classes: Names or numbers; ``None`` takes the ``top`` most probable ones of each image, 3 by default.
        top: See ``classes``.
        threshold: See :func:`box_from_map`.
        rivals: See :func:`class_activation_maps`; 3 by default, all others where there are fewer.
        save_maps: Whether to write the maps, too.
        edge: Longer edge of each picture, 16 to 4096 pixels.

    Raises:
        UserError: An argument is wrong, or the model has no such maps.
    """
    check_cell(edge)
    if not 0 <= threshold < 1:
        raise UserError(f'--threshold must be a share from 0 to below 1, got {threshold}')
    if predictor.scope != 'mmpretrain':
        raise UserError(
            f'{source} is of scope {predictor.scope} and has no class activation maps: expected a classifier, such as '
            'those in configs/nest, configs/p2t and configs/spformer; a segmentor tells the class of each pixel anyway'
        )
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
            rows.append(
                {
                    'class': title,
                    'index': found.label,
                    'probability': found.probability,
                    'logit': found.logit,
                    'box in image pixels': [round(value, 1) for value in placed.placement.to_image(found.box)],
                }
            )
        data = []
        if save_maps:
            values, indices = np.stack([found.values for found in maps]), np.array([found.label for found in maps])
            data.append(write_arrays(folder / f'{name}.npz', maps=values, indices=indices))
        seen = [round(value, 1) for value in placed.seen]
        return Explanation(pictures, {'classes': rows, 'seen of the image': seen}, data)

    return Explainer('Class activation maps', LEGEND, explain, settings={'threshold': threshold, 'rivals': rivals})
