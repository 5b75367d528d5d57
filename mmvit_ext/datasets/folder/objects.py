"""What the readers of object annotations share: shapes, the result, and boxes that lie in their image."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .data import LEFT_OUT, Object, Report
from .index import Index

__all__ = ['ANY_SIZE', 'Found', 'Objects', 'Shape', 'found_shapes']

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
    lists: str = 'main'  # of several sets of lists, the folder of the one to use
    empty_without: bool = False  # whether an image without annotation is one without objects

    def settle_masks(self, report: Report) -> None:
        """Take the masks where most objects have one, and the boxes of all otherwise."""
        total = sum(map(len, self.objects.values()))
        without = sum(item.mask is None for items in self.objects.values() for item in items)
        self.masks = without < LEFT_OUT * total
        if self.masks and without:
            report.doubts.append(
                f'left out {without} of {total} objects without mask: pass --task det to train on all boxes'
            )
            self.objects = {image: [item for item in items if item.mask] for image, items in self.objects.items()}
        elif not self.masks and without < total:
            report.doubts.append(f'{without} of {total} objects are boxes and the others polygons: all are boxes then')


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


@dataclass(frozen=True)
class Shape:
    """The corners of a polygon, or two of a box."""

    name: str
    points: Sequence[tuple[float, float]]  # none where the entry is wrong
    where: str
    hard: bool = False
    shares: bool = False  # whether the points are parts of the image's width and height


def found_shapes(
    index: Index, layout: str, shapes: Mapping[str, Iterable[Shape]], report: Report, classes: Sequence[str] = ()
) -> Found | None:
    """The objects of images; classes that are not given are those of the shapes, sorted."""
    if not shapes:
        return None
    shapes = {picture: list(items) for picture, items in shapes.items()}
    classes = tuple(classes or sorted({shape.name for items in shapes.values() for shape in items}))
    headers, taken = index.headers(list(shapes)), Objects()
    found = Found(layout, classes, {picture: [] for picture in shapes})
    for picture, items in shapes.items():
        size = ANY_SIZE if headers[picture].problem else headers[picture].size
        for shape in items:
            if not shape.points:
                taken.refuse(shape.where)
                continue
            width, height = (size[1], size[0]) if shape.shares else (1, 1)
            points = [(x * width, y * height) for x, y in shape.points]
            xs, ys = zip(*points, strict=True)
            mask = [[value for point in points for value in point]] if len(points) > 2 else None
            edges, label = (min(xs), min(ys), max(xs), max(ys)), classes.index(shape.name)
            found.objects[picture] += taken.take(label, edges, size, shape.where, mask=mask, crowd=shape.hard)
    taken.tell(report)
    found.settle_masks(report)
    hard = sum(shape.hard for items in shapes.values() for shape in items)
    if hard:
        report.notes.append(f'{hard} objects marked as difficult are neither trained nor scored on')
    return replace(found, layout=f'{layout} with {"polygons" if found.masks else "boxes"}')
