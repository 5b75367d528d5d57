"""GradCAT of image files: choosing classes and regions, pictures of the traversals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mmvit_ext.datasets.placement import Placement
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import open_image
from mmvit_ext.inference.drawing import draw_frame
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.inference.sheets import draw_table, fit_edge, write_picture

from .explain import Explainer, check_cell, choose_rivals, choose_shown
from .gradcat import SIGNS, Step, Traversal, class_scores, find_levels, traverse
from .inputs import OpenedImage, PlacedImage
from .report import Explanation, plain

__all__ = ['describe_traversal', 'draw_traversal', 'explain_gradcat', 'read_region']

TOP = 3  # classes that are shown when none are named
CELL = 480  # longer edge of the image in the picture, in pixels
# Of the boxes, from the whole image down; the last one is used again.
COLOURS = ((255, 255, 255), (255, 214, 10), (255, 112, 67), (233, 30, 99), (156, 39, 176))
LEGEND = (
    'The rectangles are the blocks that the class leads to, from the whole input (white) down; a dot is the middle of '
    'a block, the dashed line the path. Beside it is every step: the block that was looked at, with the node value of '
    'each of its parts. The framed part has the largest one and is entered next. Values of different steps have no '
    'common scale. What is darkened lies outside of what the network sees.'
)


def read_region(region: str | Path | Sequence[float], placed: PlacedImage) -> Tensor:
    """The pixels of the network's input, bool, in a box in pixels of the image or where a mask file is not black."""
    H, W = placed.placement.image_size
    height, width = int(placed.inputs.shape[2]), int(placed.inputs.shape[3])
    if isinstance(region, str | Path):
        try:
            with open_image(region, 'region') as opened:
                mask = np.array(opened.convert('L')) > 0
        except OSError as error:
            raise UserError(f'the region {region} cannot be read: expected an image file of {W}x{H} pixels') from error
        if mask.shape != (H, W):
            size = f'{mask.shape[1]}x{mask.shape[0]}'
            raise UserError(f'the region {region} has {size} pixels, the image {W}x{H}: they must be equal')
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


def describe_traversal(found: Traversal, name: str, placed: PlacedImage) -> dict[str, Any]:
    """A traversal for the class ``name`` as JSON can hold it; boxes are in pixels of the image, cut at its edges."""
    steps = []
    for step in found.steps:
        boxes = [[placed.told(box) for box in row] for row in step.boxes]
        steps.append({**asdict(step), 'box': placed.told(step.box), 'boxes': boxes})
    what = {'class': name, 'index': found.label, 'logit': found.logit, 'box': placed.told(found.box)}
    return plain({**what, 'steps': steps})


def draw_traversal(placed: PlacedImage, found: Traversal, *, edge: int = CELL, title: str = '') -> Image.Image:
    """The image with the visited blocks, dots and a dashed path; beside it every step with its node values."""
    factor = edge / max(placed.image.shape[:2])
    base = Image.fromarray(placed.image).resize(fit_edge(placed.image.shape, edge), Image.Resampling.BICUBIC)
    seen = _scaled(placed.seen, factor)
    picture = base.point([value // 3 for value in range(256)] * 3)
    picture.paste(base.crop(seen), seen[:2])
    boxes = [placed.placement.to_image(box) for box in (found.steps[0].box, *(step.next_box for step in found.steps))]
    draw, line = ImageDraw.Draw(picture), max(edge // 160, 2)
    for depth, box in enumerate(boxes):
        draw_frame(draw, _scaled(box, factor), _colour(depth), line)
    middles = [((box[0] + box[2]) / 2 * factor, (box[1] + box[3]) / 2 * factor) for box in boxes]
    for start, end in itertools.pairwise(middles):
        _dash(draw, start, end, line)
    radius = 2 * line
    for depth, (x, y) in enumerate(middles):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), _colour(depth), 'black')
    steps = enumerate(found.steps)
    panels = [_panel(base, step, placed.placement, factor, min(base.size), depth) for depth, step in steps]
    return draw_table([('', [picture, *panels])], [title, *(f'level {step.level}' for step in found.steps)])


def _colour(depth: int) -> tuple[int, int, int]:
    return COLOURS[min(depth, len(COLOURS) - 1)]


def _scaled(box: Sequence[float], factor: float) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(value * factor) for value in box)
    return left, top, max(right, left + 1), max(bottom, top + 1)


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
    places = np.ndindex(len(step.boxes), len(step.boxes[0]))
    for row, column in sorted(places, key=lambda place: place == step.chosen):  # its frame lies on top of the others
        part, value = step.boxes[row][column], step.values[row][column]
        if part is None or value is None:
            continue
        box, chosen = placement.to_image(part), (row, column) == step.chosen
        inside = _scaled([(box[axis] - block[axis % 2]) * zoom for axis in range(4)], 1.0)
        draw_frame(draw, inside, _colour(depth + 1) if chosen else (190, 190, 190), line if chosen else 1)
        text, middle = f'{value:+.3g}', ((inside[0] + inside[2]) / 2, (inside[1] + inside[3]) / 2)
        # A character is about 0.6 times as wide as the font is high.
        height = min(edge // 9, round((inside[2] - inside[0]) * 0.9 / (0.6 * len(text))))
        font = ImageFont.load_default(max(height, 8))
        draw.text(middle, text, fill='white', font=font, anchor='mm', stroke_width=2, stroke_fill='black')
    return panel


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
    """The traversals of each image, ``NAME_CLASS.png``.

    Without a ``region``, a segmentor's logits are averaged over the pixels that it predicts to be of the class, if any.
    """
    check_cell(edge)
    if sign not in SIGNS:
        raise UserError(f'--sign must be {" or ".join(SIGNS)}, got {sign}')
    find_levels(predictor.model, str(source))
    rivals = choose_rivals(rivals, predictor.classes)
    if region is not None and predictor.scope != 'mmseg':
        raise UserError(f'--region is for segmentors, {source} is a classifier with one score per image: leave it out')
    chosen, count = choose_shown(classes, top, predictor.classes, 'highest', TOP)

    def explain(opened: OpenedImage, name: str) -> Explanation:
        placed = opened.placed
        model, inputs = predictor.model, placed.inputs
        scores = class_scores(model, inputs)
        given = None if region is None else read_region(region, placed)
        labels = _largest(scores, count) if chosen is None else list(chosen)
        found = []
        for label in labels:
            part = given
            if scores.ndim == 3 and part is None:
                predicted = (scores.argmax(0) == label).cpu()
                part = predicted if predicted.any() else None
            found += traverse(model, inputs, [label], sign=sign, rivals=rivals, region=part)
        pictures, rows = [], []
        for traversal in found:
            title = predictor.classes[traversal.label]
            drawn = draw_traversal(placed, traversal, edge=edge, title=title)
            file = write_picture(drawn, folder / f'{name}_{traversal.label}.png')
            pictures.append((f'{title}, logit {traversal.logit:.3g}', file))
            rows.append(describe_traversal(traversal, title, placed))
        return Explanation(pictures, {'classes': rows, 'seen of the image': [round(edge, 1) for edge in placed.seen]})

    return Explainer('GradCAT traversals', LEGEND, explain, settings={'sign': sign, 'rivals': rivals})


def _largest(scores: Tensor, count: int) -> list[int]:
    """Classes with the highest logits, or the largest predicted areas."""
    if scores.ndim == 1:
        return scores.topk(min(count, len(scores))).indices.tolist()
    area = torch.bincount(scores.argmax(0).flatten(), minlength=len(scores))
    order = area.argsort(descending=True, stable=True)[:count]
    return [int(label) for label in order if area[label]]
