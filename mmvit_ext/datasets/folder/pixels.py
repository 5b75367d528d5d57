"""How often each value or colour occurs in masks, and which of them are areas, blurred edges or noise."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmvit_ext.files import open_image

from ..label_values import pack_colours, unpack_colour

__all__ = [
    'Counted',
    'are_colours',
    'area_colours',
    'as_colours',
    'blurred_values',
    'cluster',
    'count_pixels',
    'is_lossy',
    'scatter',
    'solid_share',
]
__all__ += ['total_pixels']

RARE = 0.002
"""Share of the pixels below which a colour that fills no square of 3x3 pixels is a blurred edge."""

_NEAR = 48
"""How far the values of a JPEG lie from what was saved."""

_TIGHT, _TOGETHER = 16, 0.8
"""How far from a few colours so large a share of the pixels lies where a JPEG's noise scatters them."""


@dataclass(frozen=True)
class Counted:
    """What the pixels of a mask are."""

    path: str
    mode: str  # Pillow's; RGB is L where the three channels are alike
    pixels: Mapping[int, int]
    solid: frozenset[int]  # values that fill a square of 3x3 pixels somewhere
    palette: tuple[int, ...] = ()  # RGB as one number, by value
    in_colour: bool = False  # whether grey values were saved in three channels


def count_pixels(path: str, root: Path, *, coarse: bool = False) -> Counted:
    """Count the pixels of a mask by value; ``coarse`` by the two highest bits only, as a JPEG has noise below."""
    with open_image(root / path, 'mask') as image:
        palette: tuple[int, ...] = ()
        if image.mode == 'P':
            colours = np.array(image.getpalette() or [], np.int64).reshape(-1, 3)
            palette = tuple(pack_colours(colours).tolist())
        elif image.mode not in ('1', 'L', 'I') and not image.mode.startswith('I;'):
            image = image.convert('RGB')
        mode, values = image.mode, np.array(image)
    in_colour = values.ndim == 3
    if in_colour:
        alike = (values[..., :1] == values).all()
        mode, values = ('L', values[..., 0]) if alike else (mode, pack_colours(values))
    values = values & (0xC0C0C0 if values.dtype == np.int32 else 0xC0) if coarse else values
    return Counted(path, mode, *_runs(values), palette, in_colour)


def _runs(values: np.ndarray) -> tuple[dict[int, int], frozenset[int]]:
    """Pixels by value, and the values that fill a square of 3x3 pixels; runs of one value are counted at once."""
    flat = values.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    found, inverse = np.unique(flat[starts], return_inverse=True)
    pixels = np.bincount(inverse, np.diff(starts, append=flat.size))
    right = values[:, 1:] == values[:, :-1]
    across = right[:, 1:] & right[:, :-1]
    down = values[1:] == values[:-1]
    square = across[2:] & across[1:-1] & across[:-2] & (down[1:] & down[:-1])[:, 1:-1]
    solid = values[1:-1, 1:-1][square]
    solid = np.concatenate([solid[:1], solid[1:][solid[1:] != solid[:-1]]])
    return dict(zip(found.tolist(), pixels.astype(int).tolist(), strict=True)), frozenset(np.unique(solid).tolist())


def solid_share(path: Path) -> float:
    """The share of a picture's pixels whose value fills areas: near 1 for a mask, near 0 for most photographs."""
    try:
        counted = count_pixels(path.name, path.parent, coarse=is_lossy([path.name]))
    except Exception:  # it cannot be decoded, which is said elsewhere
        return 0
    return sum(counted.pixels[value] for value in counted.solid) / sum(counted.pixels.values())


def are_colours(counted: Sequence[Counted]) -> bool:
    """Whether colours are classes; so they are where one index has different colours in two files' palettes."""
    colours: dict[int, int] = {}
    for item in counted:
        if item.mode == 'RGB':
            return True
        if item.palette:
            for value in item.pixels:
                if value < len(item.palette) and colours.setdefault(value, item.palette[value]) != item.palette[value]:
                    return True
    return False


def as_colours(item: Counted) -> Counted:
    """The same with colours in place of palette indices and grey values."""
    if item.mode == 'RGB':
        return item
    table = item.palette or tuple(range(0, 256 * 65793, 65793))
    top = 255 if item.mode == '1' else 1
    pixels: Counter[int] = Counter()
    for value, count in item.pixels.items():
        pixels[table[min(value * top, len(table) - 1)]] += count
    solid = frozenset(table[min(value * top, len(table) - 1)] for value in item.solid)
    return Counted(item.path, 'RGB', pixels, solid)


def total_pixels(counted: Sequence[Counted]) -> tuple[Counter[int], set[int]]:
    """Pixels by value, and the values that fill areas, of several masks."""
    pixels: Counter[int] = Counter()
    for item in counted:
        pixels.update(item.pixels)
    return pixels, {value for item in counted for value in item.solid}


def is_lossy(paths: Sequence[str]) -> bool:
    """Whether most of the files are JPEG."""
    return sum(path.lower().endswith(('.jpg', '.jpeg')) for path in paths) * 2 > len(paths)


def cluster(pixels: Mapping[int, int], channels: int) -> list[int]:
    """Values from which all that are frequent lie no farther than a JPEG's noise, the most frequent first."""
    total = sum(pixels.values())
    centres: list[int] = []
    merged: Counter[int] = Counter()
    for value, count in sorted(pixels.items(), key=lambda item: -item[1])[:20000]:
        near = next((centre for centre in centres if _distance(value, centre, channels) <= _NEAR), None)
        if near is None:
            centres.append(near := value)
        merged[near] += count
    often = [centre for centre in centres if merged[centre] >= 5 * RARE * total]
    if channels == 1:
        return often
    # The edges of areas are smeared far in colour.
    return [c for n, c in enumerate(often) if merged[c] > 0.05 * total or not _between(c, often[:n], _NEAR)]


def scatter(pixels: Mapping[int, int], colours: Sequence[int]) -> bool:
    """Whether colours scatter around a few, as in pictures that were JPEG files before they were saved as others."""
    exact = sum(pixels[value] for value in colours)
    if exact == sum(pixels.values()):
        return False
    centres = cluster(pixels, 3)
    if not 1 < len(centres) <= len(pixels) / 4:
        return False
    values, counts = np.array(list(pixels)), np.array(list(pixels.values()))
    apart = [np.max([abs((values >> s & 255) - (c >> s & 255)) for s in (16, 8, 0)], axis=0) for c in centres]
    near = counts[np.min(apart, axis=0) <= _TIGHT].sum()
    return len(colours) > len(centres) and near >= _TOGETHER * counts.sum() and exact < near


def _distance(one: int, other: int, channels: int) -> int:
    if channels == 1:
        return abs(one - other)
    return max(abs(a - b) for a, b in zip(unpack_colour(one), unpack_colour(other), strict=True))


def _between(value: int, ends: Sequence[int], near: int = 6) -> bool:
    """Whether a colour is a mixture of two others."""
    point = np.array(unpack_colour(value), float)
    points = np.array([unpack_colour(end) for end in ends], float)
    for first in points:
        along, offset = points - first, point - first
        length = (along**2).sum(1)
        share = np.divide(along @ offset, length, out=np.zeros(len(points)), where=length > 0)
        close = np.abs(first + share[:, None] * along - point).max(1) < near
        if ((share > 0) & (share < 1) & close).any():
            return True
    return False


def area_colours(pixels: Mapping[int, int], solid: set[int]) -> list[int]:
    """The colours that fill areas or are frequent without being a mixture of two others."""
    total = sum(pixels.values())
    colours = [value for value in pixels if value in solid]
    frequent = [value for value in colours if pixels[value] >= RARE * total] or colours
    often = [value for value, count in pixels.items() if value not in solid and count >= RARE * total]
    return colours + [value for value in often if not _between(value, frequent)]


def blurred_values(pixels: Mapping[int, int], solid: set[int]) -> bool:
    """Whether grey values are those of blurred edges: many rare ones that fill no area, between those that do."""
    rare = [v for v in pixels if v not in solid and pixels[v] < 5 * RARE * sum(pixels.values())]
    between = [v for v in rare if solid and min(solid) < v < max(solid)]
    return len(between) >= max(3, len(solid))
