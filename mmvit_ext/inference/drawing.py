"""Predictions as pictures: class colours over the image with a legend, or boxes and masks with names."""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.utils import draw_bounding_boxes

__all__ = ['as_picture', 'colour_mask', 'draw_frame', 'draw_instances', 'draw_overlay', 'label_image', 'make_palette']

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

_GOLDEN_RATIO = 0.618033988749895
_NAMED_SIDE = 480  # longer side in pixels below which a picture is too small for names
COLOUR_MAP = 'viridis'  # its lightness grows evenly with the value, so that it can be read in grey as well


def as_picture(image: np.ndarray, channel_order: str = 'bgr') -> np.ndarray:
    """An image (H, W) or (H, W, C) as RGB (H, W, 3), 8 bit: the first three channels, or the first one as grey."""
    planes = image[..., None] if image.ndim == 2 else image
    planes = planes[..., [0, 0, 0]] if planes.shape[2] < 3 else planes[..., :3]
    if image.ndim == 3 and image.shape[2] > 2 and channel_order == 'bgr':
        planes = planes[..., ::-1]
    if planes.dtype == np.uint8:
        return np.ascontiguousarray(planes)
    values = np.nan_to_num(planes.astype(np.float64))
    low, high = float(values.min()), float(values.max())
    # What interpolation overshoots at an edge is cut; a range of its own, such as 16 bit or 0 to 1, is stretched.
    if low < -64 or high > 319 or 0 < high - low <= 1:
        values = (values - low) * (255 / max(high - low, 1e-12))
    return np.rint(values.clip(0, 255)).astype(np.uint8)


def make_palette(count: int) -> list[Colour]:
    """RGB colours, 0 to 255, that stay apart however many there are: hues step by the golden ratio and never repeat."""
    hues = ((index * _GOLDEN_RATIO) % 1.0 for index in range(count))
    shades = (colorsys.hsv_to_rgb(hue, 0.85, (1.0, 0.8, 0.6)[index % 3]) for index, hue in enumerate(hues))
    return [(round(red * 255), round(green * 255), round(blue * 255)) for red, green, blue in shades]


@functools.cache
def _colours() -> np.ndarray:
    return (matplotlib.colormaps[COLOUR_MAP](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """Colours of values from 0 to 1 of any shape: RGB, with a last axis of 3."""
    return _colours()[np.rint(np.clip(mask, 0, 1) * 255).astype(np.uint8)]


def draw_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    *,
    opacity: float = 0.5,
    legend: bool = True,
) -> Image.Image:
    """Paint class colours over an RGB image (H, W, 3) by the class index of each pixel (H, W), a legend below."""
    if image.shape[:2] != labels.shape:
        raise ValueError(f'image and labels must have the same size, got {image.shape[:2]} and {labels.shape}')
    if not 0 <= opacity <= 1:
        raise ValueError(f'opacity must be 0 to 1, got {opacity}')
    known = (labels >= 0) & (labels < len(classes))
    picture = Image.fromarray(_paint(image, np.where(known, labels, -1), palette, opacity))
    if not legend:
        return picture
    present, pixels = np.unique(labels[known], return_counts=True)
    order = np.argsort(-pixels, kind='stable')
    texts = [f'{classes[present[index]]} {100 * pixels[index] / labels.size:.1f} %' for index in order]
    return _append_legend(picture, texts, [_colour(palette[present[index]]) for index in order])


def _paint(image: np.ndarray, labels: np.ndarray, colours: Sequence[Sequence[int]], opacity: float) -> np.ndarray:
    """Mix an image with the colours of its labels; pixels whose label is negative stay as they are."""
    painted, known = image.astype(np.float32), labels >= 0
    painted[known] += (np.asarray(colours, dtype=np.float32)[labels[known]] - painted[known]) * opacity
    return np.rint(painted).clip(0, 255).astype(np.uint8)


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    *,
    scores: Sequence[float] | np.ndarray | None = None,
    masks: np.ndarray | None = None,
    opacity: float = 0.5,
    names: bool = True,
) -> Image.Image:
    """Draw objects on an RGB image (H, W, 3): boxes (n, 4) in pixels, classes, scores and masks, bool (n, H, W).

    The most confident objects are drawn on top. For names, a small picture is enlarged by a whole number.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f'opacity must be 0 to 1, got {opacity}')
    height, width = image.shape[:2]
    count = len(boxes)
    if len(labels) != count or (scores is not None and len(scores) != count):
        given = f'{count} boxes, {len(labels)} labels and {"no" if scores is None else len(scores)} scores'
        raise ValueError(f'there must be one label and one score for each box, got {given}')
    if masks is not None and masks.shape != (count, height, width):
        raise ValueError(f'masks must be of shape {(count, height, width)}, one per box, got {masks.shape}')
    factor = -(-_NAMED_SIDE // max(height, width)) if names else 1
    size = (width * factor, height * factor)
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    if not count:
        return picture
    line = max(round(max(size) / 320), 1)
    order: list[int] = np.argsort(np.zeros(count) if scores is None else scores, kind='stable').tolist()
    edges = np.asarray(boxes, dtype=np.float64)[order] * factor
    kinds = [int(labels[index]) for index in order]
    colours = [_colour(palette[kind]) for kind in kinds]
    pixels = np.array(picture)
    if masks is not None:
        areas = [cv2.resize(mask.astype(np.uint8) * 255, size) >= 128 for mask in masks[order]]
        kernel = np.ones((2 * line + 1, 2 * line + 1), np.uint8)
        borders = [area & ~cv2.erode(area.astype(np.uint8), kernel).astype(bool) for area in areas]
        for shown, share in ((areas, opacity), (borders, 1.0)):
            owner = np.full(pixels.shape[:2], -1)
            for place, area in enumerate(shown):
                owner[area] = place
            pixels = _paint(pixels, owner, colours, share)
    corners = np.concatenate([edges[:, :2], np.maximum(edges[:, 2:] - 1, edges[:, :2])], 1)
    canvas = torch.from_numpy(pixels).permute(2, 0, 1)
    canvas = draw_bounding_boxes(canvas, torch.from_numpy(corners), colors=colours, width=line)
    picture = Image.fromarray(canvas.permute(1, 2, 0).numpy())
    if names:
        shares = [''] * count if scores is None else [f' {float(scores[index]):.2f}' for index in order]
        texts = [f'{classes[kind]}{share}' for kind, share in zip(kinds, shares, strict=True)]
        _write_names(picture, edges[::-1].tolist(), texts[::-1], colours[::-1])
    return picture


def draw_frame(draw: ImageDraw.ImageDraw, box: Rectangle, colour: Colour, line: int) -> None:
    """Draw a rectangle that can be seen on any image, ``line`` pixels wide on a black one."""
    corners = box[0], box[1], max(box[2] - 1, box[0]), max(box[3] - 1, box[1])
    draw.rectangle(corners, outline='black', width=line + 2)
    draw.rectangle(corners, outline=colour, width=line)


def _write_names(
    picture: Image.Image, boxes: Sequence[Sequence[float]], texts: Sequence[str], colours: Sequence[Colour]
) -> None:
    """Write names at the boxes, the first ones where they are wanted most, none over another if there is room."""
    draw = ImageDraw.Draw(picture)
    size = min(max(max(picture.size) // 36, 11), 28)
    font, pad = ImageFont.load_default(size), max(size // 5, 2)
    taken: list[Rectangle] = []
    for (left, top, right, bottom), text, colour in zip(boxes, texts, colours, strict=True):
        width, height = font.getlength(text) + 2 * pad, size + 2 * pad
        # Above the box, inside it at its corners, below it.
        places = [(x, y) for x in (left, right - width) for y in (top - height, top)]
        places += [(x, y) for y in (bottom - height, bottom) for x in (left, right - width)]
        places = [(x, y) for x, y in places if y >= 0 and y + height <= picture.height] or [(left, 0.0)]
        places = [(max(min(x, picture.width - width), 0.0), y) for x, y in places]
        tabs = [(x, y, x + width - 1, y + height - 1) for x, y in places]
        tab = next((tab for tab in tabs if not any(_meet(tab, other) for other in taken)), tabs[0])
        taken.append(tab)
        draw.rectangle(tab, fill=colour)
        red, green, blue = colour
        ink = 'black' if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else 'white'
        draw.text((tab[0] + pad, (tab[1] + tab[3]) / 2), text, fill=ink, font=font, anchor='lm')


def _meet(one: Rectangle, other: Rectangle) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def label_image(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> Image.Image:
    """A label map (H, W) as a picture of class indices, 8 bit with a palette; 16 bit for more than 256 classes."""
    if len(palette) > 256:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette([int(part) for colour in palette for part in colour])
    return picture


def _colour(colour: Sequence[int]) -> Colour:
    return int(colour[0]), int(colour[1]), int(colour[2])


def _append_legend(picture: Image.Image, texts: Sequence[str], colours: Sequence[Colour]) -> Image.Image:
    if not texts:
        return picture
    size = min(max(picture.width // 32, 11), 28)
    font, gap = ImageFont.load_default(size), max(size // 2, 4)
    widths = [round(font.getlength(text)) + size + 2 * gap for text in texts]
    width = max(picture.width, max(widths) + gap)
    places, x, y = [], gap, gap
    for entry_width in widths:
        if x > gap and x + entry_width > width:
            x, y = gap, y + size + gap
        places.append((x, y))
        x += entry_width
    canvas = Image.new('RGB', (width, picture.height + y + size + gap), 'white')
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for text, colour, (x, y) in zip(texts, colours, places, strict=True):
        top = picture.height + y
        draw.rectangle((x, top, x + size - 1, top + size - 1), fill=colour, outline='black')
        draw.text((x + size + gap // 2, top + size / 2), text, fill='black', font=font, anchor='lm')
    return canvas
