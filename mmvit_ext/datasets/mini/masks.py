"""Masks as COCO writes them: a polygon along the pixel borders, or run lengths."""

from collections import defaultdict
from typing import Any

import numpy as np

__all__ = ['bounding_box', 'encode_mask', 'outline_rings', 'run_lengths']

# Right, down, left, up as (x, y): each is a right turn from the one before.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box around a bool mask (H, W): left, top, right, bottom; the last two are exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def outline_rings(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Closed rings of corners as (x, y) in pixels, along the borders between the pixels of a bool mask and all others.

    Each part has one, clockwise on the screen (pixels that meet only at a corner count as apart), and each hole one the
    other way round. The polygon of a ring covers exactly the pixels inside it.
    """
    padded = np.pad(mask, 1)
    # Every border runs so that the mask lies on its right; outgoing[corner] holds the directions that leave it.
    outgoing: dict[tuple[int, int], set[int]] = defaultdict(set)
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])  # above, right, below, left
    starts = ((0, 0), (1, 0), (1, 1), (0, 1))
    for direction, (neighbour, (dx, dy)) in enumerate(zip(neighbours, starts, strict=True)):
        for y, x in np.argwhere(mask & ~neighbour).tolist():
            outgoing[x + dx, y + dy].add(direction)
    rings = []
    while outgoing:
        corner = start = min(outgoing)
        direction = first = min(outgoing[start])
        ring: list[tuple[int, int]] = []
        previous = -1
        while True:
            if direction != previous:
                ring.append(corner)
            outgoing[corner].discard(direction)
            if not outgoing[corner]:
                del outgoing[corner]
            (x, y), (dx, dy) = corner, _STEPS[direction]
            corner = (x + dx, y + dy)
            if corner == start:
                break
            previous = direction
            # Where two pixels meet at a corner, the right turn stays with the pixel that was being followed.
            turns = ((direction + 1) % 4, direction, (direction + 3) % 4)
            direction = next(turn for turn in turns if turn in outgoing[corner])
        if direction == first and len(ring) > 1:
            ring = ring[1:]
        rings.append(ring)
    return rings


def run_lengths(mask: np.ndarray) -> list[int]:
    """Alternating run lengths of a bool mask as COCO counts them: down the columns, pixels that are not set first."""
    flat = mask.ravel(order='F')
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.r_[0, borders, flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def encode_mask(mask: np.ndarray) -> list[list[int]] | dict[str, Any]:
    """Write a bool mask (H, W), at least one pixel set, as the ``segmentation`` of a COCO annotation.

    It becomes a polygon ``[x0, y0, x1, y1, ...]`` for each part, or for a mask with holes, which polygons cannot have,
    uncompressed run lengths ``{'counts': ..., 'size': [H, W]}``. Both decode to exactly the mask.
    """
    rings = outline_rings(mask)
    if all(_goes_clockwise(ring) for ring in rings):
        return [[value for corner in ring for value in corner] for ring in rings]
    return {'counts': run_lengths(mask), 'size': list(mask.shape)}


def _goes_clockwise(ring: list[tuple[int, int]]) -> bool:
    """Tell the outside of a part from the border of a hole, which runs the other way round."""
    x, y = np.array(ring).T
    return bool((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0)
