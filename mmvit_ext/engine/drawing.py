"""A predicted label map as a picture: class colours over the image, and a legend of the classes that are there."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ['draw_overlay', 'label_image', 'load_font', 'make_palette']

Colour = tuple[int, int, int]
_GOLDEN_RATIO = 0.618033988749895


def make_palette(count: int) -> list[Colour]:
    """Colours that stay apart however many there are.

    Args:
        count: How many.

    Returns:
        RGB colours, 0 to 255. Hues step by the golden ratio, which never comes back to an earlier one.
    """
    colours = []
    for index in range(count):
        hue = (index * _GOLDEN_RATIO) % 1.0
        value = (1.0, 0.8, 0.6)[index % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colours


def draw_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    *,
    opacity: float = 0.5,
    legend: bool = True,
) -> Image.Image:
    """Paint class colours over an image.

    Args:
        image: RGB picture (H, W, 3), 0 to 255.
        labels: Class index of each pixel (H, W); an index outside the classes stays unpainted.
        classes: Class names.
        palette: RGB colour of each class.
        opacity: 0 (only the image) to 1 (only the colours).
        legend: Whether to add names and areas of the classes that are present, below the picture.

    Returns:
        The picture, at the size of the image plus, with a legend, what that needs below (and beside, where the image is
        narrower than a name).

    Raises:
        ValueError: Sizes differ or the opacity is out of range.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f'image and labels must have the same size, got {image.shape[:2]} and {labels.shape}')
    if not 0 <= opacity <= 1:
        raise ValueError(f'opacity must be 0 to 1, got {opacity}')
    known = (labels >= 0) & (labels < len(classes))
    colours = np.asarray(palette, dtype=np.float32).reshape(-1, 3)
    painted = image.astype(np.float32)
    painted[known] += (colours[labels[known]] - painted[known]) * opacity
    picture = Image.fromarray(np.rint(painted).clip(0, 255).astype(np.uint8))
    if not legend:
        return picture
    present, pixels = np.unique(labels[known], return_counts=True)
    order = np.argsort(-pixels, kind='stable')
    entries = [
        (f'{classes[present[index]]} {100 * pixels[index] / labels.size:.1f} %', _colour(palette[present[index]]))
        for index in order
    ]
    return _append_legend(picture, entries)


def label_image(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> Image.Image:
    """A label map as a picture whose pixel values are the class indices.

    Args:
        labels: Class index of each pixel (H, W), from 0.
        palette: RGB colour of each class, for viewers.

    Returns:
        A palette picture of 8 bit; of 16 bit without colours for more than 256 classes.
    """
    if len(palette) > 256:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette([int(part) for colour in palette for part in colour])
    return picture


def _colour(colour: Sequence[int]) -> Colour:
    return int(colour[0]), int(colour[1]), int(colour[2])


def load_font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The font that comes with Pillow.

    Args:
        size: Height in pixels; a Pillow before 10.1 or without FreeType has one size only.

    Returns:
        The font.
    """
    try:
        return ImageFont.load_default(size)
    except (TypeError, OSError):
        return ImageFont.load_default()


def _append_legend(picture: Image.Image, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    if not entries:
        return picture
    size = min(max(picture.width // 32, 11), 28)
    font, gap = load_font(size), max(size // 2, 4)
    widths = [round(font.getlength(text)) + size + 2 * gap for text, _ in entries]
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
    for (text, colour), (x, y) in zip(entries, places, strict=True):
        top = picture.height + y
        draw.rectangle((x, top, x + size - 1, top + size - 1), fill=colour, outline='black')
        draw.text((x + size + gap // 2, top + size / 2), text, fill='black', font=font, anchor='lm')
    return canvas
