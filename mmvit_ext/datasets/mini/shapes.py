"""Outlines of the mini dataset: polygons, and their exact area per pixel.

An outline is a tuple of parts, drawn in order; a part adds its polygon to the area or cuts it out. Coordinates are
(x, y) with y downwards. Unit outlines are about 1 high; placed ones are in pixels, where pixel (row, column) covers the
square from (column, row) to (column + 1, row + 1).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

__all__ = ['THING_OUTLINES', 'Outline', 'Part', 'bounds', 'coverage', 'other_outline', 'place']

SAMPLES = 4  # per pixel and axis, that the area of an outline is counted with


class Part(NamedTuple):
    """A polygon, ``points`` of shape (N, 2) as (x, y), that is added to an outline or cut out of it."""

    adds: bool
    points: np.ndarray


Outline = tuple[Part, ...]


def _add(*points: tuple[float, float]) -> Part:
    return Part(True, np.array(points, dtype=float))


def _ellipse(x: float, y: float, rx: float, ry: float, *, adds: bool = True, corners: int = 40) -> Part:
    angles = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    return Part(adds, np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1))


def _stroke(points: Sequence[tuple[float, float]], width: float) -> list[Part]:
    """A line of the given width through ``points``, with round joints and ends."""
    nodes = np.array(points, dtype=float)
    parts = [_ellipse(x, y, width / 2, width / 2, corners=16) for x, y in nodes]
    for start, end in pairwise(nodes):
        along = end - start
        side = np.array([-along[1], along[0]]) * (width / 2 / max(float(np.hypot(*along)), 1e-9))
        parts.append(Part(True, np.stack([start + side, end + side, end - side, start - side])))
    return parts


def _with_mirrored(part: Part, middle: float, axis: int) -> list[Part]:
    """A part and its image on the other side of ``middle`` along an axis (0 is x)."""
    mirrored = np.where(np.arange(2) == axis, 2 * middle - part.points, part.points)
    return [part, Part(part.adds, mirrored)]


def _airplane(rng: Generator) -> Outline:
    """A plane from below: a slender hull with swept wings and fins; concave."""
    sweep = rng.uniform(0.25, 0.45)
    wing = _add((1.02, 0.5), (0.95 - sweep, 0.0), (0.74 - sweep, 0.0), (0.52, 0.5))
    fin = _add((0.26, 0.5), (0.1, 0.2), (0.0, 0.2), (0.08, 0.5))
    hull = _ellipse(0.74, 0.5, 0.7, rng.uniform(0.1, 0.14))
    return (hull, *_with_mirrored(wing, 0.5, axis=1), *_with_mirrored(fin, 0.5, axis=1))


def _cat(rng: Generator) -> Outline:
    """A sitting cat from behind its front paws: round head with ears, a body, and a thin tail; concave."""
    ear = _add((0.27, 0.27), (0.27, rng.uniform(0.0, 0.05)), (0.46, 0.14))
    paw = _ellipse(0.33, 0.95, 0.1, 0.05)
    bend = rng.uniform(0.9, 1.05)
    tail = [(0.62, 0.92), (0.86, 0.9), (bend, 0.76), (bend - 0.06, 0.58), (bend + 0.04, 0.42)]
    return (
        _ellipse(0.45, 0.68, rng.uniform(0.25, 0.3), 0.32),
        _ellipse(0.45, 0.27, 0.21, 0.18),
        *_with_mirrored(ear, 0.45, axis=0),
        *_with_mirrored(paw, 0.45, axis=0),
        *_stroke(tail, 0.075),
    )


def _cup(rng: Generator) -> Outline:
    """A cup with a handle that one can see through; one hole."""
    foot, grip, wall = rng.uniform(0.12, 0.2), rng.uniform(0.2, 0.26), rng.uniform(0.085, 0.11)
    right = [(0.85, 0.06), (0.85 - foot * 0.5, 0.75), (0.85 - foot, 0.94)]
    return (
        _ellipse(0.84, 0.45, grip + 0.04, grip + 0.08),
        _ellipse(0.84, 0.45, grip + 0.04 - wall, grip + 0.08 - wall, adds=False),
        _add((0.0, 0.06), *right, (foot, 0.94), (foot * 0.5, 0.75)),
        _ellipse(0.425, 0.06, 0.425, 0.06),
        _ellipse(0.425, 0.94, 0.425 - foot, 0.05),
    )


def _motorcycle(rng: Generator) -> Outline:
    """A motorcycle from the side: two wheels with holes, a body between them, a thin fork and handlebar."""
    radius, tyre, back, front, axle = rng.uniform(0.27, 0.3), rng.uniform(0.12, 0.15), 0.27, 1.23, 1 - 0.28
    upper = [(0.05, 0.36), (0.4, 0.28), (0.72, 0.3), (0.98, 0.2), (1.06, 0.34)]
    return (
        *(_ellipse(x, axle, radius, radius) for x in (back, front)),
        *(_ellipse(x, axle, radius - tyre, radius - tyre, adds=False) for x in (back, front)),
        _add(*upper, (0.92, 0.52), (0.88, 0.8), (0.55, 0.82), (0.42, 0.5)),
        *_stroke([(back, axle), (0.6, 0.7)], 0.1),
        *_stroke([(front, axle), (1.0, 0.22), (0.94, 0.06), (0.8, 0.04)], 0.09),
        _ellipse(1.07, 0.22, 0.08, 0.08),
    )


#: What draws the unit outline of a thing, by class name.
THING_OUTLINES = {'airplane': _airplane, 'cat': _cat, 'cup': _cup, 'motorcycle': _motorcycle}


def other_outline(rng: Generator) -> Outline:
    """Draw the unit outline, about 1 high, of something that no class stands for: a crate, a star or a blob."""
    kind = rng.integers(3)
    if kind == 0:
        return (_add((0.0, 0.1), (0.9, 0.0), (1.0, 0.9), (0.1, 1.0)),)
    angles = np.linspace(0, 2 * math.pi, 10 if kind == 1 else 24, endpoint=False)
    if kind == 1:
        radii = np.tile([0.5, rng.uniform(0.2, 0.3)], 5)
    else:
        radii = 0.4 + 0.1 * np.cos(int(rng.integers(2, 5)) * angles + rng.uniform(0, 2 * math.pi))
    return (Part(True, 0.5 + np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)),)


def bounds(outline: Outline) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest (x, y) of an outline's corners."""
    points = np.concatenate([part.points for part in outline])
    return points.min(0), points.max(0)


def place(
    outline: Outline,
    *,
    height: float,
    bottom: tuple[float, float],
    stretch: float = 1.0,
    angle: float = 0.0,
    flipped: bool = False,
) -> Outline:
    """Put a unit outline, ``height`` pixels high, with the middle of its lower side at ``bottom`` (x, y)."""
    low, high = bounds(outline)
    middle, scale = (low + high) / 2, height / (high[1] - low[1])
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    width = np.array([-stretch if flipped else stretch, 1.0])
    centre = np.array([bottom[0], bottom[1] - height / 2])
    return tuple(Part(adds, (part - middle) * width * scale @ turn + centre) for adds, part in outline)


def coverage(outline: Outline, height: int, width: int) -> np.ndarray:
    """The share of every pixel of a picture that an outline covers, times 255; uint8 (height, width)."""
    canvas = Image.new('L', (width * SAMPLES, height * SAMPLES))
    draw = ImageDraw.Draw(canvas)
    for adds, points in outline:
        # Pillow's coordinates name the middle of a pixel, ours the corner of one.
        draw.polygon([tuple(point) for point in (points * SAMPLES - 0.5).tolist()], fill=255 if adds else 0)
    return np.asarray(canvas.reduce(SAMPLES))
