"""Objects of images as named boxes and polygons: XML of PASCAL VOC and CVAT, JSON of labelme, tables of boxes."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from xml.etree import ElementTree

from mmvit_ext.errors.user_error import UserError

from .data import Object, Report
from .index import Index
from .objects import ANY_SIZE, Found, Objects
from .tables import read_rows

__all__ = ['read_box_tables', 'read_labelme', 'read_xml']


@dataclass(frozen=True)
class _Shape:
    """The corners of a polygon, or two of a box."""

    name: str
    points: Sequence[tuple[float, float]]
    where: str
    hard: bool = False


def _found(index: Index, layout: str, shapes: dict[str, list[_Shape]], report: Report) -> Found | None:
    if not shapes:
        return None
    classes = sorted({shape.name for items in shapes.values() for shape in items})
    masks = any(shapes.values()) and all(len(shape.points) > 2 for items in shapes.values() for shape in items)
    headers, taken = index.headers(list(shapes)), Objects()
    objects: dict[str, list[Object]] = {picture: [] for picture in shapes}
    for picture, items in shapes.items():
        size = ANY_SIZE if headers[picture].problem else headers[picture].size
        for shape in items:
            xs, ys = zip(*shape.points or [(math.nan, math.nan)], strict=True)
            mask = [[value for point in shape.points for value in point]] if masks else None
            edges = (min(xs), min(ys), max(xs), max(ys))
            label = classes.index(shape.name)
            objects[picture] += taken.take(label, edges, size, shape.where, mask=mask, crowd=shape.hard)
    taken.tell(report)
    if not masks and any(len(shape.points) > 2 for items in shapes.values() for shape in items):
        report.doubts.append('some objects are boxes and others polygons: all are taken as boxes')
    hard = sum(shape.hard for items in shapes.values() for shape in items)
    if hard:
        report.notes.append(f'{hard} objects marked as difficult are neither trained nor scored on')
    return Found(f'{layout} with {"polygons" if masks else "boxes"}', tuple(classes), objects, masks=masks)


def read_xml(index: Index, report: Report) -> Found | None:
    """Objects of PASCAL VOC's files, one for each image, or of CVAT's for many."""
    shapes: dict[str, list[_Shape]] = {}
    broken, lone = [], []
    paths = [path for path in index.texts if path.endswith('.xml')]
    for path in paths:
        try:
            root = ElementTree.fromstring(index.read(path))
        except ElementTree.ParseError as error:
            broken.append(f'{path} ({error})')
            continue
        entries = {'annotation': [root], 'annotations': root.findall('image')}.get(root.tag, [])
        for entry in entries:
            name = entry.get('name') or root.findtext('filename') or ''
            own = None if entry.get('name') else index.find(PurePosixPath(path).stem, near=path)
            picture = own or index.find(name, near=path)
            if picture:
                shapes[picture] = list(_cvat_shapes(entry, path) if entry.get('name') else _voc_shapes(entry, path))
            else:
                lone.append(f'{path}: {name}' if entry.get('name') else path)
    if not shapes:
        return None
    report.leave_out(broken, len(paths), 'XML files cannot be read', 'correct them')
    report.leave_out(lone, len(shapes) + len(lone), 'images of XML files are missing', 'copy them into the folder')
    _count_from_zero(shapes)
    return _found(index, f'XML files for {len(shapes)} images', shapes, report)


def _voc_shapes(root: ElementTree.Element, path: str) -> Iterator[_Shape]:
    for number, entry in enumerate(root.iter('object'), 1):
        points = _box([entry.findtext(f'bndbox/{edge}', '') for edge in ('xmin', 'ymin', 'xmax', 'ymax')])
        hard = entry.findtext('difficult', '0').strip() == '1'
        yield _Shape((entry.findtext('name') or '').strip(), points, f'{path}: object {number}', hard)


def _count_from_zero(shapes: dict[str, list[_Shape]]) -> None:
    """VOC counts pixels from 1 and names the last one; a box that begins at 0 shows that a tool counted from 0."""
    boxes = [
        shape for items in shapes.values() for shape in items if len(shape.points) == 2 and ': object ' in shape.where
    ]
    if boxes and all(min(shape.points[0]) >= 1 for shape in boxes):
        for items in shapes.values():
            for place, shape in enumerate(items):
                if len(shape.points) == 2:
                    (x, y), end = shape.points
                    items[place] = _Shape(shape.name, [(x - 1, y - 1), end], shape.where, shape.hard)


def _cvat_shapes(image: ElementTree.Element, path: str) -> Iterator[_Shape]:
    for number, entry in enumerate(image, 1):
        where = f'{path}: {image.get("name")}, shape {number}'
        if entry.tag == 'box':
            points = _box([entry.get(edge, '') for edge in ('xtl', 'ytl', 'xbr', 'ybr')])
            yield _Shape(entry.get('label', ''), points, where)
        elif entry.tag == 'polygon':
            numbers = _numbers(re.split('[,;]', entry.get('points', '')))
            yield _Shape(entry.get('label', ''), list(zip(numbers[::2], numbers[1::2], strict=False)), where)


def _numbers(texts: Sequence[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError:
        return []


def _box(texts: Sequence[str]) -> list[tuple[float, float]]:
    """Two corners, or none where they are no numbers or span no area."""
    numbers = _numbers(texts)
    x1, y1, x2, y2 = numbers or [math.nan] * 4
    return [(x1, y1), (x2, y2)] if x2 > x1 and y2 > y1 else []


def read_labelme(index: Index, report: Report) -> Found | None:
    """Polygons and rectangles of JSON files, one for each image."""
    shapes: dict[str, list[_Shape]] = {}
    for path in index.texts:
        if not path.endswith('.json') or '"shapes"' not in (text := index.read(path)):
            continue
        try:
            content = json.loads(text)
            items = [
                (str(item['label']), [(float(x), float(y)) for x, y in item['points']]) for item in content['shapes']
            ]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f'{index.root / path} is no file of labelme ({error!r}): export it again') from error
        name = str(content.get('imagePath', ''))
        picture = index.find(PurePosixPath(path).stem, near=path) or index.find(name, near=path)
        if picture:
            shapes[picture] = [_Shape(*item, f'{path}: shape {number}') for number, item in enumerate(items, 1)]
    return _found(index, f'{len(shapes)} JSON files of labelme', shapes, report)


def read_box_tables(index: Index, report: Report) -> Found | None:
    """Objects of tables with a line for each: a path, the edges of a box and a class."""
    shapes: dict[str, list[_Shape]] = {}
    used = []
    for path in index.texts:
        rows = read_rows(index, path)
        heading = [re.sub('[^a-z0-9]|bbox', '', cell.lower()) for cell in rows[0]] if rows else []
        edges = next((e for e in _EDGES if set(e) <= set(heading)), None)
        kind = next((heading.index(name) for name in _KINDS if name in heading), None)
        if edges is None or kind is None:
            continue
        columns = [heading.index(edge) for edge in edges]
        path_column = next(
            (n for n, cell in enumerate(rows[1]) if n not in columns and index.find(cell, near=path)), None
        )
        if path_column is None:
            continue
        used.append(path)
        for number, row in enumerate(rows[1:], 2):
            picture = index.find(row[path_column], near=path)
            if picture and all(row[n] for n in columns):
                points = _box([row[n] for n in columns])
                shapes.setdefault(picture, []).append(_Shape(row[kind], points, f'{path}:{number}'))
    return _found(index, f'tables {", ".join(used)}', shapes, report)


_EDGES = (('xmin', 'ymin', 'xmax', 'ymax'), ('x1', 'y1', 'x2', 'y2'), ('left', 'top', 'right', 'bottom'))
_KINDS = ('class', 'label', 'category', 'classname', 'labelname', 'name')
