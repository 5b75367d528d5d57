"""Where the patches of all images lie in the space of features: t-SNE plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmvit_ext.inference.drawing import make_palette

__all__ = ['COLOURINGS', 'FEWEST', 'Patches', 'draw_planes', 'embed_in_plane']

PERPLEXITY = 30.0  # about the neighbours that t-SNE keeps a patch near to; fewer of fewer than three times as many
FEWEST = 8  # with fewer patches than this there is nothing to arrange
NAMED = 12  # colours up to which a plot has a legend
COLOURINGS = ('image', 'place', 'class')  # what colours can stand for, the last one for the predicted class


@dataclass
class Patches:
    """Patches of several images after one block, a list entry for each image."""

    features: list[np.ndarray] = field(default_factory=list)  # (n, C)
    places: list[np.ndarray] = field(default_factory=list)  # row and column as shares of the height and width (n, 2)
    images: list[np.ndarray] = field(default_factory=list)  # number of the image (n)
    classes: list[np.ndarray] = field(default_factory=list)  # predicted class (n), where colours stand for it
    similarities: list[float] = field(default_factory=list)  # mean cosine similarity of all tokens of the image


def embed_in_plane(features: np.ndarray, seed: int) -> tuple[np.ndarray, float, float]:
    """Arrange features (N, C) by t-SNE (JMLR 2008): places (N, 2), perplexity and divergence that is left."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    # Distances hardly change, and what comes after costs a fraction.
    components = min(50, *features.shape)
    reduced = PCA(components, svd_solver='full').fit_transform(features)
    found = TSNE(perplexity=perplexity, init='pca', learning_rate='auto', random_state=seed)
    return found.fit_transform(reduced), perplexity, float(found.kl_divergence_)


def draw_planes(
    rows: Sequence[Sequence[tuple[str, Patches, np.ndarray]]],
    colouring: str,
    names: Sequence[str],
    classes: Sequence[str],
    file: Path,
) -> None:
    """Plot arranged patches to a file: for each model its plots, each of heading, patches and places (N, 2)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(3.6 * columns, 3.6 * len(rows) + 0.6), dpi=130, layout='constrained')
    FigureCanvasAgg(figure)  # without pyplot, which looks for a screen
    axes = figure.subplots(len(rows), columns, squeeze=False)
    texts = {'image': names, 'place': (), 'class': classes}[colouring]
    groups = sorted(
        {int(group) for row in rows for _, patches, _ in row for group in np.unique(_groups(patches, colouring))}
    )
    # Of the groups that there are, as neighbours among all classes may have nearly the same colour.
    palette = {group: np.array(colour) / 255 for group, colour in zip(groups, make_palette(len(groups)), strict=True)}
    for line, row in zip(axes, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, (heading, patches, plane) in zip(line, row, strict=False):
            if colouring == 'place':
                down, right = np.concatenate(patches.places).T
                colours = np.stack([down, 0.5 * (1 - down) + 0.5 * right, 1 - right], 1)
            else:
                colours = np.array([palette[int(group)] for group in _groups(patches, colouring)])
            axis.scatter(*plane.T, c=colours, s=9, linewidths=0)
            axis.set_title(heading, fontsize=9)
            axis.set_aspect('equal', adjustable='datalim')
    if 0 < len(groups) <= NAMED:
        marks = [axes[0, 0].scatter([], [], color=palette[group], s=20, label=texts[group]) for group in groups]
        figure.legend(handles=marks, loc='outside lower center', ncols=min(len(marks), 2 * columns), fontsize=8)
    figure.savefig(file)


def _groups(patches: Patches, colouring: str) -> np.ndarray:
    chosen = {'image': patches.images, 'class': patches.classes}.get(colouring)
    return np.concatenate(chosen) if chosen else np.array([], int)
