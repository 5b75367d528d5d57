"""Sheets of pictures: grids, and tables with headings, captions and a colour bar."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

from mmvit_ext.files import atomic_path

from .drawing import colour_mask

__all__ = ['Cell', 'draw_table', 'fit_edge', 'image_grid', 'write_picture']

Cell = Image.Image | tuple[Image.Image, str] | None  # a picture of a table, perhaps with a caption, or an empty place


def fit_edge(shape: Sequence[int], edge: int) -> tuple[int, int]:
    """Width and height of an image of shape (H, W, ...) whose longer edge is brought to ``edge`` pixels."""
    height, width = shape[:2]
    factor = edge / max(height, width)
    return max(1, round(width * factor)), max(1, round(height * factor))


def image_grid(images: Tensor, columns: int, gap: int = 2) -> np.ndarray:
    """RGB images ``(N, 3, H, W)``, ``uint8``, in rows on white, ``gap`` pixels apart, as a picture (H, W, 3)."""
    if len(images) > 1:
        grid = make_grid(images, columns, gap, pad_value=255)
    else:  # which torchvision leaves without a border
        grid = F.pad(images[0], (gap,) * 4, value=255)
    return grid.permute(1, 2, 0).cpu().numpy()


def write_picture(picture: Image.Image, path: Path) -> Path:
    """Write a picture, whole or not at all, and return the file."""
    with atomic_path(path) as file:
        picture.save(file)
    return path


def draw_table(
    rows: Sequence[tuple[str, Sequence[Cell]]],
    headings: Sequence[str],
    cell: tuple[int, int] | None = None,
    footer: str = '',
    bar: str = '',
) -> Image.Image:
    """Pictures in a table, brought to the size of a ``cell`` if given, with headings of rows and columns.

    ``footer`` is a line below; ``bar`` says what the colours of :func:`colour_mask` mean, beside a bar of them.
    """
    shown = [[_fitted(place, cell) for place in row] + [(None, '')] * (len(headings) - len(row)) for _, row in rows]
    sizes = [[picture.size if picture else cell or (0, 0) for picture, _ in row] for row in shown]
    size = min(max(max(itertools.chain.from_iterable(itertools.chain.from_iterable(sizes))) // 20, 11), 40)
    font, gap = ImageFont.load_default(size), size // 2
    line = size + gap

    def width(texts: Iterable[str]) -> int:
        return max(round(font.getlength(text)) for text in texts)

    names = width(name for name, _ in rows)
    widths = [
        max(*(row[column][0] for row in sizes), width([heading, *(row[column][1] for row in shown)]))
        for column, heading in enumerate(headings)
    ]
    lefts = [*itertools.accumulate(widths, lambda left, own: left + own + gap, initial=gap + (names and names + gap))]
    caption_line = line if any(caption for row in shown for _, caption in row) else 0
    heights = [max(height for _, height in row) for row in sizes]
    tops = [*itertools.accumulate(heights, lambda top, own: top + own + caption_line + gap, initial=gap + line)]
    bar_left, bar_width = gap + width([bar]) + gap + width('01'), 10 * size if bar else 0
    footer_left = bar_left + bar_width + width('01') + 2 * gap if bar else gap
    below = 2 * line + gap if bar else line if footer else 0
    canvas = Image.new('RGB', (max(lefts[-1], footer_left + width([footer]) + gap), tops[-1] + below), 'white')
    draw = ImageDraw.Draw(canvas)

    def write(text: str, x: float, y: float, anchor: str) -> None:
        draw.text((x, y), text, fill='black', font=font, anchor=anchor)

    for heading, left, column in zip(headings, lefts, widths, strict=False):
        write(heading, left + column / 2, gap + size / 2, 'mm')
    for (name, _), row, height, top in zip(rows, shown, heights, tops, strict=False):
        write(name, gap, top + height / 2, 'lm')
        for (picture, caption), left, column in zip(row, lefts, widths, strict=False):
            if picture is not None:
                canvas.paste(picture, (left + (column - picture.width) // 2, top))
            write(caption, left + column / 2, top + height + (gap + size) / 2, 'mm')
    write(footer, footer_left, tops[-1] + size / 2, 'lm')
    if bar:
        write(bar, gap, tops[-1] + size / 2, 'lm')
        ramp = np.broadcast_to(colour_mask(np.linspace(0, 1, bar_width)), (size, bar_width, 3))
        canvas.paste(Image.fromarray(np.ascontiguousarray(ramp)), (bar_left, tops[-1]))
        for tick in ('0', '0.5', '1'):
            write(tick, bar_left + float(tick) * (bar_width - 1), tops[-1] + line + size / 2, 'mm')
    return canvas


def _fitted(place: Cell, cell: tuple[int, int] | None) -> tuple[Image.Image | None, str]:
    picture, caption = place if isinstance(place, tuple) else (place, '')
    if picture is not None and cell not in (None, picture.size):
        picture = picture.resize(cell, Image.Resampling.BICUBIC)
    return picture, caption
