"""Pictures of the superpixels inside SPFormer: their edges, every head on its own and all heads merged.

Paper: SPFormer, Mei et al., arXiv 2401.02931, section 4.2.1 and figures 1, 4 and 5.

Shapes: M superpixel cross attention modules (SCA), I iterations of each, A = heads + 1 associations, merged heads last,
(h, w) pixel features, (H, W) pixels of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path
from mmvit_ext.inference.drawing import make_palette
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.inference.sheets import draw_table, fit_edge, write_picture
from mmvit_ext.models.superpixels.grid import fine_association, grid_of, hard_superpixels, with_merged_head

from .explain import Explainer, check_cell
from .inputs import OpenedImage
from .report import Explanation

__all__ = ['Superpixels', 'draw_montage', 'explain_superpixels', 'find_superpixels', 'superpixels_of']

CELL = 400  # longer edge of each picture of a montage in pixels
LEGEND = (
    'A line separates pixels whose largest association is with different superpixels. The merged association is the '
    'sum over the heads before the softmax. The last column has the last superpixels in the mean colour of their '
    'pixels.'
)

LEAST_EDGE = 480  # longer edge below which a picture of its own is enlarged, so that lines leave something to see
LINE, HALO = (255, 230, 0), (0, 0, 0)  # edges of superpixels: a bright line between dark ones can be seen on any image
FINEST = 1 << 21  # pixels up to which associations are computed one by one; larger maps repeat them, to save memory
_COLOURS = 4  # superpixels as many cells apart never touch, so a square of this edge of colours keeps neighbours apart


@dataclass(frozen=True)
class Superpixels:
    """Superpixels of an image, of every SCA module, iteration and head."""

    image: np.ndarray  # RGB (H, W, 3)
    similarity: Tensor  # (M, I, heads, 9, h, w), as ``SPFormer.run`` gives it
    cell_size: int  # edge of a superpixel's cell in pixel features
    pixel_stride: int  # of the pixel features in pixels of the network's input
    input_size: tuple[int, int]  # height and width of the image in the network's input, without padding

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the superpixels, those of the padding included."""
        return grid_of(self.similarity, self.cell_size)

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
        """The superpixel of each pixel (M, I, A, H, W), row by row from 0, by default at the size of the image."""
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


def find_superpixels(model: nn.Module, source: str | Path) -> Any:
    """The backbone of a model, or the model itself, that has superpixels; ``source`` is the config."""
    backbone = getattr(model, 'backbone', model)
    if not hasattr(backbone, 'cell_size'):
        wanted = 'expected a mmvit_ext.SPFormer, as in configs/spformer'
        raise UserError(f'{source} has the backbone {type(backbone).__name__} and no superpixels to show: {wanted}')
    return backbone


@torch.no_grad()
def superpixels_of_inputs(backbone: Any, inputs: Tensor, image: np.ndarray, input_size: tuple[int, int]) -> Superpixels:
    """Superpixels of normalised ``inputs`` (1, 3, h, w), padded beyond ``input_size``, over an RGB image (H, W, 3)."""
    history = backbone.run(inputs)[1]
    similarity = torch.stack([torch.stack(similarities) for similarities in history])[:, :, 0]
    if similarity.isnan().any():
        raise UserError('the superpixels cannot be determined (NaN): training diverged, take an earlier checkpoint')
    return Superpixels(image, similarity, backbone.cell_size, backbone.pixel_stride, input_size)


def superpixels_of(opened: OpenedImage, source: str | Path) -> Superpixels:
    """Superpixels over an image; of a classifier, whose test pipeline cuts the image, over what is left of it."""
    backbone = find_superpixels(opened.predictor.model, source)
    return superpixels_of_inputs(backbone, opened.inputs, opened.picture, opened.input_size)


def draw_boundaries(image: np.ndarray, labels: np.ndarray, *, width: int = 1) -> Image.Image:
    """Draw the edges between superpixels, the ``labels`` of pixels (H, W), over an RGB picture (H, W, 3)."""
    if image.shape[:2] != labels.shape:
        raise ValueError(f'image and labels must have the same size, got {image.shape[:2]} and {labels.shape}')
    # Pixels whose right or lower neighbour belongs to another superpixel.
    edges = np.zeros(labels.shape, dtype=np.uint8)
    edges[:, :-1][labels[:, :-1] != labels[:, 1:]] = 255
    edges[:-1][labels[:-1] != labels[1:]] = 255
    picture = Image.fromarray(image)
    line = Image.fromarray(edges).filter(ImageFilter.MaxFilter(2 * (width // 2) + 1))
    picture.paste(HALO, mask=line.filter(ImageFilter.MaxFilter(3)).point([0] * 255 + [150]))
    picture.paste(LINE, mask=line)
    return picture


def draw_means(image: np.ndarray, labels: np.ndarray) -> Image.Image:
    """Paint every superpixel of an RGB picture in the mean colour of its pixels, whose superpixels are ``labels``."""
    flat = labels.ravel()
    count = np.maximum(np.bincount(flat), 1)
    means = np.stack([np.bincount(flat, image[..., channel].ravel()) / count for channel in range(3)], -1)
    return Image.fromarray(np.rint(means[labels]).astype(np.uint8))


def colour_superpixels(labels: np.ndarray, columns: int) -> Image.Image:
    """Paint superpixels, ``columns`` in a row of their grid; a colour comes back every fourth row or column."""
    # Hues of consecutive colours lie far apart, those of consecutive rows too with an odd step.
    colours = np.array(make_palette(_COLOURS**2), dtype=np.uint8)
    rows, columns_of = labels // columns, labels % columns
    return Image.fromarray(colours[rows % _COLOURS * _COLOURS + columns_of % _COLOURS])


def enlarged(found: Superpixels, least: int = LEAST_EDGE) -> tuple[np.ndarray, np.ndarray]:
    """An image, made larger by a whole number until its longer edge has ``least`` pixels, and its label maps."""
    H, W = found.image.shape[:2]
    times = -(-least // max(H, W))
    picture = np.array(Image.fromarray(found.image).resize((W * times, H * times), Image.Resampling.BICUBIC))
    return picture, found.labels((H * times, W * times))


def draw_montage(found: Superpixels, *, edge: int = CELL, title: str = '') -> Image.Image:
    """Superpixels side by side: a row per head and one for all merged, a column per SCA module and iteration."""
    cell = fit_edge(found.image.shape, edge)
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


def explain_superpixels(
    predictor: Predictor, folder: Path, source: str | Path, *, montage_only: bool = False, edge: int = CELL
) -> Explainer:
    """The superpixels of each image: the montage ``NAME.png`` and, unless ``montage_only``, pictures and label maps."""
    check_cell(edge)
    find_superpixels(predictor.model, source)

    def explain(opened: OpenedImage, name: str) -> Explanation:
        found = superpixels_of(opened, source)
        array = folder / f'{name}.npy'
        facts: dict[str, Any] = {'grid of superpixels': ' x '.join(map(str, found.grid))}
        if not montage_only:
            labels = _save_maps(found, folder / name, array)
            facts['superpixels that have pixels'] = [
                {'step': step, **{head: len(np.unique(own)) for head, own in zip(found.heads, maps, strict=True)}}
                for step, maps in zip(found.steps, labels.reshape(-1, *labels.shape[2:]), strict=True)
            ]
        montage = write_picture(draw_montage(found, edge=edge), folder / f'{name}.png')
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
        write_picture(draw_boundaries(picture, shown, width=width), folder / f'{name}_boundaries.png')
        write_picture(colour_superpixels(shown, found.grid[1]), folder / f'{name}_labels.png')
    labels = fine if picture.shape == found.image.shape else found.labels()
    with atomic_path(array) as file:
        np.save(file, labels)
    return labels
