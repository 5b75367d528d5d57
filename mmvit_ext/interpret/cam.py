"""Class activation maps of images: where the last map of a classifier speaks for a class, and the box around it.

Paper: Learning Deep Features for Discriminative Localization, Zhou et al., CVPR 2016, arXiv 1512.04150.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from mmvit_ext.datasets.placement import Box
from mmvit_ext.engine.checkpoint_io import atomic_path
from mmvit_ext.engine.drawing import colour_mask
from mmvit_ext.engine.errors import UserError
from mmvit_ext.engine.inference import Predictor
from mmvit_ext.evaluation.cam_localization import THRESHOLD, box_from_map, upsample_map
from mmvit_ext.interpret.classes import choose_classes
from mmvit_ext.interpret.placed import PlacedImage, place_image
from mmvit_ext.interpret.report import Explanation
from mmvit_ext.interpret.run import Explainer, check_cell
from mmvit_ext.models.classifiers.class_maps import RIVALS, check_class_maps, class_maps, strongest_rivals

__all__ = ['ClassActivation', 'class_activation_maps', 'draw_activation', 'explain_cam']

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
    """Class activation maps of an image.

    Args:
        model: A classifier that takes the mean of a map, in evaluation mode.
        inputs: Normalised image ``(1, 3, H, W)``.
        classes: Indices; ``None`` takes the most probable ones.
        top: How many, if none are named.
        threshold: Share of a map's range above which its object lies, 0 to 1.
        rivals: How many other classes, those with the highest logits, are subtracted as a mean; 0 for the class alone.
        source: The config, for messages.

    Returns:
        One for each class.

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
    """The map in colours over the image, and its box.

    Args:
        placed: The image.
        found: The map.
        edge: Longer edge of the picture in pixels.

    Returns:
        The picture, in the proportions of the image.
    """
    height, width = placed.image.shape[:2]
    factor = edge / max(height, width)
    picture = Image.fromarray(placed.image).resize((max(round(width * factor), 1), max(round(height * factor), 1)))
    picture = picture.convert('L').convert('RGB')
    left, top, right, bottom = (round(value * factor) for value in placed.seen)
    values = found.values
    span = float(values.max() - values.min())
    colours = Image.fromarray(colour_mask((values - values.min()) / span if span else np.zeros_like(values)))
    colours = colours.resize((max(right - left, 1), max(bottom - top, 1)), Image.Resampling.BILINEAR)
    part = picture.crop((left, top, left + colours.width, top + colours.height))
    picture.paste(Image.blend(part, colours, OPACITY), (left, top))
    box = [value * factor for value in placed.placement.to_image(found.box)]
    line = max(edge // 160, 2)
    draw, corners = ImageDraw.Draw(picture), (box[0], box[1], box[2] - 1, box[3] - 1)
    draw.rectangle(corners, outline='black', width=line + 2)
    draw.rectangle(corners, outline='white', width=line)
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
        folder: Of the results: ``NAME_CLASS.png`` and, with ``save_maps``, ``NAME.npz``.
        source: The config, for messages.
        classes: Names or numbers of the classes to show; ``None`` takes the most probable ones of each image.
        top: How many, if none are named; 3 by default.
        threshold: Share of a map's range above which its object lies, 0 to below 1.
        rivals: How many other classes, those with the highest logits, are subtracted as a mean; 0 for the class alone;
            3 by default, all where there are fewer.
        save_maps: Whether to write the maps, too.
        edge: Longer edge of each picture, 16 to 4096 pixels.

    Returns:
        What explains an image.

    Raises:
        UserError: An argument is wrong, or the model has no such maps.
    """
    check_cell(edge)
    if not 0 <= threshold < 1:
        raise UserError(f'--threshold must be a share from 0 to below 1, got {threshold}')
    if top is not None and top < 1:
        raise UserError(f'--top must be at least 1, got {top}')
    if top is not None and classes is not None:
        raise UserError('--top is for the most probable classes and --classes for named ones: leave one of them out')
    if predictor.scope != 'mmpretrain':
        raise UserError(
            f'{source} is of scope {predictor.scope} and has no class activation maps: expected a classifier, such as '
            'those in configs/nest, configs/p2t and configs/spformer; a segmentor tells the class of each pixel anyway'
        )
    _require_maps(predictor.model, source)
    rivals = min(RIVALS, len(predictor.classes) - 1) if rivals is None else rivals
    if not 0 <= rivals < len(predictor.classes):
        raise UserError(f'--rivals must be 0 to {len(predictor.classes) - 1}, got {rivals}')
    chosen = None if classes is None else choose_classes(classes, predictor.classes)

    def explain(path: Path, name: str) -> Explanation:
        placed = place_image(predictor, path)
        maps = class_activation_maps(
            predictor.model,
            placed.inputs,
            chosen,
            top=top or TOP,
            threshold=threshold,
            rivals=rivals,
            source=str(source),
        )
        pictures, rows = [], []
        for found in maps:
            title = predictor.classes[found.label]
            file = folder / f'{name}_{found.label}.png'
            with atomic_path(file) as target:
                draw_activation(placed, found, edge=edge).save(target)
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
            data.append(folder / f'{name}.npz')
            with atomic_path(data[0]) as target, open(target, 'wb') as stream:
                np.savez_compressed(
                    stream, maps=np.stack([found.values for found in maps]), indices=np.array([f.label for f in maps])
                )
        facts: dict[str, Any] = {'classes': rows, 'seen of the image': [round(value, 1) for value in placed.seen]}
        return Explanation(pictures, facts, data)

    return Explainer('Class activation maps', LEGEND, explain, settings={'threshold': threshold, 'rivals': rivals})
