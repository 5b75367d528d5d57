"""What is wrong in an annotation file of the COCO format: entries that refer to nothing, and boxes that are none."""

import json
import math
import os
from collections import Counter
from typing import Any

import numpy as np

from mmvit_ext.errors.user_error import UserError

from .datasets import VisitedDataset
from .report import DatasetReport, Finding

__all__ = ['box_problem', 'read_coco_file']

_BOX_TOLERANCE = 1.0  # pixels; annotation tools round


def box_problem(box: Any, width: float, height: float) -> str | None:
    """What is wrong with a COCO box (x, y, width, height) in an image of that size, all in pixels, if anything."""
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


def read_coco_file(dataset: VisitedDataset, report: DatasetReport) -> list[tuple[str, tuple[int, int] | None]]:
    """Read a dataset's annotation file; what is wrong in it, its classes and objects go into the report.

    Returns:
        Path of each image and its (height, width), ``None`` where the file does not state a size.
    """
    path = dataset.ann_file
    content = _read(path)
    folder = dataset.folders.get('img') or dataset.folders.get('img_path') or ''
    listed = []
    images: dict[Any, tuple[str, float, float]] = {}

    def wrong(file: str, reason: str, kind: str = 'annotation') -> None:
        report.findings.append(Finding(file, kind, reason))

    for image in content['images']:
        name, size = image.get('file_name'), (image.get('height'), image.get('width'))
        if not isinstance(name, str) or image.get('id') is None:
            wrong(path, f'{path}: the image {image.get("id")} has no id or no file_name')
            continue
        file = os.path.join(folder, name)
        if _key(image['id']) in images:
            wrong(file, f'{path}: two images have the id {image["id"]}, {file} is the second')
            continue
        sized = all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in size)
        if not sized:
            wrong(file, f'{path}: the image {file} has no width and height')
        images[_key(image['id'])] = (file, size[1], size[0]) if sized else (file, math.inf, math.inf)
        listed.append((file, (size[0], size[1]) if sized else None))
    names = {_key(category.get('id')): str(category.get('name')) for category in content['categories']}
    classes = list(report.classes or names.values())
    for name in sorted(set(classes) - set(names.values())):
        wrong(path, f'{path} has no category {name!r}, which is one of the classes of the dataset')
    objects: Counter[str] = Counter()
    labelled = set()
    for annotation in content['annotations']:
        where, image_id = f'{path}: annotation {annotation.get("id")}', annotation.get('image_id')
        if _key(image_id) not in images:
            wrong(path, f'{where} is of image {image_id}, which the file does not list')
            continue
        file, width, height = images[_key(image_id)]
        labelled.add(_key(image_id))
        category, box = annotation.get('category_id'), annotation.get('bbox')
        if _key(category) in names:
            objects[names[_key(category)]] += 1
        else:
            wrong(file, f'{where} of {file} has the unknown category {category}')
        problem = box_problem(box, width, height)
        if problem:
            wrong(file, f'{where} of {file}: the box {box} {problem}', 'box')
        elif 'area' in annotation and not (isinstance(annotation['area'], int | float) and annotation['area'] > 0):
            wrong(file, f'{where} of {file}: its area is {annotation["area"]}', 'box')
    report.classes, report.unit = classes, 'objects'
    report.histogram = np.array([objects[name] for name in classes], dtype=np.int64)
    others = sum(count for name, count in objects.items() if name not in set(classes))
    if others:
        report.notes.append(f'{others} objects are of categories that are no classes of the dataset')
    if len(labelled) < len(images):
        report.notes.append(f'{len(images) - len(labelled)} images have no objects')
    return listed


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
    """An id as a key of a dictionary, even where a broken file has something unhashable."""
    return number if isinstance(number, int | str) else repr(number)
