"""Scenes of the mini dataset: a picture and what is exactly where in it.

Everything is painted from the back to the front. The area that a shape covers in a pixel mixes the colours, as in a
photograph, and from one half on the pixel belongs to the shape: the labels are exact by construction.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

from .catalog import MINI_CLASSES, MiniClass
from .masks import bounding_box
from .shapes import THING_OUTLINES, Outline, Part, bounds, coverage, other_outline, place

__all__ = ['OTHER', 'Instance', 'Scene', 'draw_portrait', 'draw_scene']

Photos = Mapping[str, Image.Image]

#: Index of what no class stands for.
OTHER = 0
OTHER_PHOTOS = ('coins.png', 'page.png', 'astronaut.png')
THINGS = tuple(c for c in MINI_CLASSES.values() if c.is_thing)

#: Colours that stand for middle grey in the black-and-white photographs: (low, high) in RGB, each 0..255.
TINTS = {
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


class Instance(NamedTuple):
    """One countable object of a scene, and the pixels in which it is visible, bool (H, W)."""

    cls: MiniClass
    mask: np.ndarray


class Scene(NamedTuple):
    """A picture with everything known about it."""

    image: np.ndarray  # RGB, uint8 (H, W, 3)
    labels: np.ndarray  # class index of every pixel (0 is 'other'), uint8 (H, W)
    instances: tuple[Instance, ...]  # visible things, from the back to the front; their masks do not overlap
    layers: tuple[tuple[int, Outline], ...]  # what was painted, back to front: class index and outline in pixels


class _Layer(NamedTuple):
    label: int
    photo: str
    outline: Outline


def _frame(size: tuple[int, int], rng: Generator) -> tuple[int, int, float]:
    """Vary (height, width) by up to 15 %, turn every fourth picture on its side, and choose the horizon's level."""
    sides = [max(round(side * rng.uniform(0.85, 1.15)), 32) for side in size]
    height, width = sides[::-1] if rng.random() < 0.25 else sides
    return height, width, rng.uniform(0.3, 0.6) * height


def _texture(photo: Image.Image, name: str, height: int, width: int, rng: Generator) -> np.ndarray:
    """Cut a random piece of a photograph, fill (height, width) with it and colour it; float (height, width, 3)."""
    piece_height = photo.height * rng.uniform(*ZOOM.get(name, (0.75, 1.0)))
    # A piece has the shape of what it fills, as far as the photograph reaches.
    piece_width = min(piece_height * width / height, photo.width)
    piece_height = min(piece_width * height / width, piece_height)
    left, top = rng.uniform(0, photo.width - piece_width), rng.uniform(0, photo.height - piece_height)
    box = (left, top, left + piece_width, top + piece_height)
    pixels = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC, box=box), dtype=np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if name in TINTS:
        low, high = np.array(TINTS[name], dtype=np.float32)
        # Mostly one number for the three channels keeps the colour typical while the brightness varies.
        factor = low + (high - low) * np.clip(rng.random() + rng.uniform(-0.15, 0.15, 3), 0, 1)
        return (pixels / 128 * factor).astype(np.float32)
    # The sky was photographed at dusk; days are brighter.
    return (pixels * rng.uniform(*(1.3, 2.6) if name == 'rocket.jpg' else (0.8, 1.2))).astype(np.float32)


def _below(height: int, width: int, level: float, rng: Generator) -> Outline:
    """Everything below an uneven horizon at about ``level`` pixels from the top."""
    x = np.linspace(-1, width + 1, 12)
    slope = rng.uniform(-0.06, 0.06) * height
    waves = rng.uniform(0, 0.03) * height * np.sin(x / width * rng.uniform(4, 14) + rng.uniform(0, 6))
    y = level + slope * (x / width - 0.5) + waves
    return (Part(True, np.stack([np.r_[x, width + 1, -1], np.r_[y, height + 1, height + 1]], axis=1)),)


def _building(height: int, width: int, level: float, rng: Generator) -> Outline:
    """A wall with a gable or battlements and an open window, standing on the horizon."""
    left = rng.uniform(-0.1, 0.5) * width
    right = left + rng.uniform(0.35, 0.6) * width
    top, foot = level - rng.uniform(0.2, 0.35) * height, level + 0.12 * height
    if rng.random() < 0.5:
        upper = [(left, top), ((left + right) / 2, top - 0.15 * height), (right, top)]
    else:
        x, merlon = np.linspace(left, right, 8).tolist(), top - 0.07 * height
        upper = [(x[i + side], top if i % 2 else merlon) for i in range(7) for side in (0, 1)]
    window = left + (right - left) * rng.uniform(0.2, 0.6)
    pane, sill = 0.2 * (right - left), top + 0.06 * height
    return (
        Part(True, np.array([*upper, (right, foot), (left, foot)])),
        Part(False, np.array([(window, sill), (window + pane, sill), (window + pane, level - 2), (window, level - 2)])),
    )


def _path(height: int, width: int, level: float, rng: Generator) -> Outline:
    """A strip that runs from the horizon towards the viewer and widens."""
    far, near = rng.uniform(0.2, 0.8, 2) * width
    half_far, half_near = rng.uniform(0.03, 0.08) * width, rng.uniform(0.15, 0.3) * width
    x = (far - half_far, far + half_far, near + half_near, near - half_near)
    return (Part(True, np.stack([x, (level, level, height + 1, height + 1)], axis=1)),)


def _backdrop(index: int, height: int, width: int, level: float, rng: Generator) -> list[_Layer]:
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
    return [_Layer(MINI_CLASSES[name].index, MINI_CLASSES[name].photo, outline) for name, outline in layers]


def _thing(cls: MiniClass, height: int, width: int, tall: float, level: float, rng: Generator, lean: float) -> Outline:
    """Draw and place one thing that is ``tall`` pixels high; ``lean`` is the share of its usual tilt."""
    flies = cls.name == 'airplane'
    tilt = (0.5 if flies else 0.12) * lean
    # The foot of what stands lies between the horizon and the lower border; what flies may be anywhere.
    foot = rng.uniform(tall, height) if flies else rng.uniform(max(level, min(tall, height)), height * 1.03)
    outline, x = THING_OUTLINES[cls.name](rng), rng.uniform(0.08, 0.92) * width
    stretch, angle, flipped = rng.uniform(0.85, 1.15), rng.uniform(-tilt, tilt), bool(rng.random() < 0.5)
    return place(outline, height=tall, bottom=(x, foot), stretch=stretch, angle=angle, flipped=flipped)


def _paint(layers: list[_Layer], height: int, width: int, photos: Photos, rng: Generator) -> Scene:
    """Paint layers over one another, from the back to the front."""
    image: np.ndarray = np.zeros((height, width, 3), dtype=np.float32)
    labels = np.zeros((height, width), dtype=np.uint8)
    owner = np.full((height, width), -1)
    things = {number: cls for number, layer in enumerate(layers) for cls in THINGS if cls.index == layer.label}
    for number, layer in enumerate(layers):
        cover = coverage(layer.outline, height, width)
        if not cover.any():
            continue
        left, top, right, bottom = bounding_box(cover)
        area = np.s_[top:bottom, left:right]
        texture = _texture(photos[layer.photo], layer.photo, bottom - top, right - left, rng)
        if layer.label == OTHER or number in things:
            # Lit from above, and with a soft shadow behind: what stands in the scene is no hole in it.
            texture = texture * np.linspace(1.15, 0.75, bottom - top, dtype=np.float32)[:, None, None]
            image *= _shadow(cover)[..., None]
        image[area] += (texture - image[area]) * (cover[area][..., None].astype(np.float32) / 255)
        inside = cover >= HALF
        labels[inside], owner[inside] = layer.label, number
    lit = np.linspace(rng.uniform(0.85, 1.1), rng.uniform(0.85, 1.1), width, dtype=np.float32)[:, None]
    image = image * lit * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    instances = tuple(Instance(things[n], owner == n) for n in sorted(things) if (owner == n).any())
    painted = tuple((layer.label, layer.outline) for layer in layers)
    return Scene(np.clip(image + 0.5, 0, 255).astype(np.uint8), labels, instances, painted)


def _shadow(cover: np.ndarray) -> np.ndarray:
    """Brightness factors behind a shape: a blurred copy of it, a little lower."""
    offset = max(cover.shape[0] // 40, 1)
    moved = Image.fromarray(np.pad(cover, ((offset, 0), (0, 0)))[:-offset])
    return 1 - np.asarray(moved.filter(ImageFilter.GaussianBlur(offset)), dtype=np.float32) * (0.4 / 255)


def draw_scene(photos: Photos, index: int, size: tuple[int, int], rng: Generator) -> Scene:
    """Draw a scene with several things that may hide one another; four consecutive ones show every class."""
    height, width, level = _frame(size, rng)
    front: list[_Layer] = []
    taken = np.zeros((height, width), dtype=bool)
    wanted = [index % len(THINGS), *rng.choice(len(THINGS), int(rng.integers(1, 4)))]
    # From the front to the back: the first thing is hidden by nothing, each later one must stay visible enough.
    for number, cls in enumerate(THINGS[chosen] for chosen in wanted):
        tall = height * math.exp(rng.uniform(math.log(0.35 if number == 0 else 0.2), math.log(0.8)))
        for _ in range(8):
            outline = _thing(cls, height, width, tall, level, rng, lean=1.0)
            inside = coverage(outline, height, width) >= HALF
            if (inside & ~taken).sum() >= max(LEAST_VISIBLE * inside.sum(), LEAST_PIXELS):
                front.append(_Layer(cls.index, cls.photo, outline))
                taken |= inside
                break
    for _ in range(int(rng.integers(1, 4))):
        spot = (rng.uniform(0.05, 0.95) * width, rng.uniform(level, 1.05 * height))
        outline = place(other_outline(rng), height=rng.uniform(0.15, 0.3) * height, bottom=spot)
        front.append(_Layer(OTHER, OTHER_PHOTOS[int(rng.integers(len(OTHER_PHOTOS)))], outline))
    return _paint([*_backdrop(index, height, width, level, rng), *reversed(front)], height, width, photos, rng)


def draw_portrait(photos: Photos, index: int, size: tuple[int, int], rng: Generator) -> Scene:
    """Draw a scene of one instance, for classification; four consecutive ones show every class of things."""
    height, width, level = _frame(size, rng)
    cls = THINGS[index % len(THINGS)]
    tall = rng.uniform(0.5, 0.8) * min(height, width * 0.75)
    outline = _thing(cls, height, width, tall, level, rng, lean=0.3)
    # Moved so that it is in the picture as a whole, wherever that is.
    low, high = bounds(outline)
    shift = rng.random(2) * np.maximum(np.array([width, height]) - (high - low), 0) - low
    front = _Layer(cls.index, cls.photo, tuple(Part(adds, part + shift) for adds, part in outline))
    return _paint([*_backdrop(int(rng.integers(4)), height, width, level, rng), front], height, width, photos, rng)
