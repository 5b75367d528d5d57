"""Objects of images in the text files of YOLO."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from mmvit_ext.errors.user_error import UserError

from .class_names import ClassNames
from .data import LEFT_OUT, Report, shown
from .index import Index
from .objects import Found, Shape, found_shapes
from .words import Places

__all__ = ['read_yolo']

_BEYOND = 0.01
"""How far coordinates may lie outside of the image."""


def read_yolo(index: Index, places: Places, names: ClassNames, report: Report) -> Found | None:
    """Objects of text files, one for each image, with a class number and a box or polygon a line."""
    of_image = _text_of_each(index, places)
    shapes: dict[str, list[Shape]] = {}
    numbers: dict[int, str] = {}
    wrong = 0
    for path, text in of_image.items():
        shapes[path] = []
        for number, line in enumerate(index.read(text).splitlines(), 1):
            if not (entry := line.split()):
                continue
            shape = Shape('', (), f'{text}:{number}', shares=True)
            if _is_yolo(entry):
                kind = int(float(entry[0]))
                numbers.setdefault(kind, shape.where)
                shape = replace(shape, name=names.by_id.get(kind, f'class_{kind}'), points=_points(entry[1:]))
            else:
                wrong += 1
            shapes[path].append(shape)
    total = sum(map(len, shapes.values()))
    if not numbers or wrong > LEFT_OUT * total:
        return None
    classes = _classes(numbers, names, report)
    found = found_shapes(index, f'{len(of_image)} text files of YOLO', shapes, report, classes)
    return found and replace(found, empty_without=True)


def _text_of_each(index: Index, places: Places) -> dict[str, str]:
    """The text file of each image that has one of its name, beside it or in a folder such as ``labels``."""
    texts, owners = defaultdict(list), Counter()  # type: ignore[var-annotated]
    photos = [place for path in index.pictures if not (place := places.read(path)).is_mask]
    photos = photos or [places.read(path) for path in index.pictures]
    for path in index.texts_of('.txt'):
        for tie in places.read(path).ties:
            texts[tie].append(path)
    for photo in photos:
        owners.update(set(photo.ties))
    found = {}
    for photo in photos:
        said = [texts[tie][0] for tie in photo.ties if len(texts.get(tie, ())) == owners[tie] == 1]
        if said:
            found[photo.path] = said[0]
    return found


def _classes(numbers: dict[int, str], names: ClassNames, report: Report) -> tuple[str, ...]:
    strange = sorted(number for number in numbers if number not in names.by_id) if names.by_id else []
    if strange:
        raise UserError(
            f'class numbers {shown(strange)} ({shown([numbers[number] for number in strange])}) are not among the '
            f'{len(names.by_id)} classes of {names.source}: name all of them there, or correct the numbers'
        )
    if not names.by_id:
        report.doubts.append('the classes have no names: write a file classes.txt, one name a line')
    return tuple(names.by_id.get(number, f'class_{number}') for number in range(max([*numbers, *names.by_id]) + 1))


def _points(entry: Sequence[str]) -> list[tuple[float, float]]:
    """The corners in parts of the image's size; none where they lie outside of it."""
    values = [float(value) for value in entry]
    if max(values[:4]) > 1 + _BEYOND or min(values) < -_BEYOND:
        return []
    if len(values) > 5:
        return list(zip(values[::2], values[1::2], strict=True))
    x, y, w, h = values[:4]
    return [(x - w / 2, y - h / 2), (x + w / 2, y + h / 2)]


def _is_yolo(entry: Sequence[str]) -> bool:
    """Whether a line has a class number and the numbers of a box, with or without a score, or of a polygon."""
    try:
        values = [float(value) for value in entry]
    except ValueError:
        return False
    fitting = len(values) in (5, 6) or (len(values) > 6 and len(values) % 2 == 1)
    return fitting and all(map(math.isfinite, values)) and 0 <= values[0] < 100_000 and values[0] % 1 == 0
