"""What is wrong in an annotation file of the COCO format: entries that refer to nothing, and boxes that are none."""

import errno
import json
import math
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from mmvit_ext.errors.user_error import UserError

from .datasets import DatasetReport, Finding, VisitedDataset

__all__ = ['box_problem', 'is_number', 'read_coco_file', 'read_lists']

_BOX_TOLERANCE = 1.0  # pixels; annotation tools round, and boxes are scaled
_LARGEST = 2**31  # beyond any number of pixels: JSON has numbers of thousands of digits, which overflow in use


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value read from JSON is a finite number of a size that occurs."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def box_problem(box: Any, width: float, height: float, *, flat: bool = False) -> str | None:
    """What is wrong with a COCO box (x, y, width, height), all in pixels; a side of a ``flat`` one may be 0."""
    if not isinstance(box, list | tuple) or len(box) != 4:
        return 'is no list of four numbers'
    if not all(map(is_number, box)):
        return 'has values that are no numbers'
    x, y, w, h = box
    if min(w, h) < 0 or (min(w, h) == 0 and not flat):
        return 'has no area'
    if min(x, y) < -_BOX_TOLERANCE or x + w > width + _BOX_TOLERANCE or y + h > height + _BOX_TOLERANCE:
        return 'reaches out of the image' + (f' of {width:g}x{height:g} pixels' if math.isfinite(width) else '')
    return None


def read_coco_file(dataset: VisitedDataset, report: DatasetReport) -> list[tuple[str, tuple[int, int] | None]]:
    """Path and (height, width), where stated, of each image of an annotation file; all else goes into the report."""
    path = dataset.ann_file
    content = read_lists(path, 'the annotation file', 'images', 'annotations', 'categories')
    folder = dataset.folders.get('img') or dataset.folders.get('img_path') or ''
    listed = []
    images: dict[Any, tuple[str, float, float]] = {}
    taken: dict[str, set[Any]] = defaultdict(set)

    def wrong(file: str, reason: str, kind: str = 'annotation') -> None:
        report.findings.append(Finding(kind, file, reason))

    def repeated(role: str, value: Any, file: str = path) -> bool:
        """Whether an id or a name has occurred before: pycocotools forgets the earlier entry and says nothing."""
        known = _key(value) in taken[role]
        if known:
            wrong(file, f'{path}: two {role} {value}' + ('' if file == path else f', {file} is the second'))
        taken[role].add(_key(value))
        return known

    for image in content['images']:
        name, number, size = image.get('file_name'), image.get('id'), (image.get('height'), image.get('width'))
        if not _is_file_name(name) or number is None:
            wrong(path, f'{path}: the image {number} has no id or no file_name')
            continue
        file = os.path.join(folder, name)
        if repeated('images have the id', number, file):
            continue
        repeated('images have the file', os.path.normpath(file), file)
        sized = all(isinstance(value, int) and is_number(value) and value > 0 for value in size)
        if not sized:
            wrong(file, f'{path}: the image {file} has no width and height')
        images[_key(number)] = (file, size[1], size[0]) if sized else (file, math.inf, math.inf)
        listed.append((file, (size[0], size[1]) if sized else None))
    names = {}
    for category in content['categories']:
        if not repeated('categories have the id', category.get('id')):
            repeated('categories have the name', category.get('name'))
            names[_key(category.get('id'))] = str(category.get('name'))
    classes = list(report.classes or names.values())
    for name in sorted(set(classes) - set(names.values())):
        wrong(path, f'{path} has no category {name!r}, which is one of the classes of the dataset')
    objects: Counter[str] = Counter()
    labelled = set()
    for annotation in content['annotations']:
        where, image_id = f'{path}: annotation {annotation.get("id")}', annotation.get('image_id')
        if annotation.get('id') is None:
            wrong(path, f'{path}: an annotation of image {image_id} has no id')
        else:
            repeated('annotations have the id', annotation['id'])
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
        if problem := box_problem(box, width, height):
            wrong(file, f'{where} of {file}: the box {box} {problem}', 'box')
        elif 'area' in annotation and not (isinstance(annotation['area'], int | float) and annotation['area'] > 0):
            wrong(file, f'{where} of {file}: its area is {annotation["area"]}', 'box')
    for key in ('images', 'annotations'):
        if not content[key]:
            wrong(path, f'{path} has no {key}: the dataset is empty')
    report.classes, report.unit = classes, 'objects'
    report.histogram = np.array([objects[name] for name in classes], dtype=np.int64)
    if others := sum(count for name, count in objects.items() if name not in set(classes)):
        report.notes.append(f'{others} objects are of categories that are no classes of the dataset')
    if len(labelled) < len(images):
        report.notes.append(f'{len(images) - len(labelled)} images have no objects')
    return listed


def read_lists(path: str | Path, role: str, *keys: str) -> dict[str, Any]:
    """Read a JSON file that has to hold lists of objects under the given keys; ``role`` is what it is in messages."""
    try:
        if not os.path.isfile(path):  # reading a pipe may never end
            raise FileNotFoundError(errno.ENOENT, 'there is no such file')
        content = json.loads(Path(path).read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'{role} {path} cannot be opened: {error.strerror}; check the path') from error
    except (ValueError, RecursionError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(f'{role} {path} is no JSON file ({reason}): copy or download it again') from error
    for key in keys:
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f'{role} {path} is no image list of COCO: it has no list {key!r} of objects')
    return content


def _is_file_name(name: Any) -> TypeGuard[str]:
    try:
        return b'\0' not in os.fsencode(name)
    except (TypeError, UnicodeEncodeError):  # JSON may hold halves of characters
        return False


def _key(number: Any) -> Any:
    """An id as a key of a dictionary, even where a broken file has something unhashable."""
    return number if isinstance(number, int | str) else repr(number)
