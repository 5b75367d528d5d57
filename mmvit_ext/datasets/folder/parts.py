"""Masks of one class or one object each: merged or drawn into one map for each image, or taken as objects."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import open_image

from ..label_values import pack_colours
from ..seg_transforms import LoadSegAnnotations
from .data import Object, Report, Sample, shown, size_text
from .index import Index, in_threads
from .objects import Found
from .values import MaskClasses, voc_colour
from .words import is_known

__all__ = ['ClassMaps', 'class_names_of', 'draw_objects', 'merge_parts', 'merged_classes', 'objects_of_masks']

Several = Mapping[str, Sequence[str]]
"""The masks of each photograph."""

_MOST_OBJECTS, _OBJECT = 2000, 'object'
_BETWEEN = 0.1
"""Share of pixels neither dark nor bright above which a mask is not one of a single class."""


def class_names_of(several: Several, *, always: bool = False) -> dict[str, str] | None:
    """The class of each mask: what its path says beyond that of its photograph, where that is said again and again.

    None where a file stands for each object; ``always`` takes several files of a class of one image, too.
    """
    words = {mask: _words(mask) for masks in several.values() for mask in masks}
    everywhere = set.intersection(*map(set, words.values()))
    names: dict[str, str] = {}
    for photo, masks in several.items():
        known = {*everywhere, *_words(photo)}
        for mask in masks:
            left = [word for word in words[mask] if word not in known and not is_known(word) and not word.isdigit()]
            names[mask] = '_'.join(left)
    counts = Counter(names.values())
    once = all(len({names[mask] for mask in masks}) == len(masks) for masks in several.values())
    recurring = '' not in counts and 2 * len(counts) <= len(names)
    return names if recurring and (once or always) else None


def _words(path: str) -> list[str]:
    return [word for word in re.split(r'[\W_]+', str(PurePosixPath(path).with_suffix(''))) if word]


def _area(path: Path) -> np.ndarray:
    """Where a mask (H, W) is bright; one of more than two values is refused."""
    with open_image(path, 'mask') as image:
        values = np.array(image.convert('L')).astype(float)
    top = max(values.max(), 1)
    if ((values > 0.25 * top) & (values < 0.75 * top)).mean() > _BETWEEN:
        raise UserError(
            f'{path} is one of several masks of its image and holds more than two values: leave one mask for each '
            'image in the folder, or save one of two values for each class or object'
        )
    return values > top / 2


def merged_classes(several: Several, report: Report) -> tuple[MaskClasses, dict[str, tuple[tuple[int, str], ...]]]:
    """The classes, background first, and for each photograph its masks with their classes' indices."""
    names = class_names_of(several, always=True) or {mask: _OBJECT for masks in several.values() for mask in masks}
    classes = tuple(dict.fromkeys(('background', *sorted(set(names.values())))))
    parts = {
        photo: tuple(sorted((classes.index(names[mask]), mask) for mask in masks)) for photo, masks in several.items()
    }
    report.doubts.append(
        f'images have a mask for each class, which are merged; the classes are called as the files are '
        f'({shown(classes[1:])}), and where they overlap the last of them counts'
    )
    found = {several[photo][0]: {0, *(label for label, _ in items)} for photo, items in parts.items()}
    colours = tuple(map(voc_colour, range(len(classes))))
    return MaskClasses(classes, colours, {'type': 'mmvit_ext.LoadSegAnnotations'}, 0, found), parts


def merge_parts(root: Path, sample: Sample) -> np.ndarray:
    """The class indices (H, W) of an image whose classes have a mask each."""
    labels = np.zeros(sample.size, np.uint8)
    for label, path in sample.parts:
        labels[_area(root / path)] = label
    return labels


def draw_objects(sample: Sample) -> np.ndarray:
    """The class indices (H, W) of an image with objects, 0 where there is none, of the smallest where several are.

    Crowds and difficult objects have no label, 255.
    """
    from pycocotools import mask as coco_masks  # comes with mmdet

    labels = np.zeros(sample.size, np.uint8)
    try:
        codes = [(255 if item.crowd else item.label, _encoded(item.mask, sample.size)) for item in sample.objects]
        drawn = [(int(coco_masks.area(code)), label, code) for label, code in codes if code is not None]
        for _, label, code in sorted(drawn, key=lambda item: -item[0]):
            labels[coco_masks.decode(code).astype(bool)] = label
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        reason = f'neither polygons nor run lengths of {size_text(sample.size)} pixels'
        raise UserError(f'a mask of {sample.image} is {reason} ({error}): export it again') from error
    return labels


def _encoded(mask: Any, size: tuple[int, int]) -> dict[str, Any] | None:
    """Compressed run lengths of a mask; None for polygons without area, which mmdet leaves out as well."""
    from pycocotools import mask as coco_masks  # comes with mmdet

    if isinstance(mask, list):
        mask = [polygon for polygon in mask if len(polygon) >= 6 and len(polygon) % 2 == 0]
        return coco_masks.merge(coco_masks.frPyObjects(mask, *size)) if mask else None
    return coco_masks.frPyObjects(mask, *size) if isinstance(mask['counts'], list) else mask


class ClassMaps:
    """Masks of classes beside masks that number objects: PASCAL VOC's SegmentationClass and SegmentationObject."""

    def __init__(self, root: Path, masks: Mapping[str, str], found: MaskClasses) -> None:
        self.root, self.masks = root, masks
        self.labels = [number for number in range(len(found.names)) if number != found.background]
        self.classes = tuple(found.names[number] for number in self.labels)
        self.loader = LoadSegAnnotations(**{name: value for name, value in found.step.items() if name != 'type'})

    def labels_of(self, photo: str, areas: Sequence[np.ndarray]) -> list[int | None]:
        """The class that most of an object's pixels have; None where none has one."""
        labels = self.loader.to_classes(self.loader.decode(str(self.root / self.masks[photo])), {})
        found: list[int | None] = []
        for area in areas:
            counts = np.bincount(labels[area], minlength=256)[self.labels] if labels.shape == area.shape else [0]
            found.append(int(np.argmax(counts)) if max(counts) else None)
        return found


def objects_of_masks(
    index: Index, several: Several, report: Report, *, numbered: bool, kinds: ClassMaps | None = None
) -> Found:
    """Objects with run lengths from a mask for each of them, or ``numbered`` by the values of one mask."""
    names = {} if numbered else class_names_of(several, always=True) or {}
    classes = kinds.classes if kinds else tuple(sorted(set(names.values()))) or (_OBJECT,)
    broken: list[str] = []

    def read(photo: str) -> list[Object]:
        objects: list[Object] = []
        for mask in several[photo]:
            label = classes.index(names.get(mask, classes[0]))
            header = index.headers([mask])[mask]
            if header.problem or header.size != index.headers([photo])[photo].size:
                broken.append(f'{mask} ({header.problem or "not of the size of its image"})')
                continue
            areas = _numbered(index.root / mask) if numbered else [_area(index.root / mask)]
            areas = [area for area in areas if area.any()]
            labels = kinds.labels_of(photo, areas) if kinds else [label] * len(areas)
            if lost := sum(kind is None for kind in labels):
                broken.append(f'{mask} ({lost} objects without a class in {kinds and kinds.masks[photo]})')
            objects += [_object(kind, area) for kind, area in zip(labels, areas, strict=True) if kind is not None]
        return objects

    index.headers([path for photo, masks in several.items() for path in (photo, *masks)])
    found = dict(zip(several, in_threads(read, several), strict=True))
    report.leave_out(sorted(broken), sum(map(len, several.values())), 'masks cannot be used', 'replace them')
    how = 'each value of a mask but 0' if numbered else 'each mask'
    report.doubts.append(f'{how} is taken as one object; classes: {shown(classes)}')
    layout = f'photographs with {"masks that number objects" if numbered else "a mask for each object"}'
    layout += ' and masks of their classes' if kinds else ''
    return Found(layout, classes, found, masks=True, lists='segmentation' if kinds else 'main')


def _numbered(path: Path) -> list[np.ndarray]:
    with open_image(path, 'mask') as image:
        values = np.array(
            image if image.mode in ('1', 'L', 'P', 'I', 'F') or 'I;' in image.mode else image.convert('RGB')
        )
    values = pack_colours(values) if values.ndim == 3 else values
    numbers = [value for value in np.unique(values) if value]
    if len(numbers) > _MOST_OBJECTS:
        raise UserError(f'{path} holds {len(numbers)} different values, which are no numbers of objects: replace it')
    if len(numbers) > 1 and values.dtype == np.uint8 and numbers[-1] == 255:  # no label, as in PASCAL VOC
        numbers.pop()
    return [values == value for value in numbers]


def _object(label: int, area: np.ndarray) -> Object:
    from pycocotools import mask as coco_masks  # comes with mmdet

    code = coco_masks.encode(np.asfortranarray(area, np.uint8))
    left, top, width, height = coco_masks.toBbox(code).tolist()
    mask = {'size': [int(edge) for edge in code['size']], 'counts': code['counts'].decode()}
    return Object(label, (left, top, width, height), mask, float(coco_masks.area(code)))
