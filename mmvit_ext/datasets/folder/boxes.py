"""Objects of images in the one file for each image that PASCAL VOC, YOLO and labelme write."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

from mmvit_ext.errors.user_error import UserError

from .class_names import ClassNames
from .data import LEFT_OUT, Object, Report, shown
from .index import Header, Index
from .objects import ANY_SIZE, Found, Objects
from .words import Places

__all__ = ['read_labelme', 'read_voc', 'read_yolo']


def _size(header: Header) -> tuple[int, int]:
    return ANY_SIZE if header.problem else header.size


def read_voc(index: Index, report: Report) -> Found | None:
    """Objects of XML files, one for each image."""
    parsed: dict[str, list[tuple[str, list[float], bool, str]]] = {}
    broken, lone = [], []
    paths = [path for path in index.texts if path.endswith('.xml')]
    for path in paths:
        try:
            root = ElementTree.fromstring(index.read(path))
        except ElementTree.ParseError as error:
            broken.append(f'{path} ({error})')
            continue
        name = root.findtext('filename') or ''
        picture = index.find(PurePosixPath(path).stem, near=path) or index.find(name, near=path)
        if root.tag != 'annotation':
            continue
        if picture is None:
            lone.append(path)
        else:
            parsed[picture] = list(_voc_objects(root, path))
    if not parsed:
        return None
    report.leave_out(broken, len(paths), 'XML files cannot be read', 'correct them')
    report.leave_out(lone, len(paths), 'XML files have no image', 'copy the images into the folder')
    classes = sorted({name for items in parsed.values() for name, *_ in items})
    # VOC counts pixels from 1; a box that begins at 0 shows that a tool counted from 0.
    first = 0 if any(min(box[:2]) == 0 for items in parsed.values() for _, box, *_ in items) else 1
    headers, taken, hard = index.headers(list(parsed)), Objects(), 0
    objects: dict[str, list[Object]] = {picture: [] for picture in parsed}
    for picture, items in parsed.items():
        for name, (left, top, right, bottom), difficult, where in items:
            edges = (left - first, top - first, right, bottom)
            size = _size(headers[picture])
            objects[picture] += taken.take(classes.index(name), edges, size, where, crowd=difficult)
            hard += difficult
    taken.tell(report)
    if hard:
        report.notes.append(f'{hard} objects marked as difficult are neither trained nor scored on')
    return Found(f'{len(parsed)} XML files of PASCAL VOC', tuple(classes), objects)


def _voc_objects(root: ElementTree.Element, path: str) -> Iterator[tuple[str, list[float], bool, str]]:
    """Class name, edges, whether it is difficult, and the place of each object."""
    for number, entry in enumerate(root.iter('object'), 1):
        try:
            box = [float(entry.findtext(f'bndbox/{edge}', 'nan')) for edge in ('xmin', 'ymin', 'xmax', 'ymax')]
        except ValueError:
            box = [math.nan] * 4
        difficult = entry.findtext('difficult', '0').strip() == '1'
        yield (entry.findtext('name') or '').strip(), box, difficult, f'{path}: object {number}'


def read_labelme(index: Index, report: Report) -> Found | None:
    """Polygons and rectangles of JSON files, one for each image."""
    shapes: dict[str, list[tuple[str, list[Any], str]]] = {}
    for path in index.texts:
        if not path.endswith('.json') or '"shapes"' not in (text := index.read(path)):
            continue
        try:
            content = json.loads(text)
            parts = [
                (str(item['label']), [(float(x), float(y)) for x, y in item['points']]) for item in content['shapes']
            ]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f'{index.root / path} is no file of labelme ({error!r}): export it again') from error
        name = str(content.get('imagePath', ''))
        picture = index.find(PurePosixPath(path).stem, near=path) or index.find(name, near=path)
        if picture:
            shapes[picture] = [(*item, f'{path}: shape {number}') for number, item in enumerate(parts, 1)]
    if not shapes:
        return None
    classes = sorted({name for items in shapes.values() for name, *_ in items})
    headers, taken = index.headers(list(shapes)), Objects()
    objects: dict[str, list[Object]] = {picture: [] for picture in shapes}
    masks = all(len(points) > 2 for items in shapes.values() for _, points, _ in items)
    for picture, items in shapes.items():
        for name, points, place in items:
            xs, ys = [x for x, _ in points] or [math.nan], [y for _, y in points] or [math.nan]
            mask = [[value for point in points for value in point]] if masks else None
            edges = (min(xs), min(ys), max(xs), max(ys))
            objects[picture] += taken.take(classes.index(name), edges, _size(headers[picture]), place, mask=mask)
    taken.tell(report)
    kind = 'polygons' if masks else 'shapes, taken as boxes'
    return Found(f'{len(shapes)} JSON files of labelme with {kind}', tuple(classes), objects, masks=masks)


def read_yolo(index: Index, places: Places, names: ClassNames, report: Report) -> Found | None:
    """Objects of text files, one for each image, with a class number and a box or polygon a line."""
    of_image = _text_of_each(index, places)
    lines = {
        path: [(f'{text}:{number}', line.split()) for number, line in enumerate(index.read(text).splitlines(), 1)]
        for path, text in of_image.items()
    }
    lines = {path: [(where, entry) for where, entry in items if entry] for path, items in lines.items()}
    entries = [entry for items in lines.values() for _, entry in items]
    numbered = [entry for entry in entries if _is_yolo(entry)]
    if not numbered or len(numbered) < (1 - LEFT_OUT) * len(entries):
        return None
    polygons = sum(len(entry) > 6 for entry in numbered)
    masks = polygons > (1 - LEFT_OUT) * len(entries)
    classes = _yolo_classes(lines, names, report)
    headers, taken = index.headers(list(lines)), Objects()
    objects: dict[str, list[Object]] = {path: [] for path in lines}
    for path, items in lines.items():
        height, width = size = _size(headers[path])
        for where, entry in items:
            values = [float(value) for value in entry[1:]] if _is_yolo(entry) else []
            mask = None
            if not values or max(values[:4]) > 1.01 or min(values) < -0.01 or (masks and len(values) < 6):
                taken.refuse(where)
                continue
            if len(values) > 5:
                points = [value * (height if place % 2 else width) for place, value in enumerate(values)]
                edges = [min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])]
                mask = [points] if masks else None
            else:
                x, y, w, h = values[:4]
                edges = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            objects[path] += taken.take(int(float(entry[0])), edges, size, where, mask=mask)
    taken.tell(report)
    if polygons and not masks:
        report.doubts.append(
            f'{polygons} of {len(entries)} lines are polygons and the others boxes: all are taken as boxes'
        )
    layout = f'{len(of_image)} text files of YOLO with {"polygons" if masks else "boxes"}'
    return Found(layout, classes, objects, masks=masks, empty_without=True)


def _text_of_each(index: Index, places: Places) -> dict[str, str]:
    """The text file of each image that has one of its name, beside it or in a folder such as ``labels``."""
    texts: dict[tuple[str, ...], list[str]] = defaultdict(list)
    read = {path: places.read(path) for path in (*index.pictures, *index.texts) if not path.endswith(('.json', '.xml'))}
    for path in index.texts:
        if path.endswith('.txt'):
            for key in read[path].ties:
                texts[key].append(path)
    found = {}
    for path in index.pictures:
        text = next((texts[key][0] for key in read[path].ties if len(texts.get(key, ())) == 1), None)
        if text:
            found[path] = text
    return found


def _yolo_classes(lines: dict[str, list[tuple[str, list[str]]]], names: ClassNames, report: Report) -> tuple[str, ...]:
    numbers: dict[int, str] = {}
    for items in lines.values():
        for where, entry in items:
            if _is_yolo(entry):
                numbers.setdefault(int(float(entry[0])), where)
    strange = sorted(number for number in numbers if number not in names.by_id) if names.by_id else []
    if strange:
        raise UserError(
            f'class numbers {shown(strange)} ({shown([numbers[number] for number in strange])}) are not among the '
            f'{len(names.by_id)} classes of {names.source}: name all of them there, or correct the numbers'
        )
    if not names.by_id:
        report.doubts.append('the classes have no names: write a file classes.txt, one name a line')
    return tuple(names.by_id.get(number, f'class_{number}') for number in range(max([*numbers, *names.by_id]) + 1))


def _is_yolo(entry: Sequence[str]) -> bool:
    """Whether a line has a class number and the numbers of a box, with or without a score, or of a polygon."""
    try:
        values = [float(value) for value in entry]
    except ValueError:
        return False
    fitting = len(values) in (5, 6) or (len(values) > 6 and len(values) % 2 == 1)
    return fitting and all(map(math.isfinite, values)) and 0 <= values[0] < 100_000 and values[0] % 1 == 0
