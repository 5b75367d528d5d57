"""Objects of images as named boxes and polygons: XML and JSON files of annotation tools, and tables of boxes."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

from mmvit_ext.errors.user_error import UserError

from .data import Report, shown
from .index import Index
from .objects import Found, Shape, found_shapes
from .tables import read_rows
from .words import split_of, split_of_file

__all__ = ['read_box_tables', 'read_json', 'read_xml']

Points = list[tuple[float, float]]

CORNERS = 24
"""Of the polygon that stands for a circle."""


def read_xml(index: Index, report: Report) -> Found | None:
    """Objects of PASCAL VOC's files, one for each image, or of CVAT's for many."""
    shapes: dict[str, list[Shape]] = {}
    splits: dict[str, str | None] = {}
    broken, lone = [], []
    paths = index.texts_of('.xml')
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
                if entry.get('name'):
                    _add(shapes, picture, _cvat_shapes(entry, path))
                else:
                    shapes[picture] = list(_voc_shapes(entry, path))
                splits[picture] = split_of_file(path) if entry.get('name') else None
            else:
                lone.append(f'{path}: {name}' if entry.get('name') else path)
    if not shapes:
        return None
    report.leave_out(broken, len(paths), 'XML files cannot be read', 'correct them')
    report.leave_out(lone, len(shapes) + len(lone), 'images of XML files are missing', 'copy them into the folder')
    _count_from_zero(shapes)
    return found_shapes(index, f'XML files for {len(shapes)} images', shapes, report, splits=splits)


def _add(shapes: dict[str, list[Shape]], picture: str, items: Iterable[Shape]) -> None:
    """Add the objects of an image to those of another file, but for those that are the same."""
    there = shapes.setdefault(picture, [])
    known = {(shape.name, tuple(shape.points)) for shape in there}
    there += [shape for shape in items if (shape.name, tuple(shape.points)) not in known]


def _voc_shapes(root: ElementTree.Element, path: str) -> Iterator[Shape]:
    for number, entry in enumerate(root.iter('object'), 1):
        points = _box([entry.findtext(f'bndbox/{edge}', '') for edge in ('xmin', 'ymin', 'xmax', 'ymax')])
        hard = entry.findtext('difficult', '0').strip() == '1'
        yield Shape((entry.findtext('name') or '').strip(), points, f'{path}: object {number}', hard)


def _count_from_zero(shapes: dict[str, list[Shape]]) -> None:
    """VOC counts pixels from 1 and names the last one; a box that begins at 0 shows that a tool counted from 0."""
    boxes = [
        shape for items in shapes.values() for shape in items if len(shape.points) == 2 and ': object ' in shape.where
    ]
    if boxes and all(min(shape.points[0]) >= 1 for shape in boxes):
        for items in shapes.values():
            for place, shape in enumerate(items):
                if len(shape.points) == 2:
                    (x, y), end = shape.points
                    items[place] = replace(shape, points=[(x - 1, y - 1), end])


def _cvat_shapes(image: ElementTree.Element, path: str) -> Iterator[Shape]:
    for number, entry in enumerate(image, 1):
        where = f'{path}: {image.get("name")}, shape {number}'
        if entry.tag == 'box':
            points = _box([entry.get(edge, '') for edge in ('xtl', 'ytl', 'xbr', 'ybr')])
            yield Shape(entry.get('label', ''), points, where)
        elif entry.tag == 'polygon':
            numbers = _numbers(re.split('[,;]', entry.get('points', '')))
            yield Shape(entry.get('label', ''), list(zip(numbers[::2], numbers[1::2], strict=False)), where)


def _numbers(texts: Sequence[Any]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except (TypeError, ValueError):
        return []


def _box(texts: Sequence[Any]) -> Points:
    """Two corners, or none where they are no numbers or span no area."""
    numbers = _numbers(texts)
    x1, y1, x2, y2 = numbers if len(numbers) == 4 else [math.nan] * 4
    return [(x1, y1), (x2, y2)] if x2 > x1 and y2 > y1 else []


def read_json(index: Index, report: Report) -> Found | None:
    """Shapes in JSON files of labelme and Supervisely, one for each image, and of VIA, one for many."""
    shapes: dict[str, list[Shape]] = {}
    splits: dict[str, str | None] = {}
    others, lone, tools = [], [], set()
    for path in index.texts_of('.json'):
        text = index.read(path)
        tool = next((tool for tool, (mark, _) in _TOOLS.items() if mark in text), None)
        if tool is None:
            continue
        try:
            read = list(_TOOLS[tool][1](json.loads(text), path))
        except (AttributeError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f'{index.root / path} is no file of {tool} ({error!r}): export it again') from error
        for names, items in read:
            picture = next((found for name in names if name and (found := index.find(name, near=path))), None)
            if picture:
                tools.add(tool)
                splits[picture] = split_of_file(path) if tool == 'VIA' else None
                read_shapes = [Shape(*item) for item in items if item[1] is not None]
                if tool == 'VIA':
                    _add(shapes, picture, read_shapes)
                else:
                    shapes[picture] = read_shapes
                others += [where for _, points, where in items if points is None]
            else:
                lone.append(path if tool != 'VIA' else f'{path}: {names[0]}')
    if shapes and lone:
        report.doubts.append(f'{len(lone)} annotations have no image and are not used: {shown(lone)}')
    if shapes and others:
        report.doubts.append(f'{len(others)} points, lines and bitmaps are no boxes or polygons and are not used')
    layout = f'JSON files of {" and ".join(sorted(tools))} for {len(shapes)} images'
    return found_shapes(index, layout, shapes, report, splits=splits)


Entries = Iterator[tuple[Sequence[str], list[tuple[str, Points | None, str]]]]
"""Names that an image may have, and the name, the points and the place of each of its shapes."""


def _labelme(content: Any, path: str) -> Entries:
    items = []
    for number, item in enumerate(content['shapes'], 1):
        points: Points | None = [(float(x), float(y)) for x, y in item['points']]
        kind = item.get('shape_type') or 'polygon'
        if kind == 'circle' and len(points or ()) == 2:
            points = _circle(*points)  # type: ignore[misc]
        elif kind not in ('polygon', 'rectangle'):
            points = None
        items.append((str(item['label']), points, f'{path}: shape {number}'))
    yield (PurePosixPath(path).stem, str(content.get('imagePath', ''))), items


def _supervisely(content: Any, path: str) -> Entries:
    items = []
    for number, item in enumerate(content['objects'], 1):
        kind = item.get('geometryType')
        points = item['points']['exterior'] if kind in ('polygon', 'rectangle') else None
        where = f'{path}: object {number}'
        items.append((str(item['classTitle']), points and [(float(x), float(y)) for x, y in points], where))
    yield (PurePosixPath(path).stem,), items


def _via(content: Any, path: str) -> Entries:
    for entry in content.get('_via_img_metadata', content).values():
        regions = entry['regions']
        items = []
        for region in regions.values() if isinstance(regions, dict) else regions:
            form, named = region['shape_attributes'], list(region['region_attributes'].values())
            points: Points | None = None
            if 'all_points_x' in form and form['name'] == 'polygon':
                points = list(zip(form['all_points_x'], form['all_points_y'], strict=True))
            elif form['name'] == 'rect':
                x, y = form['x'], form['y']
                points = [(x, y), (x + form['width'], y + form['height'])]
            elif form['name'] == 'circle':
                points = _circle((form['cx'], form['cy']), (form['cx'] + form['r'], form['cy']))
            name = str(named[0]) if named and isinstance(named[0], str) else 'object'
            items.append((name, points, f'{path}: {entry["filename"]}'))
        yield (entry['filename'],), items


_TOOLS: Mapping[str, tuple[str, Any]] = {
    'labelme': ('"shapes"', _labelme),
    'Supervisely': ('"classTitle"', _supervisely),
    'VIA': ('"shape_attributes"', _via),
}
"""Tools, a key that only their files have, and the function that reads one."""


def _circle(centre: tuple[float, float], edge: tuple[float, float]) -> Points:
    radius, angles = math.dist(centre, edge), [2 * math.pi * step / CORNERS for step in range(CORNERS)]
    return [(centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)) for angle in angles]


def read_box_tables(index: Index, report: Report) -> Found | None:
    """Objects of tables with a line for each: a path, the edges of a box and a class."""
    shapes: dict[str, list[Shape]] = {}
    splits: dict[str, str | None] = {}
    used = []
    for path in index.texts_of('.csv', '.tsv', '.txt', '.json'):
        rows = read_rows(index, path)
        if columns := _columns(rows):
            found, said = _box_rows(index, path, rows, report, *columns)
            splits |= said
            shapes = {picture: shapes.get(picture, []) + found.get(picture, []) for picture in {**shapes, **found}}
            used += [path] * bool(found)
    edges = [value for items in shapes.values() for shape in items for point in shape.points for value in point]
    if shares := bool(edges) and max(edges) <= 1:
        report.doubts.append(f'the boxes of {", ".join(used)} are at most 1: they are taken as parts of the image size')
    if any(not shape.name for items in shapes.values() for shape in items):
        report.doubts.append(f'{", ".join(used)} names no classes: all boxes are of one class, object')
    shapes = {
        picture: [replace(shape, name=shape.name or 'object', shares=shares) for shape in items]
        for picture, items in shapes.items()
    }
    return found_shapes(index, f'tables {", ".join(used)}', shapes, report, splits=splits)


_EDGES = (
    ('xmin', 'ymin', 'xmax', 'ymax'),
    ('x1', 'y1', 'x2', 'y2'),
    ('left', 'top', 'right', 'bottom'),
    ('x', 'y', 'width', 'height'),
    ('x', 'y', 'w', 'h'),
    ('bbox',),
)
_KINDS = ('class', 'label', 'category', 'classname', 'labelname', 'name')


def _columns(rows: Sequence[Sequence[str]]) -> tuple[int, list[int], list[int], bool] | None:
    """The first row with a box, the columns of its edges, those of classes, and whether the edges end in a size."""
    if len(rows) < 2:
        return None
    heading = [re.sub('[^a-z0-9]', '', cell.lower()) for cell in rows[0]]
    heading = [cell if cell == 'bbox' else cell.replace('bbox', '') for cell in heading]
    edges = next((edges for edges in _EDGES if set(edges) <= set(heading)), None)
    if edges:
        kinds = [heading.index(name) for name in _KINDS if name in heading]
        size = edges[-1] in ('height', 'h', 'bbox')
        return 1, [heading.index(edge) for edge in edges], kinds, size
    if all(len(row) == 6 and (len(_numbers(row[1:5])) == 4 or not any(row[1:])) for row in rows):
        return 0, [1, 2, 3, 4], [5], False  # without a heading: path, x1, y1, x2, y2, class
    return None


def _box_rows(
    index: Index,
    path: str,
    rows: Sequence[Sequence[str]],
    report: Report,
    first: int,
    columns: list[int],
    kinds: list[int],
    size: bool,
) -> tuple[dict[str, list[Shape]], dict[str, str | None]]:
    others = [n for n in range(len(rows[first])) if n not in columns]
    of_path = _path_column(index, path, rows[first:], others)
    if of_path is None:
        return {}, {}
    kind = next((n for n in kinds if n != of_path), None)
    of_split = next(
        (n for n in others if n not in (kind, of_path) and all(split_of(row[n]) for row in rows[first:])), None
    )
    shapes: dict[str, list[Shape]] = {}
    splits: dict[str, str | None] = {}
    lone: dict[str, None] = {}
    for number, row in enumerate(rows[first:], first + 1):
        picture = index.find(row[of_path], near=path)
        if picture is None:
            lone[row[of_path]] = None
            continue
        cells = re.split(r'[\s,]+', row[columns[0]].strip('[]() ')) if len(columns) == 1 else [row[n] for n in columns]
        shapes.setdefault(picture, [])
        splits[picture] = split_of_file(path) if of_split is None else split_of(row[of_split])
        if any(cells):
            x, y, right, bottom = _numbers(cells) if len(_numbers(cells)) == 4 else [math.nan] * 4
            corners = (x, y, x + right, y + bottom) if size else (x, y, right, bottom)
            shapes[picture].append(Shape(row[kind] if kind is not None else '', _box(corners), f'{path}:{number}'))
    if shapes and lone:
        report.doubts.append(f'{len(lone)} images of {path} are not there: {shown(list(lone))}')
    return shapes, splits


def _path_column(index: Index, path: str, rows: Sequence[Sequence[str]], among: Sequence[int]) -> int | None:
    """The column whose cells name pictures: of those that look like files, or else of all, the one with the most."""
    counts = {n: sum(index.find(row[n], near=path) is not None for row in rows) for n in among}
    files = [n for n in among if counts[n] and sum(index.names_file(row[n]) for row in rows) >= 0.5 * len(rows)]
    best = max(files or among, key=counts.__getitem__, default=None)
    return best if best is not None and counts[best] else None
