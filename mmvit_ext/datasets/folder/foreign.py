"""Annotations of tools and datasets that are not read, and what to do with them."""

import re
from collections import defaultdict
from pathlib import PurePosixPath

from .data import shown
from .index import Index

__all__ = ['set_foreign_aside']

_NUMBER = r'-?\d+(?:\.\d+)?'

_FORMATS = (
    (
        '.json',
        r'"(?:rectangle|polygon|ellipse|brush|keypoint)labels"',
        'an export of Label Studio in its own JSON',
        'export it there as COCO or YOLO, or brush masks as PNG',
    ),
    (
        '.txt',
        rf'\A[A-Za-z_]+ {_NUMBER} [0-3] {_NUMBER}(?: {_NUMBER}){{11,12}}\s',
        'of KITTI',
        'write for each image a text file of YOLO (class x y width height, in parts of the image), or one COCO JSON',
    ),
    (
        '.txt',
        r'\A\S+\.(?:jpe?g|png)\s*\n\d+\s*\n(?:\d+ ){9}\d+\s',
        'of WIDER FACE',
        'write a CSV with the columns path,x,y,width,height, a line for each face, or one COCO JSON',
    ),
)
"""Suffix, what the text looks like, what it is, and what to do."""


def set_foreign_aside(index: Index) -> str:
    """Take texts in formats that are not read out of the index; says which they are and what to do, or nothing."""
    groups = defaultdict(list)
    for path in index.texts_of('.json', '.txt'):
        groups[PurePosixPath(path).parent, PurePosixPath(path).suffix.lower()].append(path)
    for (_, kind), paths in groups.items():
        for suffix, form, what, remedy in _FORMATS:
            if kind == suffix and re.search(form, index.read(paths[0])):
                paths = [path for path in paths if re.search(form, index.read(path))]
                index.texts = [path for path in index.texts if path not in set(paths)]
                return f'{shown(paths, 2)} {"are" if len(paths) > 1 else "is"} {what}, which is not read: {remedy}'
    return ''
