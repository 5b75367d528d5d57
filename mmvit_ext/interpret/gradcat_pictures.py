"""GradCAT of image files: choosing classes and regions, pictures of the traversals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mmvit_ext.datasets.placement import Box, Placement
from mmvit_ext.engine.checkpoint_io import atomic_path
from mmvit_ext.engine.drawing import load_font
from mmvit_ext.engine.errors import UserError
from mmvit_ext.engine.inference import Predictor
from mmvit_ext.interpret.classes import choose_classes
from mmvit_ext.interpret.gradcat import SIGNS, Step, Traversal, class_scores, find_nest, traverse
from mmvit_ext.interpret.placed import PlacedImage, place_image
from mmvit_ext.interpret.report import Explanation
from mmvit_ext.interpret.run import Explainer, check_cell
from mmvit_ext.models.classifiers.class_maps import RIVALS

__all__ = ['describe_traversal', 'draw_traversal', 'explain_gradcat', 'read_region']

TOP = 3
"""Classes that are shown when none are named."""

CELL = 480
"""Longer edge of the image in the picture, in pixels."""

COLOURS = ((255, 255, 255), (255, 214, 10), (255, 112, 67), (233, 30, 99), (156, 39, 176))
"""Of the boxes, from the whole image down; the last one is used again."""

LEGEND = (
    'The rectangles are the blocks that the class leads to, from the whole input (white) down; a dot is the middle of '
    'a block, the dashed line the path. Beside it every step: the block that was looked at, with the node value of '
    'each of its parts. The framed part has the largest one and is entered next. Values of different steps have no '
    'common scale. What is darkened lies outside of what the network sees.'
)
"""How the pictures are read."""


# Regions


def read_region(region: str | Path | Sequence[float], placed: PlacedImage) -> Tensor:
    """The part of an image over which a segmentor's scores are averaged.

    Args:
        region: A box, left, top, right and bottom in pixels of the image; or an image file of that size, which is not
            black inside the region.
        placed: The image.

    Returns:
        Pixels of the network's input, bool.

    Raises:
        UserError: The region is no box or mask of this image.
    """
    H, W = placed.placement.image_size
    height, width = int(placed.inputs.shape[2]), int(placed.inputs.shape[3])
    if isinstance(region, str | Path):
        try:
            with Image.open(region) as opened:
                mask = np.array(opened.convert('L')) > 0
        except OSError as error:
            raise UserError(f'the region {region} cannot be read: expected an image file of {W}x{H} pixels') from error
        if mask.shape != (H, W):
            raise UserError(
                f'the region {region} has {mask.shape[1]}x{mask.shape[0]} pixels, the image {W}x{H}: they must be equal'
            )
    else:
        box = [float(value) for value in region]
        if len(box) != 4 or box[0] >= box[2] or box[1] >= box[3]:
            raise UserError(f'a region must be left, top, right and bottom in pixels, got {tuple(region)}')
        rows, columns = np.arange(H) + 0.5, np.arange(W) + 0.5
        mask = ((rows > box[1]) & (rows < box[3]))[:, None] & ((columns > box[0]) & (columns < box[2]))
    place = placed.placement
    x = (np.arange(width) + 0.5 - place.shift[0]) / place.scale[0]
    y = (np.arange(height) + 0.5 - place.shift[1]) / place.scale[1]
    inside = ((y >= 0) & (y < H))[:, None] & ((x >= 0) & (x < W))
    found = mask[y.astype(int).clip(0, H - 1)[:, None], x.astype(int).clip(0, W - 1)]
    return torch.from_numpy(found & inside)


# Numbers and pictures


def describe_traversal(found: Traversal, name: str, placement: Placement) -> dict[str, Any]:
    """A traversal as JSON can hold it, boxes in pixels of the image.

    Args:
        found: The traversal.
        name: Of the class.
        placement: From the image to the network's input.

    Returns:
        Class, logit, final box and steps: level (from 0, the lowest), box, values and boxes of the parts, chosen row
        and column. Boxes are cut at the image's edges; parts that lie beyond the map are None.
    """

    def shown(box: Box | None) -> list[float] | None:
        return None if box is None else [round(value, 1) for value in placement.to_image(box)]

    return {
        'class': name,
        'index': found.label,
        'logit': found.logit,
        'box': shown(found.box),
        'steps': [
            {
                'level': step.level,
                'box': shown(step.box),
                'values': [list(row) for row in step.values],
                'boxes': [[shown(box) for box in row] for row in step.boxes],
                'chosen': list(step.chosen),
            }
            for step in found.steps
        ],
    }


def draw_traversal(placed: PlacedImage, found: Traversal, *, edge: int = CELL, title: str = '') -> Image.Image:
    """The image with the visited blocks, dots and a dashed path; beside it every step with its node values.

    Args:
        placed: The image.
        found: The traversal.
        edge: Longer edge of the image in the picture, in pixels.
        title: A line above.

    Returns:
        The picture.
    """
    height, width = placed.image.shape[:2]
    factor = edge / max(height, width)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    base = Image.fromarray(placed.image).resize(size, Image.Resampling.BICUBIC)
    seen = _scaled(placed.seen, factor)
    dark = base.point([value // 3 for value in range(256)] * 3)
    dark.paste(base.crop(seen), seen[:2])
    boxes = [placed.placement.to_image(box) for box in (found.steps[0].box, *(step.next_box for step in found.steps))]
    picture, line = dark.copy(), max(edge // 160, 2)
    draw = ImageDraw.Draw(picture)
    for depth, box in enumerate(boxes):
        _frame(draw, _scaled(box, factor), COLOURS[min(depth, len(COLOURS) - 1)], line)
    middles = [((box[0] + box[2]) / 2 * factor, (box[1] + box[3]) / 2 * factor) for box in boxes]
    for start, end in itertools.pairwise(middles):
        _dash(draw, start, end, line)
    for depth, (x, y) in enumerate(middles):
        radius = 2 * line
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), COLOURS[min(depth, len(COLOURS) - 1)], 'black')
    font = load_font(max(edge // 24, 11))
    head = max(edge // 14, 18)
    panels = [_panel(base, step, placed.placement, factor, min(size), depth) for depth, step in enumerate(found.steps)]
    gap = max(edge // 40, 6)
    whole = (
        size[0] + sum(panel.width + gap for panel in panels) + 2 * gap,
        max([size[1], *(panel.height for panel in panels)]) + head + gap,
    )
    canvas = Image.new('RGB', whole, 'white')
    canvas.paste(picture, (gap, head))
    ImageDraw.Draw(canvas).text((gap, head / 2), title, fill='black', font=font, anchor='lm')
    left = size[0] + 2 * gap
    for panel, step in zip(panels, found.steps, strict=True):
        ImageDraw.Draw(canvas).text((left, head / 2), f'level {step.level}', fill='black', font=font, anchor='lm')
        canvas.paste(panel, (left, head))
        left += panel.width + gap
    return canvas


def _scaled(box: Sequence[float], factor: float) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(value * factor) for value in box)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _frame(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: tuple[int, int, int], line: int) -> None:
    corners = box[0], box[1], box[2] - 1, box[3] - 1
    draw.rectangle(corners, outline='black', width=line + 2)
    draw.rectangle(corners, outline=colour, width=line)


def _dash(draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], line: int) -> None:
    length = float(np.hypot(end[0] - start[0], end[1] - start[1]))
    pieces = int(length // (4 * line)) + 1
    for piece in range(pieces):
        spots = [
            tuple(a + (b - a) * min((piece + part) / pieces, 1.0) for a, b in zip(start, end, strict=True))
            for part in (0.0, 0.6)
        ]
        draw.line(spots, fill='black', width=line + 2)  # type: ignore[arg-type]
        draw.line(spots, fill='white', width=line)  # type: ignore[arg-type]


def _panel(base: Image.Image, step: Step, placement: Placement, factor: float, edge: int, depth: int) -> Image.Image:
    """The block that a step looked at, enlarged, with the values of its parts."""
    block = placement.to_image(step.box)
    zoom = edge / max(block[2] - block[0], block[3] - block[1], 1e-6)
    cut = base.crop(_scaled(block, factor))
    size = max(round((block[2] - block[0]) * zoom), 1), max(round((block[3] - block[1]) * zoom), 1)
    panel = Image.blend(cut.resize(size, Image.Resampling.BICUBIC), Image.new('RGB', size, 'black'), 0.35)
    draw, line = ImageDraw.Draw(panel), max(edge // 120, 2)
    parts = [
        (place, placement.to_image(box), value)
        for row, (boxes, values) in enumerate(zip(step.boxes, step.values, strict=True))
        for place, box, value in zip([(row, column) for column in range(len(boxes))], boxes, values, strict=True)
        if box is not None and value is not None
    ]
    parts.sort(key=lambda part: part[0] == step.chosen)  # its frame lies on top of the others
    for place, box, value in parts:
        inside = _scaled([(box[axis] - block[axis % 2]) * zoom for axis in range(4)], 1.0)
        chosen = place == step.chosen
        colour = COLOURS[min(depth + 1, len(COLOURS) - 1)] if chosen else (190, 190, 190)
        _frame(draw, inside, colour, line if chosen else 1)
        text = f'{value:+.3g}'
        # A character is about 0.6 times as wide as the font is high.
        height = min(edge // 9, round((inside[2] - inside[0]) * 0.9 / (0.6 * len(text))))
        draw.text(
            ((inside[0] + inside[2]) / 2, (inside[1] + inside[3]) / 2),
            text,
            fill='white',
            font=load_font(max(height, 8)),
            anchor='mm',
            stroke_width=2,
            stroke_fill='black',
        )
    return panel


# Explaining images


def explain_gradcat(
    predictor: Predictor,
    folder: Path,
    source: str | Path,
    *,
    classes: Sequence[str | int] | None = None,
    top: int | None = None,
    sign: str = 'positive',
    rivals: int | None = None,
    region: str | Path | Sequence[float] | None = None,
    edge: int = CELL,
) -> Explainer:
    """The traversals of each image.

    Args:
        predictor: A classifier or segmentor with a NesT.
        folder: Of the results: ``NAME_CLASS.png``.
        source: The config, for messages.
        classes: Names or numbers of the classes; ``None`` takes the highest logits of each image, of a segmentor the
            largest predicted areas.
        top: How many, if none are named; 3 by default.
        sign: Of the gradient, ``'positive'`` or ``'negative'``.
        rivals: Classes whose mean logit is subtracted, 0 or more; 3 by default, all others where there are fewer.
        region: Where a segmentor's logits are averaged, see :func:`read_region`; when not given, over the pixels that
            it predicts to be of the class, and over all of them where there are none.
        edge: Longer edge of the image in each picture, 16 to 4096 pixels.

    Returns:
        What explains an image.

    Raises:
        UserError: An argument is wrong, or the model has no nested levels.
    """
    check_cell(edge)
    if sign not in SIGNS:
        raise UserError(f'--sign must be {" or ".join(SIGNS)}, got {sign}')
    if top is not None and top < 1:
        raise UserError(f'--top must be at least 1, got {top}')
    if top is not None and classes is not None:
        raise UserError('--top is for the highest classes and --classes for named ones: leave one of them out')
    find_nest(predictor.model, str(source))
    rivals = min(RIVALS, len(predictor.classes) - 1) if rivals is None else rivals
    if not 0 <= rivals < len(predictor.classes):
        raise UserError(f'--rivals must be 0 to {len(predictor.classes) - 1}, got {rivals}')
    if region is not None and predictor.scope != 'mmseg':
        raise UserError(f'--region is for segmentors, {source} is a classifier with one score per image: leave it out')
    chosen = None if classes is None else choose_classes(classes, predictor.classes)

    def explain(path: Path, name: str) -> Explanation:
        placed = place_image(predictor, path)
        model, inputs = predictor.model, placed.inputs
        scores = class_scores(model, inputs)
        given = None if region is None else read_region(region, placed)
        labels = _largest(scores, top or TOP) if chosen is None else list(chosen)
        found = []
        for label in labels:
            part = given
            if scores.ndim == 3 and part is None:
                predicted = (scores.argmax(0) == label).cpu()
                part = predicted if predicted.any() else None
            found += traverse(model, inputs, [label], sign=sign, rivals=rivals, region=part)
        pictures = []
        for traversal in found:
            title = predictor.classes[traversal.label]
            file = folder / f'{name}_{traversal.label}.png'
            with atomic_path(file) as target:
                draw_traversal(placed, traversal, edge=edge, title=title).save(target)
            pictures.append((f'{title}, logit {traversal.logit:.3g}', file))
        facts = {
            'classes': [
                describe_traversal(traversal, predictor.classes[traversal.label], placed.placement)
                for traversal in found
            ],
            'seen of the image': [round(value, 1) for value in placed.seen],
        }
        return Explanation(pictures, facts)

    return Explainer('GradCAT traversals', LEGEND, explain, settings={'sign': sign, 'rivals': rivals})


def _largest(scores: Tensor, count: int) -> list[int]:
    """Classes with the highest logits, or the largest predicted areas."""
    if scores.ndim == 1:
        return scores.topk(min(count, len(scores))).indices.tolist()
    area = torch.bincount(scores.argmax(0).flatten(), minlength=len(scores))
    order = area.argsort(descending=True, stable=True)[:count]
    return [int(label) for label in order if area[label]]
