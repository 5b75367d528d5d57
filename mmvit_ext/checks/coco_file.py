"""What is wrong in an annotation file of the COCO format: entries that refer to nothing, and boxes that are none."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmvit_ext.errors.user_error import UserError

__all__ = ['CocoFile', 'box_problem', 'read_coco_file']

_BOX_TOLERANCE = 1.0  # pixels; annotation tools round


@dataclass
class CocoFile:
    """What an annotation file holds.

    Args:
        images: Path of each image and its (height, width), ``None`` where the file does not state a size.
        classes: Names of the classes of the dataset.
        objects: Number of objects by name of the category.
        without_objects: Number of images that have no objects.
    """

    images: list[tuple[str, tuple[int, int] | None]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    objects: Counter[str] = field(default_factory=Counter)
    without_objects: int = 0


def box_problem(box: Any, width: float, height: float) -> str | None:
    """What is wrong with a box.

    Args:
        box: Left edge, upper edge, width and height in pixels, as COCO has them.
        width: Of the image, in pixels.
        height: Of the image, in pixels.

    Returns:
        A phrase, ``None`` for a box within the image (up to a pixel of rounding).
    """
    if not isinstance(box, list | tuple) or len(box) != 4:
        return 'is no list of four numbers'
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in box):
        return 'has values that are no numbers'
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return 'has no area'
    if min(x, y) < -_BOX_TOLERANCE or x + w > width + _BOX_TOLERANCE or y + h > height + _BOX_TOLERANCE:
        return f'reaches out of the image of {width:g}x{height:g} pixels'
    return None


def read_coco_file(
    path: str, folder: str, classes: Sequence[str] | None, report: Callable[[str, str, str], None]
) -> CocoFile:
    """Read an annotation file and report what is wrong in it.

    Args:
        path: The annotation file.
        folder: The folder of the images.
        classes: The classes of the dataset; all categories of the file by default.
        report: Takes the path to repair, the kind of fault ('annotation' or 'box') and a sentence.

    Returns:
        What the file holds.

    Raises:
        UserError: It cannot be read or is of another format.
    """
    content = _read(path)
    found = CocoFile()
    images: dict[Any, tuple[str, float, float]] = {}
    for image in content['images']:
        name, size = image.get('file_name'), (image.get('height'), image.get('width'))
        if not isinstance(name, str) or image.get('id') is None:
            report(path, 'annotation', f'{path}: the image {image.get("id")} has no id or no file_name')
            continue
        file = os.path.join(folder, name)
        if _key(image['id']) in images:
            report(file, 'annotation', f'{path}: two images have the id {image["id"]}, {file} is the second')
            continue
        sized = all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in size)
        if not sized:
            report(file, 'annotation', f'{path}: the image {file} has no width and height')
        images[_key(image['id'])] = (file, size[1], size[0]) if sized else (file, math.inf, math.inf)
        found.images.append((file, (size[0], size[1]) if sized else None))
    names = {_key(category.get('id')): str(category.get('name')) for category in content['categories']}
    found.classes = list(classes or names.values())
    for name in sorted(set(found.classes) - set(names.values())):
        report(path, 'annotation', f'{path} has no category {name!r}, which is one of the classes of the dataset')
    labelled = set()
    for annotation in content['annotations']:
        where, image_id = f'{path}: annotation {annotation.get("id")}', annotation.get('image_id')
        if _key(image_id) not in images:
            report(path, 'annotation', f'{where} is of image {image_id}, which the file does not list')
            continue
        file, width, height = images[_key(image_id)]
        labelled.add(_key(image_id))
        category, box = annotation.get('category_id'), annotation.get('bbox')
        if _key(category) not in names:
            report(file, 'annotation', f'{where} of {file} has the unknown category {category}')
        else:
            found.objects[names[_key(category)]] += 1
        problem = box_problem(box, width, height)
        if problem:
            report(file, 'box', f'{where} of {file}: the box {box} {problem}')
        elif 'area' in annotation and not (isinstance(annotation['area'], int | float) and annotation['area'] > 0):
            report(file, 'box', f'{where} of {file}: its area is {annotation["area"]}')
    found.without_objects = len(images) - len(labelled)
    return found


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f'the annotation file {path} cannot be read ({" ".join(str(error).split())}): copy or download it again'
        ) from error
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f'the annotation file {path} has no list {key!r}: expected the COCO format')
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise UserError(f'the annotation file {path} has something else than objects in {key!r}: expected COCO')
    return content


def _key(number: Any) -> Any:
    """An id as it can be looked up, whatever a broken file has in its place."""
    return number if isinstance(number, int | str) else repr(number)
