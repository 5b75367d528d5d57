"""Scenes of the mini dataset: a picture and what is exactly where in it.

Everything is painted from the back to the front. The area that a shape covers in a pixel decides both: it mixes the
colours at the border, so edges look as in a photograph, and from one half on the pixel belongs to the shape. So the
labels are exact by construction.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from .catalog import MINI_CLASSES, MiniClass
from .shapes import THING_OUTLINES, Outline, Part, bounds, coverage, other_outline, place

__all__ = ['OTHER', 'Instance', 'Scene', 'draw_portrait', 'draw_scene']

Photos = Mapping[str, Image.Image]

#: Index of what no class stands for.
OTHER = 0
OTHER_PHOTOS = ('coins.png', 'page.png', 'astronaut.png')
THINGS = tuple(c for c in MINI_CLASSES.values() if c.is_thing)

#: Colours that stand for middle grey in the three black-and-white photographs: (low, high) in RGB, each 0..255.
TINTS: Mapping[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    'brick.png': ((135, 85, 65), (215, 140, 110)),
    'grass.png': ((75, 115, 40), (135, 165, 80)),
    'gravel.png': ((110, 108, 100), (150, 142, 140)),
    'moon.png': ((175, 180, 190), (230, 235, 245)),
}
#: Share of a photograph's height that fills the picture's height, (least, most). Things and 'other' show most of it.
ZOOM = {'rocket.jpg': (0.5, 1.0), 'brick.png': (0.5, 1.0), 'grass.png': (0.35, 0.75), 'gravel.png': (0.35, 0.75)}

HALF = 128  # A pixel belongs to a shape that covers at least half of it; coverage is counted in 255ths.
LEAST_VISIBLE = 0.45  # Share of a thing that what stands before it must leave visible.
LEAST_PIXELS = 25


@dataclass(frozen=True)
class Instance:
    """One countable object of a scene."""

    cls: MiniClass
    mask: np.ndarray  # pixels in which it is visible, bool (H, W)


@dataclass(frozen=True)
class Scene:
    """A picture with everything known about it."""

    image: np.ndarray  # RGB, uint8 (H, W, 3)
    labels: np.ndarray  # class index of every pixel (0 is 'other'), uint8 (H, W)
    instances: tuple[Instance, ...]  # visible things, from the back to the front; their masks do not overlap
    layers: tuple[tuple[int, Outline], ...]  # what was painted, back to front: class index and outline in pixels


@dataclass(frozen=True)
class _Layer:
    index: int
    photo: str
    outline: Outline
    cover: np.ndarray


def _picture_size(rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int]:
    """Vary (height, width) by up to 15 % and turn every fourth picture on its side."""
    height, width = (max(round(side * rng.uniform(0.85, 1.15)), 32) for side in size)
    return (width, height) if rng.random() < 0.25 else (height, width)


def _texture(photo: Image.Image, name: str, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Cut a random piece of a photograph, fill (height, width) with it and colour it; float (height, width, 3)."""
    share = rng.uniform(*ZOOM.get(name, (0.75, 1.0)))
    piece_height = photo.height * share
    # A piece has the shape of what it fills, as far as the photograph reaches.
    piece_width = min(piece_height * width / height, photo.width)
    piece_height = min(piece_width * height / width, piece_height)
    left = rng.uniform(0, photo.width - piece_width)
    top = rng.uniform(0, photo.height - piece_height)
    box = (left, top, left + piece_width, top + piece_height)
    pixels = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC, box=box), dtype=np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if name in TINTS:
        low, high = (np.array(colour, dtype=np.float32) for colour in TINTS[name])
        # Mostly one number for the three channels keeps the colour typical while the brightness varies.
        factor = low + (high - low) * np.clip(rng.random() + rng.uniform(-0.15, 0.15, 3), 0, 1)
        return (pixels / 128 * factor).astype(np.float32)
    # The sky was photographed at dusk; days are brighter.
    return (pixels * rng.uniform(*(1.3, 2.6) if name == 'rocket.jpg' else (0.8, 1.2))).astype(np.float32)


def _below(height: int, width: int, level: float, rng: np.random.Generator) -> Outline:
    """Everything below an uneven horizon at about ``level`` pixels from the top."""
    x = np.linspace(-1, width + 1, 12)
    slope = rng.uniform(-0.06, 0.06) * height
    waves = rng.uniform(0, 0.03) * height * np.sin(x / width * rng.uniform(4, 14) + rng.uniform(0, 6))
    y = level + slope * (x / width - 0.5) + waves
    return (Part(True, np.stack([np.r_[x, width + 1, -1], np.r_[y, height + 1, height + 1]], axis=1)),)


def _building(height: int, width: int, level: float, rng: np.random.Generator) -> Outline:
    """A wall with a gable or battlements and an open window, standing on the horizon."""
    left = rng.uniform(-0.1, 0.5) * width
    right = left + rng.uniform(0.35, 0.6) * width
    top = level - rng.uniform(0.2, 0.35) * height
    foot = level + 0.12 * height
    if rng.random() < 0.5:
        upper = [(left, top), ((left + right) / 2, top - 0.15 * height), (right, top)]
    else:
        x = np.linspace(left, right, 8)
        y = [top - (0.07 * height if tooth % 2 == 0 else 0) for tooth in range(7)]
        upper = [(float(x[i + side]), y[i]) for i in range(7) for side in (0, 1)]
    window = left + (right - left) * rng.uniform(0.2, 0.6)
    pane, sill = 0.2 * (right - left), top + 0.06 * height
    return (
        Part(True, np.array([*upper, (right, foot), (left, foot)])),
        Part(False, np.array([(window, sill), (window + pane, sill), (window + pane, level - 2), (window, level - 2)])),
    )


def _path(height: int, width: int, level: float, rng: np.random.Generator) -> Outline:
    """A strip that runs from the horizon towards the viewer and widens."""
    far, near = rng.uniform(0.2, 0.8, 2) * width
    half_far, half_near = rng.uniform(0.03, 0.08) * width, rng.uniform(0.15, 0.3) * width
    x = (far - half_far, far + half_far, near + half_near, near - half_near)
    return (Part(True, np.stack([x, (level, level, height + 1, height + 1)], axis=1)),)


def _backdrop(index: int, height: int, width: int, level: float, rng: np.random.Generator) -> list[_Layer]:
    """Sky, walls and ground from the back to the front; four consecutive pictures show every class of stuff."""
    corners = np.array([(-1.0, -1.0), (width + 1, -1), (width + 1, height + 1), (-1, height + 1)])
    top = ('sky', 'wall')[index // 2 % 2]
    bottom, strip = (('grass', 'gravel'), ('gravel', 'grass'))[index % 2]
    layers: list[tuple[str, Outline]] = [(top, (Part(True, corners),))]
    if top == 'sky' and rng.random() < 0.5:
        layers.append(('wall', _building(height, width, level, rng)))
    layers.append((bottom, _below(height, width, level, rng)))
    if rng.random() < 0.5:
        layers.append((strip, _path(height, width, level + 0.04 * height, rng)))
    return [
        _Layer(MINI_CLASSES[name].index, MINI_CLASSES[name].photo, outline, coverage(outline, height, width))
        for name, outline in layers
    ]


def _thing(
    cls: MiniClass, height: int, width: int, tall: float, level: float, rng: np.random.Generator, upright: bool = False
) -> Outline:
    """Draw and place one thing that is ``tall`` pixels high."""
    flies = cls.name == 'airplane'
    tilt = (0.5 if flies else 0.12) * (0.3 if upright else 1.0)
    # The foot of what stands lies between the horizon and the lower border; what flies may be anywhere.
    foot = rng.uniform(tall, height) if flies else rng.uniform(max(level, min(tall, height)), height * 1.03)
    return place(
        THING_OUTLINES[cls.name](rng),
        height=tall,
        bottom=(rng.uniform(0.08, 0.92) * width, foot),
        stretch=rng.uniform(0.85, 1.15),
        angle=rng.uniform(-tilt, tilt),
        flipped=bool(rng.random() < 0.5),
    )


def _paint(layers: list[_Layer], photos: Photos, rng: np.random.Generator) -> Scene:
    """Paint layers over one another, from the back to the front."""
    height, width = layers[0].cover.shape
    image = np.zeros((height, width, 3), dtype=np.float32)
    labels = np.zeros((height, width), dtype=np.uint8)
    owner = np.full((height, width), -1)
    things = {number: cls for number, layer in enumerate(layers) for cls in THINGS if cls.index == layer.index}
    for number, layer in enumerate(layers):
        rows, columns = (np.flatnonzero(layer.cover.any(axis)) for axis in (1, 0))
        if not len(rows):
            continue
        area = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        share = layer.cover[area][..., None].astype(np.float32) / 255
        texture = _texture(photos[layer.photo], layer.photo, share.shape[0], share.shape[1], rng)
        if layer.index == OTHER or number in things:
            # Lit from above, and with a soft shadow behind: what stands in the scene is no hole in it.
            texture = texture * np.linspace(1.15, 0.75, share.shape[0], dtype=np.float32)[:, None, None]
            image *= _shadow(layer.cover)[..., None]
        image[area] += (texture - image[area]) * share
        inside = layer.cover >= HALF
        labels[inside] = layer.index
        owner[inside] = number
    lit = np.linspace(rng.uniform(0.85, 1.1), rng.uniform(0.85, 1.1), width, dtype=np.float32)[:, None]
    image = image * lit * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    return Scene(
        image=np.clip(image + 0.5, 0, 255).astype(np.uint8),
        labels=labels,
        instances=tuple(Instance(things[n], owner == n) for n in sorted(things) if (owner == n).any()),
        layers=tuple((layer.index, layer.outline) for layer in layers),
    )


def _shadow(cover: np.ndarray) -> np.ndarray:
    """Brightness factors behind a shape: a blurred copy of it, a little lower."""
    offset = max(cover.shape[0] // 40, 1)
    moved = np.zeros_like(cover)
    moved[offset:] = cover[:-offset]
    blurred = Image.fromarray(moved).filter(ImageFilter.GaussianBlur(offset))
    return 1 - np.asarray(blurred, dtype=np.float32) * (0.4 / 255)


def draw_scene(photos: Photos, index: int, size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Draw a scene with several things that may hide one another.

    The class of one thing and the ground follow from ``index``, the scene's number from 0, so that four consecutive
    scenes show every class. ``size`` is the middle (height, width) in pixels that pictures vary around.
    """
    height, width = _picture_size(rng, size)
    level = rng.uniform(0.3, 0.6) * height
    front: list[_Layer] = []
    taken = np.zeros((height, width), dtype=bool)
    wanted = [THINGS[index % len(THINGS)], *rng.choice(np.array(THINGS, dtype=object), int(rng.integers(1, 4)))]
    # From the front to the back: the first thing is hidden by nothing, each later one must stay visible enough.
    for number, cls in enumerate(wanted):
        tall = height * math.exp(rng.uniform(math.log(0.35 if number == 0 else 0.2), math.log(0.8)))
        for _ in range(8):
            outline = _thing(cls, height, width, tall, level, rng)
            cover = coverage(outline, height, width)
            inside = cover >= HALF
            if (inside & ~taken).sum() >= max(LEAST_VISIBLE * inside.sum(), LEAST_PIXELS):
                front.append(_Layer(cls.index, cls.photo, outline, cover))
                taken |= inside
                break
    for _ in range(int(rng.integers(1, 4))):
        spot = (rng.uniform(0.05, 0.95) * width, rng.uniform(level, 1.05 * height))
        outline = place(other_outline(rng), height=rng.uniform(0.15, 0.3) * height, bottom=spot)
        photo = OTHER_PHOTOS[int(rng.integers(len(OTHER_PHOTOS)))]
        front.append(_Layer(OTHER, photo, outline, coverage(outline, height, width)))
    return _paint([*_backdrop(index, height, width, level, rng), *reversed(front)], photos, rng)


def draw_portrait(photos: Photos, index: int, size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Draw a scene of one instance, for classification; four consecutive ones show every class of things."""
    height, width = _picture_size(rng, size)
    level = rng.uniform(0.3, 0.6) * height
    cls = THINGS[index % len(THINGS)]
    tall = rng.uniform(0.5, 0.8) * min(height, width * 0.75)
    outline = _thing(cls, height, width, tall, level, rng, upright=True)
    # Moved so that it is in the picture as a whole, wherever that is.
    low, high = bounds(outline)
    room = np.maximum(np.array([width, height]) - (high - low), 0)
    shift = rng.random(2) * room - low
    outline = tuple(Part(adds, part + shift) for adds, part in outline)
    front = _Layer(cls.index, cls.photo, outline, coverage(outline, height, width))
    return _paint([*_backdrop(int(rng.integers(4)), height, width, level, rng), front], photos, rng)
