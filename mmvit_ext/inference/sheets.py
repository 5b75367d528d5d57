"""Sheets of pictures: tables with headings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from .drawing import colour_mask, load_font

__all__ = [
    'draw_table',
]


def draw_table(
    rows: Sequence[tuple[str, Sequence[Image.Image | None]]],
    headings: Sequence[str],
    cell: tuple[int, int],
    footer: str = '',
) -> Image.Image:
    """Pictures in a table with a heading for each row and column.

    Args:
        rows: Heading and pictures of each row; ``None`` leaves a place empty.
        headings: Of the columns.
        cell: Width and height to which the pictures are brought.
        footer: A line below the table.

    Returns:
        The table.
    """
    size = min(max(max(cell) // 22, 11), 40)
    font, gap = load_font(size), size // 2
    names = max(round(font.getlength(name)) for name, _ in rows)
    widths = [max(cell[0], round(font.getlength(heading))) for heading in headings]
    lefts = [2 * gap + names + sum(widths[:column]) + column * gap for column in range(len(headings))]
    top = 2 * gap + size
    bottom = top + len(rows) * (cell[1] + gap)
    right = max(lefts[-1] + widths[-1], gap + round(font.getlength(footer))) + gap
    canvas = Image.new('RGB', (right, bottom + (size + gap if footer else 0)), 'white')
    draw = ImageDraw.Draw(canvas)
    for heading, left, width in zip(headings, lefts, widths, strict=True):
        draw.text((left + width / 2, gap + size / 2), heading, fill='black', font=font, anchor='mm')
    for number, (name, pictures) in enumerate(rows):
        y = top + number * (cell[1] + gap)
        draw.text((gap, y + cell[1] / 2), name, fill='black', font=font, anchor='lm')
        for picture, left, width in zip(pictures, lefts, widths, strict=True):
            if picture is not None:
                shown = picture if picture.size == cell else picture.resize(cell, Image.Resampling.BICUBIC)
                canvas.paste(shown, (left + (width - cell[0]) // 2, y))
    if footer:
        draw.text((gap, bottom + size / 2), footer, fill='black', font=font, anchor='lm')
    return canvas


def _lay_out(
    rows: Sequence[tuple[str, Sequence[tuple[Image.Image, str]]]], headings: Sequence[str], cell: tuple[int, int]
) -> Image.Image:
    """A table of pictures with captions, a heading for each row and column, and a colour bar."""
    size = min(max(max(cell) // 20, 11), 40)
    font, gap = load_font(size), size // 2
    line = size + gap

    def width(texts: Iterable[str]) -> int:
        return max(round(font.getlength(text)) for text in texts)

    names = width(name for name, _ in rows)
    widths = [
        max(cell[0], width([heading, *(row[column][1] for _, row in rows)])) for column, heading in enumerate(headings)
    ]
    lefts = [2 * gap + names + sum(widths[:column]) + column * gap for column in range(len(headings))]
    top, height = gap + line, cell[1] + line + gap
    ticks = ['0', '0.5', '1']
    bar = 'mask, 0 to 1'
    footer = 'p: probability that the query of the class gives to its class'
    bar_left = gap + width([bar]) + gap + width(ticks)
    bar_width = 10 * size
    footer_left = bar_left + bar_width + width(ticks) + 2 * gap
    canvas = Image.new(
        'RGB',
        (
            max(lefts[-1] + widths[-1] + gap, footer_left + width([footer]) + gap),
            top + len(rows) * height + 2 * line + gap,
        ),
        'white',
    )
    draw = ImageDraw.Draw(canvas)
    for heading, left, column in zip(headings, lefts, widths, strict=True):
        draw.text((left + column / 2, gap + size / 2), heading, fill='black', font=font, anchor='mm')
    for number, (name, pictures) in enumerate(rows):
        y = top + number * height
        draw.text((gap, y + cell[1] / 2), name, fill='black', font=font, anchor='lm')
        for (picture, caption), left, column in zip(pictures, lefts, widths, strict=True):
            canvas.paste(picture.resize(cell, Image.Resampling.BICUBIC), (left + (column - cell[0]) // 2, y))
            place = (left + column / 2, y + cell[1] + (gap + size) / 2)
            draw.text(place, caption, fill='black', font=font, anchor='mm')
    y = top + len(rows) * height
    draw.text((gap, y + size / 2), bar, fill='black', font=font, anchor='lm')
    ramp = np.broadcast_to(colour_mask(np.linspace(0, 1, bar_width)), (size, bar_width, 3))
    canvas.paste(Image.fromarray(np.ascontiguousarray(ramp)), (bar_left, y))
    for tick in ticks:
        draw.text(
            (bar_left + float(tick) * (bar_width - 1), y + line + size / 2), tick, fill='black', font=font, anchor='mm'
        )
    draw.text((footer_left, y + size / 2), footer, fill='black', font=font, anchor='lm')
    return canvas
