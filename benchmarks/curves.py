"""Curves of several seeds, as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt


@dataclass(frozen=True)
class Curve:
    """What one model reached.

    Args:
        name: of the model.
        places: on the horizontal axis.
        values: at each place, one of each seed.
    """

    name: str
    places: Sequence[float]
    values: Sequence[Sequence[float]]


def draw_curves(path: Path, panels: Sequence[tuple[str, str, str, Sequence[Curve]]], *, scale: str = 'linear') -> Path:
    """Draw panels side by side: the mean of the seeds as a line, every seed as a dot.

    Args:
        path: the picture to write.
        panels: title, horizontal axis, vertical axis and curves of each.
        scale: of the vertical axis, 'linear' or 'log'.

    Returns:
        The path.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 3.8), squeeze=False, layout='constrained')
    for axis, (title, horizontal, vertical, curves) in zip(axes[0], panels, strict=True):
        for number, curve in enumerate(curves):
            color = f'C{number}'
            means = [statistics.mean(values) for values in curve.values]
            axis.plot(curve.places, means, color=color, label=curve.name)
            for place, values in zip(curve.places, curve.values, strict=True):
                axis.plot([place] * len(values), values, '.', color=color, alpha=0.5)
        axis.set(title=title, xlabel=horizontal, ylabel=vertical, yscale=scale)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
