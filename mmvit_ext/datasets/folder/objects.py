"""What the readers of object annotations share: the result, and boxes that lie in their image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .data import Object, Report

__all__ = ['ANY_SIZE', 'Found', 'Objects']

ANY_SIZE = (10**6, 10**6)
"""Of an image that cannot be opened and is left out later."""


@dataclass
class Found:
    """Objects by image, and what was found on the way."""

    layout: str
    classes: tuple[str, ...]
    objects: dict[str, list[Object]]
    splits: dict[str, str] = field(default_factory=dict)  # of images, where the annotation file says it
    masks: bool = False
    json_files: dict[str, tuple[str, str]] = field(default_factory=dict)  # by split: COCO files that serve as they are
    empty_without: bool = False  # whether an image without annotation is one without objects


class Objects:
    """Takes objects whose boxes have an area in their image, and remembers where the others are."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.total = 0

    def refuse(self, where: str) -> None:
        """Remember the place of an object that cannot be used."""
        self.total += 1
        self.wrong.append(where)

    def take(self, label: int, edges: Sequence[float], size: tuple[int, int], where: str, **more: Any) -> list[Object]:
        """The object with its box cut at the image's edges, in a list; an empty list for one without area."""
        if all(math.isfinite(edge) and abs(edge) < 1e9 for edge in edges):
            left, right = (min(max(float(edge), 0.0), float(size[1])) for edge in edges[::2])
            top, bottom = (min(max(float(edge), 0.0), float(size[0])) for edge in edges[1::2])
            if right > left and bottom > top:
                self.total += 1
                return [Object(label, (left, top, right - left, bottom - top), **more)]
        self.refuse(where)
        return []

    def tell(self, report: Report) -> None:
        """Say which objects are left out."""
        report.leave_out(self.wrong, self.total, 'objects that are no box in their image', 'correct these entries')
