"""What the readers of object annotations share: shapes, the result, and boxes that lie in their image."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmvit_ext.errors.user_error import UserError

from .data import LEFT_OUT, Object, Report, shown
from .index import Index

__all__ = ['Found', 'Shape', 'found_shapes']

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


@dataclass(frozen=True)
class Shape:
    """The corners of a polygon, or two of a box."""

    name: str
    points: Sequence[tuple[float, float]]  # none where the entry is wrong
    where: str
    hard: bool = False
    shares: bool = False  # whether the points are parts of the image's width and height
    mask: Any = None  # of the COCO format, beside the corners of a box
    area: float | None = None


def found_shapes(
    index: Index,
    layout: str,
    shapes: Mapping[str, Iterable[Shape]],
    report: Report,
    classes: Sequence[str] = (),
    splits: Mapping[str, str | None] = {},
) -> Found | None:
    """The objects of images; classes that are not given are those of the shapes, sorted."""
    if not shapes:
        return None
    listed = {picture: list(items) for picture, items in shapes.items()}
    classes = tuple(classes or sorted({shape.name for items in listed.values() for shape in items}))
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise UserError(f'the class names have {shown(twice)} more than once: give each class a name of its own')
    headers, order, wrong = index.headers(list(listed)), {name: label for label, name in enumerate(classes)}, []
    found = Found(layout, classes, {picture: [] for picture in listed})
    found.splits = {picture: split for picture, split in splits.items() if split}
    for picture, items in listed.items():
        size = ANY_SIZE if headers[picture].problem else headers[picture].size
        for shape in items:
            width, height = (size[1], size[0]) if shape.shares else (1, 1)
            points = [(x * width, y * height) for x, y in shape.points]
            if box := _box_within(points, size):
                mask = [[value for point in points for value in point]] if len(points) > 2 else shape.mask
                found.objects[picture].append(Object(order[shape.name], box, mask, shape.area, shape.hard))
            else:
                wrong.append(shape.where)
    total = sum(map(len, listed.values()))
    report.leave_out(wrong, total, 'objects that are no box in their image', 'correct these entries')
    found.settle_masks(report)
    hard = sum(shape.hard for items in listed.values() for shape in items)
    if hard:
        report.notes.append(f'{hard} objects marked as difficult or as crowds are neither trained nor scored on')
    return replace(found, layout=f'{layout} with {"polygons" if found.masks else "boxes"}')


def _box_within(
    points: Sequence[tuple[float, float]], size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """Left, top, width and height around points, cut at the image's edges; None for what has no area there."""
    if not points or not all(math.isfinite(edge) and abs(edge) < 1e9 for point in points for edge in point):
        return None
    (left, right), (top, bottom) = (
        [min(max(float(edge), 0.0), float(length)) for edge in (min(along), max(along))]
        for along, length in zip(zip(*points, strict=True), size[::-1], strict=True)
    )
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None
