"""Objects of images in the text files of YOLO."""

import math
from collections import defaultdict
from collections.abc import Sequence

from mmvit_ext.errors.user_error import UserError

from .class_names import ClassNames
from .data import LEFT_OUT, Object, Report, shown
from .index import Index
from .objects import ANY_SIZE, Found, Objects
from .words import Places

__all__ = ['read_yolo']


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
        height, width = size = ANY_SIZE if headers[path].problem else headers[path].size
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
