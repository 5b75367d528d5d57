"""Pictures of the superpixels inside SPFormer: their edges, every head on its own and all heads merged.

Paper: SPFormer, Mei et al., arXiv 2401.02931, section 4.2.1 and figures 1, 4 and 5: a pixel belongs to the one of its 9
neighbours with the largest association.

Shapes: M superpixel cross attention modules (SCA), I iterations of each, A = heads + 1 associations, merged heads last,
(h, w) pixel features, (H, W) pixels of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor, nn

from mmvit_ext.engine.checkpoint_io import atomic_path
from mmvit_ext.engine.drawing import load_font, make_palette
from mmvit_ext.engine.errors import UserError
from mmvit_ext.engine.inference import Predictor
from mmvit_ext.interpret.inputs import network_inputs
from mmvit_ext.interpret.report import Explanation
from mmvit_ext.interpret.run import Explainer, check_cell
from mmvit_ext.models.backbones.spformer import SPFormer
from mmvit_ext.models.superpixels.maps import fine_association, hard_superpixels, with_merged_head

__all__ = [
    'Superpixels',
    'colour_superpixels',
    'draw_boundaries',
    'draw_means',
    'draw_montage',
    'draw_table',
    'enlarged',
    'explain_superpixels',
    'find_spformer',
    'superpixels_of',
    'superpixels_of_inputs',
]

CELL = 400
"""Longer edge of each picture of a montage in pixels."""

LEGEND = (
    'A line separates pixels whose largest association is with different superpixels. The merged association is the '
    'sum over the heads before the softmax. The last column has the last superpixels in the mean colour of their '
    'pixels.'
)
"""How the montages are read."""

LEAST_EDGE = 480
"""Longer edge in pixels below which a picture of its own is enlarged, so that lines leave something to see."""

LINE, HALO = (255, 230, 0), (0, 0, 0)
"""Edges of superpixels: a bright line between dark ones can be seen on any image."""

FINEST = 1 << 21
"""Pixels up to which associations are computed one by one; larger maps repeat them, as memory is not without end."""

_COLOURS = 4
"""Superpixels as many cells apart never touch, so a square of this edge of colours keeps neighbours apart."""


@dataclass(frozen=True)
class Superpixels:
    """Superpixels of an image, of every SCA module, iteration and head.

    Args:
        image: The image (H, W, 3), RGB.
        similarity: Similarities (M, I, heads, 9, h, w), as ``SPFormer.run`` gives them.
        cell_size: Edge of a superpixel's cell in pixel features.
        pixel_stride: Stride of the pixel features in pixels of the network's input.
        input_size: Height and width of the image in the network's input, padding not counted.
    """

    image: np.ndarray
    similarity: Tensor
    cell_size: int
    pixel_stride: int
    input_size: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the superpixels, those of the padding included."""
        h, w = (int(edge) for edge in self.similarity.shape[-2:])
        return -(-h // self.cell_size), -(-w // self.cell_size)

    @property
    def steps(self) -> list[str]:
        """Name of each module and iteration, in the order in which they run, counted from 1."""
        modules, iterations = self.similarity.shape[:2]
        return [f'SCA {m}, iteration {i}' for m in range(1, modules + 1) for i in range(1, iterations + 1)]

    @property
    def heads(self) -> list[str]:
        """Name of each association."""
        return [f'head {number}' for number in range(1, self.similarity.shape[2] + 1)] + ['merged']

    def labels(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """The superpixel of each pixel.

        Args:
            size: Height and width of the map; those of the image when not given.

        Returns:
            Index of the superpixel, row by row from 0 (M, I, A, H, W). Lines are as fine as the map, up to about two
            million pixels.
        """
        H, W = size or (self.image.shape[0], self.image.shape[1])
        (height, width), device = self.input_size, self.similarity.device
        times = min(max(-(-H // height), -(-W // width)), int((FINEST / (height * width)) ** 0.5))
        times = max(times, 1)
        rows = ((torch.arange(H, device=device) + 0.5) * (height * times / H)).long()
        columns = ((torch.arange(W, device=device) + 0.5) * (width * times / W)).long()
        factor = self.pixel_stride * times
        similarity = with_merged_head(self.similarity.flatten(0, 1)).flatten(0, 1)  # (M * I * A, 9, h, w)
        maps = []
        for one in similarity:  # all at once would take that many times the memory
            association = fine_association(one[None, None], self.cell_size, factor)
            found = hard_superpixels(association, self.cell_size, factor)[0, 0]  # (h * factor, w * factor)
            maps.append(found[rows[:, None], columns].to(torch.int32).cpu())
        modules, iterations = self.similarity.shape[:2]
        return torch.stack(maps).unflatten(0, (modules, iterations, -1)).numpy()


# What there is to show


def find_spformer(model: nn.Module, source: str | Path) -> SPFormer:
    """The part of a model that has superpixels.

    Args:
        model: A segmentor, detector or classifier.
        source: The config, for the message.

    Returns:
        Its backbone.

    Raises:
        UserError: The backbone is another one.
    """
    backbone = getattr(model, 'backbone', model)
    if not isinstance(backbone, SPFormer):
        raise UserError(
            f'{source} has the backbone {type(backbone).__name__} and no superpixels to show: expected a '
            'mmvit_ext.SPFormer, such as the configs in configs/spformer'
        )
    return backbone


@torch.no_grad()
def superpixels_of_inputs(
    backbone: SPFormer, inputs: Tensor, image: np.ndarray, input_size: tuple[int, int]
) -> Superpixels:
    """Superpixels of an image that is ready for the network.

    Args:
        backbone: The network; it is used as it is, in training or evaluation mode.
        inputs: Normalised image (1, 3, h, w), perhaps padded below and on the right.
        image: The image that is drawn on (H, W, 3), RGB, of any size.
        input_size: Height and width of the image in the inputs, padding not counted.

    Returns:
        The superpixels.

    Raises:
        UserError: The network computes no numbers.
    """
    history = backbone.run(inputs)[1]
    similarity = torch.stack([torch.stack(similarities) for similarities in history])[:, :, 0]
    if similarity.isnan().any():
        raise UserError(
            'the superpixels cannot be told, similarities are not a number (NaN): the training has diverged, take an '
            'earlier checkpoint or train with a lower learning rate'
        )
    return Superpixels(image, similarity, backbone.cell_size, backbone.pixel_stride, input_size)


def superpixels_of(predictor: Predictor, path: str | Path, source: str | Path) -> Superpixels:
    """Superpixels of an image file.

    Args:
        predictor: A model with an ``SPFormer``.
        path: The image file.
        source: The config, for the message.

    Returns:
        The superpixels over the image. Of a classifier, whose test pipeline cuts the image, over what is left of it.

    Raises:
        UserError: The file cannot be read, or the model has no superpixels.
    """
    backbone = find_spformer(predictor.model, source)
    image, inputs, input_size = network_inputs(predictor, path)
    return superpixels_of_inputs(backbone, inputs, image, input_size)


# Pictures


def _edges(labels: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour belongs to another superpixel."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def draw_boundaries(image: np.ndarray, labels: np.ndarray, *, width: int = 1) -> Image.Image:
    """Draw the edges between superpixels over an image.

    Args:
        image: RGB picture (H, W, 3), 0 to 255.
        labels: Superpixel of each pixel (H, W).
        width: Of the bright line in pixels; a dark one of a pixel lies on each of its sides.

    Returns:
        The picture, of the same size.

    Raises:
        ValueError: Sizes differ.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f'image and labels must have the same size, got {image.shape[:2]} and {labels.shape}')
    picture = Image.fromarray(image)
    edges = Image.fromarray(_edges(labels).astype(np.uint8) * 255)
    line = edges.filter(ImageFilter.MaxFilter(2 * (width // 2) + 1))
    picture.paste(HALO, mask=line.filter(ImageFilter.MaxFilter(3)).point([0] * 255 + [150]))
    picture.paste(LINE, mask=line)
    return picture


def draw_means(image: np.ndarray, labels: np.ndarray) -> Image.Image:
    """Paint every superpixel in the mean colour of its pixels.

    Args:
        image: RGB picture (H, W, 3), 0 to 255.
        labels: Superpixel of each pixel (H, W).

    Returns:
        The picture: what is left of the image when only superpixels are seen.
    """
    flat = labels.ravel()
    count = np.maximum(np.bincount(flat), 1)
    means = np.stack([np.bincount(flat, image[..., channel].ravel()) / count for channel in range(3)], -1)
    return Image.fromarray(np.rint(means[labels]).astype(np.uint8))


def colour_superpixels(labels: np.ndarray, columns: int) -> Image.Image:
    """Paint superpixels in colours in which neighbours differ.

    Args:
        labels: Superpixel of each pixel (H, W).
        columns: Columns of the grid of superpixels.

    Returns:
        The picture. A colour comes back every fourth superpixel of a row or column.
    """
    # Hues of consecutive colours lie far apart, those of consecutive rows too with an odd step.
    colours = np.array(make_palette(_COLOURS**2), dtype=np.uint8)
    rows, columns_of = labels // columns, labels % columns
    return Image.fromarray(colours[rows % _COLOURS * _COLOURS + columns_of % _COLOURS])


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


def enlarged(found: Superpixels, least: int = LEAST_EDGE) -> tuple[np.ndarray, np.ndarray]:
    """An image and its label maps, made larger by a whole number where the image is small.

    Args:
        found: The superpixels.
        least: Longer edge in pixels that the picture shall have at least.

    Returns:
        RGB picture (H, W, 3) and superpixel of each of its pixels (M, I, A, H, W).
    """
    H, W = found.image.shape[:2]
    times = -(-least // max(H, W))
    picture = np.array(Image.fromarray(found.image).resize((W * times, H * times), Image.Resampling.BICUBIC))
    return picture, found.labels((H * times, W * times))


def draw_montage(found: Superpixels, *, edge: int = CELL, title: str = '') -> Image.Image:
    """Superpixels side by side: a row per head and one for all merged, a column per SCA module and iteration.

    Args:
        found: The superpixels.
        edge: Longer edge of each picture in pixels.
        title: Stands in front of the line below.

    Returns:
        The montage. The last column has the last iteration's superpixels in the mean colour of their pixels.
    """
    H, W = found.image.shape[:2]
    cell = (max(1, round(W * edge / max(H, W))), max(1, round(H * edge / max(H, W))))
    image = Image.fromarray(found.image).resize(cell, Image.Resampling.BICUBIC)
    pixels = np.array(image)
    labels = found.labels((cell[1], cell[0]))  # (M, I, A, H, W)
    steps = labels.reshape(-1, *labels.shape[2:])
    rows = []
    for head, name in enumerate(found.heads):
        drawn: list[Image.Image] = [draw_boundaries(pixels, step[head]) for step in steps]
        rows.append((name, [image, *drawn, draw_means(pixels, steps[-1][head])]))
    sh, sw = found.grid
    footer = f'{title}{": " if title else ""}{sh} x {sw} superpixels, lines between the largest associations'
    return draw_table(rows, ['image', *found.steps, 'mean colours, last'], cell, footer)


# Explaining images


def explain_superpixels(
    predictor: Predictor,
    folder: Path,
    source: str | Path,
    *,
    montage_only: bool = False,
    edge: int = CELL,
) -> Explainer:
    """The superpixels of each image as pictures and label maps.

    Args:
        predictor: A model whose backbone is an ``SPFormer``.
        folder: Of the results: ``NAME.png``, the montage; for each SCA module, iteration and head
            ``NAME/STEP_boundaries.png`` and ``STEP_labels.png``; all label maps in ``NAME.npy``.
        source: The config, for messages.
        montage_only: Whether to write the montages alone.
        edge: Longer edge of each picture of a montage, 16 to 4096 pixels.

    Returns:
        What explains an image.

    Raises:
        UserError: An argument is out of range, or the model has no superpixels.
    """
    check_cell(edge)
    find_spformer(predictor.model, source)

    def explain(path: Path, name: str) -> Explanation:
        found = superpixels_of(predictor, path, source)
        montage, array = folder / f'{name}.png', folder / f'{name}.npy'
        facts: dict[str, Any] = {'grid of superpixels': ' x '.join(map(str, found.grid))}
        if not montage_only:
            labels = _save_maps(found, folder / name, array)
            facts['superpixels that have pixels'] = [
                {'step': step, **{head: len(np.unique(own)) for head, own in zip(found.heads, maps, strict=True)}}
                for step, maps in zip(found.steps, labels.reshape(-1, *labels.shape[2:]), strict=True)
            ]
        with atomic_path(montage) as file:
            draw_montage(found, edge=edge).save(file)
        caption = 'a row per head and one for all merged, a column per module and iteration'
        return Explanation([(caption, montage)], facts, () if montage_only else (array,))

    return Explainer('Superpixels', LEGEND, explain)


def _save_maps(found: Superpixels, folder: Path, array: Path) -> np.ndarray:
    """Write single pictures and label maps; returns the label maps."""
    picture, fine = enlarged(found)
    width = 3 if max(picture.shape) >= 2 * LEAST_EDGE else 1
    for module, iteration, head in np.ndindex(fine.shape[:3]):
        name = f'sca{module + 1}-iteration{iteration + 1}-{found.heads[head].replace(" ", "")}'
        shown = fine[module, iteration, head]
        for kind, drawn in (
            ('boundaries', draw_boundaries(picture, shown, width=width)),
            ('labels', colour_superpixels(shown, found.grid[1])),
        ):
            with atomic_path(folder / f'{name}_{kind}.png') as file:
                drawn.save(file)
    labels = fine if picture.shape == found.image.shape else found.labels()
    with atomic_path(array) as file:
        np.save(file, labels)
    return labels
