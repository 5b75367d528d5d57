"""COCO annotation files with a mistake in them, made from a random generator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Rng = np.random.Generator
Content = dict[str, Any]

IMAGE = 'image.jpg'
PATHS = (IMAGE, 'absent.jpg', '../image.jpg', '/dev/null', '/.', 'a\0b.jpg')
"""File names that images get; a complaint may name the image."""
SIZE = (48, 64)
"""Height and width of the image that the files speak of."""


def valid() -> Content:
    """One image with two objects of two classes."""
    return {
        'images': [{'id': 7, 'file_name': IMAGE, 'height': SIZE[0], 'width': SIZE[1]}],
        'annotations': [
            _object(1, 1, [4, 5, 20, 30], [[4, 5, 24, 5, 24, 35, 4, 35]]),
            _object(2, 3, [30, 10, 13, 17], {'size': list(SIZE), 'counts': [500, 17, SIZE[0] * SIZE[1] - 517]}),
        ],
        'categories': [{'id': 1, 'name': 'cat'}, {'id': 3, 'name': 'dog'}],
    }


def _object(number: int, category: int, box: list, segmentation: Any) -> dict[str, Any]:
    return {
        'id': number,
        'image_id': 7,
        'category_id': category,
        'bbox': box,
        'area': box[2] * box[3],
        'segmentation': segmentation,
        'iscrowd': 0 if isinstance(segmentation, list) else 1,
    }


ODD: tuple[Any, ...] = (None, '', 'x', -1, 0, 1e30, 2**70, True, [], {}, [[]], float('nan'), float('inf'), '7', [7])
"""Values that may stand anywhere."""
BOXES: tuple[Any, ...] = (
    [1, 2, 3],
    [1, 2, 3, 4, 5],
    ['a', 2, 3, 4],
    [None] * 4,
    [5, 5, -10, 10],
    [5, 5, 0, 10],
    [-500, -500, 20, 20],
    [0, 0, 1e9, 1e9],
    [float('nan'), 0, 10, 10],
    [float('inf'), 0, 10, 10],
    'box',
    {},
    7,
)
SEGMENTATIONS: tuple[Any, ...] = (
    [],
    [[]],
    [[1, 2]],
    [[1, 2, 3, 4, 5]],
    [['a', 'b', 'c', 'd', 'e', 'f']],
    [[float('nan')] * 6],
    [[1e9, 1e9, 2e9, 1e9, 2e9, 2e9]],
    [1, 2, 3, 4, 5, 6],
    'polygon',
    7,
    {},
    {'counts': [1, 2]},
    {'size': [48, 64], 'counts': 'not a code \x01'},
    {'size': [48, 64], 'counts': [1]},
    {'size': [48, 64], 'counts': [-5, 48 * 64 + 5]},
    {'size': [3, 3], 'counts': [4, 5]},
    {'size': 'large', 'counts': []},
)


def _pick(rng: Rng, values: tuple[Any, ...]) -> Any:
    return values[int(rng.integers(0, len(values)))]


def missing_key(rng: Rng) -> Content:
    """A section or a field left out."""
    content = valid()
    section = str(rng.choice(list(content)))
    if rng.random() < 0.3:
        del content[section]
    else:
        entry = content[section][0]
        del entry[str(rng.choice(list(entry)))]
    return content


def odd_value(rng: Rng) -> Content:
    """A field with a value of another type, or that is out of all bounds."""
    content = valid()
    entry = content[str(rng.choice(list(content)))][0]
    entry[str(rng.choice(list(entry)))] = _pick(rng, ODD)
    return content


def odd_section(rng: Rng) -> Content:
    """A section that is something else than a list of entries."""
    content = valid()
    content[str(rng.choice(list(content)))] = _pick(rng, (*ODD, [None], ['x'], [1, 2], {'0': {}}))
    return content


def odd_box(rng: Rng) -> Content:
    """A box that is none, or lies elsewhere."""
    content = valid()
    content['annotations'][0]['bbox'] = _pick(rng, BOXES)
    return content


def odd_segmentation(rng: Rng) -> Content:
    """A mask that is none."""
    content = valid()
    content['annotations'][int(rng.integers(0, 2))]['segmentation'] = _pick(rng, SEGMENTATIONS)
    return content


def absent_image(rng: Rng) -> Content:
    """A file that is not there, or is no file."""
    content = valid()
    content['images'][0]['file_name'] = _pick(rng, ('absent.jpg', '../image.jpg', '/dev/null', '.', 'a\0b.jpg', ''))
    return content


def wrong_size(rng: Rng) -> Content:
    """Another size than the image has."""
    content = valid()
    content['images'][0].update(height=int(rng.integers(1, 5000)), width=int(rng.integers(1, 5000)))
    return content


def twice(rng: Rng) -> Content:
    """Numbers that are used twice."""
    content = valid()
    section = str(rng.choice(list(content)))
    content[section].append(dict(content[section][0]))
    return content


CONTENTS: dict[str, Callable[[Rng], Content]] = {
    'missing key': missing_key,
    'odd value': odd_value,
    'odd section': odd_section,
    'box': odd_box,
    'segmentation': odd_segmentation,
    'absent image': absent_image,
    'size': wrong_size,
    'twice': twice,
}


def with_content(rng: Rng, folder: Path, name: str) -> Path:
    """A file whose content has a mistake."""
    path = folder / 'annotations.json'
    path.write_text(json.dumps(CONTENTS[name](rng)))
    return path


def no_json(rng: Rng, folder: Path) -> Path:
    """A file that cannot even be parsed, or holds another kind of thing."""
    whole = json.dumps(valid())
    texts: tuple[bytes, ...] = (
        b'',
        whole[: int(rng.integers(1, len(whole)))].encode(),
        whole.encode('utf-16'),
        b'\xef\xbb\xbf' + whole.encode(),
        b'[' * 100_000,
        b'[]',
        b'null',
        b'7',
        b'"text"',
        rng.bytes(500),
    )
    path = folder / 'annotations.json'
    path.write_bytes(_pick(rng, texts))
    return path


ANNOTATIONS: dict[str, Callable[[Rng, Path], Path]] = {
    **{name: (lambda r, f, n=name: with_content(r, f, n)) for name in CONTENTS},
    'no JSON': no_json,
}
