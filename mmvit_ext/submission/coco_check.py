"""What the test server of COCO detection would find wrong with an archive."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from .coco import MAX_OBJECTS, NAME_RULE, archive_name_parts
from .faults import Fault, Report
from .rle import run_lengths
from .splits import COCO_IDS, CocoSplit

__all__ = ['check_coco']

PART = 50_000
"""Entries that are loaded at a time."""
BORDER = 1.0
"""Pixels by which a box may reach over the image's border: the rounding of boxes that were scaled."""


def check_coco(archive: zipfile.ZipFile, name: str, split: CocoSplit | None) -> Report:
    """Read an archive as the server of COCO detection does.

    Args:
        archive: The archive.
        name: Its file name without suffix.
        split: The images; without them, ids of images and the borders of boxes and masks are not checked.

    Returns:
        What was found.
    """
    report = Report('COCO detection')
    if archive_name_parts(name) is None:
        report.faults.append(Fault('archive name', f'{name}.zip', f'expected {NAME_RULE}'))
    files = [entry for entry in archive.namelist() if entry.endswith('.json')]
    for extra in archive.namelist():
        if extra not in files and not extra.endswith('/'):
            report.faults.append(Fault('extra file', extra, 'expected a single JSON file'))
    if len(files) != 1:
        found = f'it holds {len(files)} JSON files' if files else 'it holds no JSON file'
        report.faults.append(Fault('JSON file', f'{name}.zip', f'{found}, expected one, {name}.json'))
        return report
    base = files[0].rpartition('/')[2]
    if base != f'{name}.json':
        report.faults.append(Fault('JSON file', base, f'expected {name}.json, the name of the archive'))
    try:
        entries = json.loads(archive.read(files[0]))
    except (ValueError, zipfile.BadZipFile, RecursionError) as error:
        report.faults.append(Fault('JSON file', base, f'it cannot be read: {error}'))
        return report
    if not isinstance(entries, list):
        report.faults.append(Fault('JSON file', base, f'it holds a {type(entries).__name__}, expected a list'))
        return report
    if not entries:
        report.faults.append(Fault('no objects', base, 'the list is empty, which the server cannot score'))
        return report
    _check_entries(entries, split, report)
    return report


def _check_entries(entries: list[Any], split: CocoSplit | None, report: Report) -> None:
    masks = any(isinstance(entry, dict) and 'segmentation' in entry for entry in entries)
    report.content = f'COCO detection ({"segm" if masks else "bbox"}, {len(entries)} objects)'
    seen: dict[bytes, int] = {}
    objects: Counter[int] = Counter()
    with_box = 0
    for index, entry in enumerate(entries):
        where = f'entry {index}'
        if not isinstance(entry, dict):
            report.faults.append(Fault('entry', where, f'it is a {type(entry).__name__}, expected an object'))
            continue
        number = entry.get('image_id')
        where = f'entry {index} (image {number})'
        report.faults += [Fault(kind, where, reason) for kind, reason in _entry_faults(entry, masks, split)]
        if _is_int(number):
            objects[number] += 1
        with_box += 'bbox' in entry
        # A digest, because a copy of two million masks would not fit into most memories.
        digest = hashlib.blake2b(json.dumps(entry, sort_keys=True).encode(), digest_size=16).digest()
        first = seen.setdefault(digest, index)
        if first != index:
            report.faults.append(Fault('duplicate', where, f'it equals entry {first}'))
    for number, total in objects.items():
        if total > MAX_OBJECTS:
            reason = f'{total} objects, and the best {MAX_OBJECTS} of an image count'
            report.faults.append(Fault('too many objects', f'image {number}', reason))
    if masks and with_box:
        report.notes.append(
            f'{with_box} masks come with a box: the server sorts objects into small, medium and large by it, not by '
            'the mask'
        )
    if split is None:
        report.notes.append(
            'not checked, for lack of --annotations or --images: whether the images belong to the split, and whether '
            'boxes and masks have the size of their image'
        )
        return
    bare = len(set(split.sizes) - set(objects))
    if bare:
        report.notes.append(f'{bare} of {len(split.sizes)} images have no object')
    if not report.faults:
        report.faults += _load(entries, split)


def _entry_faults(entry: Mapping[str, Any], masks: bool, split: CocoSplit | None) -> Iterator[tuple[str, str]]:
    """Kind and reason of what is wrong with an object by itself."""
    number, category, score = entry.get('image_id'), entry.get('category_id'), entry.get('score')
    size = None
    if not _is_int(number):
        yield 'image', f'image_id is {number!r}, expected a whole number'
    elif split is not None:
        size = split.sizes.get(number)
        if size is None:
            yield 'image', f'image_id {number} is none of the {len(split.sizes)} images of the split'
    categories = COCO_IDS if split is None else split.categories
    if not _is_int(category) or category not in categories.values():
        yield 'category', f'category_id is {category!r}, expected one of the {len(categories)} ids of COCO (1 to 90)'
    if not _is_number(score):
        yield 'score', f'score is {score!r}, expected a number from 0 to 1'
    elif not 0 <= score <= 1:
        yield 'score', f'score is {score}, expected 0 to 1'
    if masks:
        yield from _mask_faults(entry.get('segmentation'), size)
    if 'bbox' in entry or not masks:
        yield from _box_faults(entry.get('bbox'), size)


def _box_faults(box: Any, size: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        yield 'box', f'bbox is {box!r}, expected four numbers: left, top, width and height in pixels'
        return
    left, top, width, height = box
    if width < 0 or height < 0:
        yield 'box', f'width {width} and height {height} of bbox: expected none below zero'
    elif size is not None:
        rows, columns = size
        if left < -BORDER or top < -BORDER or left + width > columns + BORDER or top + height > rows + BORDER:
            yield 'box', f'bbox {box} reaches out of the image, which has {columns}x{rows} pixels (width x height)'


def _mask_faults(mask: Any, size: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    if isinstance(mask, list):
        yield 'mask', 'segmentation is a polygon, expected a compressed RLE mask'
        return
    if not isinstance(mask, dict) or not {'size', 'counts'} <= set(mask):
        yield 'mask', f'segmentation is {str(mask)[:40]!r}, expected an RLE mask with size and counts'
        return
    claimed, counts = mask['size'], mask['counts']
    if not isinstance(claimed, list) or len(claimed) != 2 or not all(map(_is_int, claimed)):
        yield 'mask', f'the size of the mask is {claimed!r}, expected [height, width] in pixels'
        return
    if size is not None and tuple(claimed) != size:
        yield 'mask', f'the mask has {claimed[0]}x{claimed[1]} pixels (height x width), its image {size[0]}x{size[1]}'
    if not isinstance(counts, str):
        yield 'mask', f'counts is a {type(counts).__name__}, expected the text of a compressed RLE mask'
        return
    try:
        lengths = run_lengths(counts)
    except ValueError as error:
        yield 'mask', f'counts cannot be decoded: {error}'
        return
    if (lengths < 0).any() or lengths.sum() != claimed[0] * claimed[1]:
        yield (
            'mask',
            (
                f'counts cannot be decoded: its runs add up to {lengths.sum()} pixels with {(lengths < 0).sum()} below '
                f'zero, the mask has {claimed[0] * claimed[1]}'
            ),
        )


def _load(entries: list[Any], split: CocoSplit) -> list[Fault]:
    """The step by which the server reads the list, done here in parts: it makes several times as much of each entry."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            'images': [
                {'id': number, 'height': rows, 'width': columns} for number, (rows, columns) in split.sizes.items()
            ],
            'categories': [{'id': number, 'name': name} for name, number in split.categories.items()],
            'annotations': [],
        }
        truth.createIndex()
        for start in range(0, len(entries), PART):
            try:
                truth.loadRes([dict(entry) for entry in entries[start : start + PART]])
            except Exception as error:
                reason = f'pycocotools cannot load it: {type(error).__name__}: {error}'
                return [Fault('JSON file', f'entries from {start} on', reason)]
    return []


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
