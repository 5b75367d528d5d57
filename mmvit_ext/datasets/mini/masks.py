"""Masks as COCO writes them: a polygon along the pixel borders, or run lengths."""

from collections import defaultdict
from typing import Any

import numpy as np
from PIL import Image

__all__ = ['bounding_box', 'encode_mask', 'outline_rings', 'run_lengths']

# Right, down, left, up as (x, y): each is a right turn from the one before.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box around what is set in (H, W): left, top, right, bottom; the last two are exclusive."""
    return Image.fromarray(mask).getbbox() or (0, 0, 0, 0)


def outline_rings(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Closed rings of corners (x, y) along the borders of a bool mask: clockwise around parts, the other way in holes.

    Pixels that meet only at a corner count as apart. The polygon of a ring covers exactly the pixels inside it.
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
        # A single border leaves the leftmost corner, so that each ring ends there.
        corner, direction = min(outgoing), -1
        ring: list[tuple[int, int]] = []
        while leaving := outgoing.pop(corner, None):
            # Where two pixels meet at a corner, the right turn stays with the pixel that was being followed.
            turn = (direction + 1) % 4 if len(leaving) > 1 else min(leaving)
            if rest := leaving - {turn}:
                outgoing[corner] = rest
            if turn != direction:
                ring.append(corner)
            (x, y), (dx, dy), direction = corner, _STEPS[turn], turn
            corner = (x + dx, y + dy)
        rings.append(ring)
    return rings


def run_lengths(mask: np.ndarray) -> list[int]:
    """Alternating run lengths of a bool mask as COCO counts them: down the columns, pixels that are not set first."""
    borders = np.flatnonzero(np.diff(mask.ravel(order='F'), prepend=False))
    return np.diff(borders, prepend=0, append=mask.size).tolist()


def encode_mask(mask: np.ndarray) -> list[list[int]] | dict[str, Any]:
    """A bool mask (H, W) as a COCO ``segmentation``, without loss: a polygon for each part; run lengths with holes."""
    rings = outline_rings(mask)
    # From its leftmost, uppermost corner the outside of a part runs to the right and the border of a hole down.
    if all(first[1] == second[1] for first, second, *_ in rings):
        return [[value for corner in ring for value in corner] for ring in rings]
    return {'counts': run_lengths(mask), 'size': list(mask.shape)}
