"""Open an archive as its test server would, and name every fault."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from PIL import Image

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.images import collect_images

from .ade20k import CLASSES
from .coco import ARCHIVE_NAME, MAX_OBJECTS, NAME_RULE
from .run import image_folder
from .splits import COCO_IDS, CocoSplit, image_size, read_coco_split, split_of_images

__all__ = ['Fault', 'Report', 'check_archive', 'run_lengths']

SHOWN = 5
"""Faults of a kind that are listed unless all are asked for."""
PART = 50_000
"""Entries that pycocotools loads at a time: it makes several times as much of each."""
BORDER = 1.0
"""Pixels by which a box may cross the border of its image: the rounding of boxes that were scaled."""
_TEST_NAME = re.compile(r'ADE_(?:test|val)_\d{8}')

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Fault:
    """What a test server would refuse or score wrongly: its kind, the file or entry, what was found and expected."""

    kind: str
    where: str
    reason: str


@dataclass
class Report:
    """What an archive holds, what is wrong with it, and notes on what else is worth knowing or was not checked."""

    content: str
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, where: str, reason: str) -> None:
        """Add a fault."""
        self.faults.append(Fault(kind, where, reason))

    def lines(self, *, complete: bool = False) -> list[str]:
        """The report as lines of text: the first five faults of each kind, or all of them."""
        lines = [f'{self.content}: {len(self.faults) or "no"} faults']
        for kind in dict.fromkeys(fault.kind for fault in self.faults):
            found = [fault for fault in self.faults if fault.kind == kind]
            shown = found if complete else found[:SHOWN]
            lines += [f'  {kind}: {fault.where}: {fault.reason}' for fault in shown]
            if len(shown) < len(found):
                lines.append(f'  {kind}: {len(found) - len(shown)} more')
        return lines + [f'  note: {note}' for note in self.notes]


def check_archive(
    path: str | Path, *, images: str | Path | None = None, annotations: str | Path | None = None
) -> Report:
    """Find what is wrong with an archive; its content tells whether it is for COCO detection or ADE20K scene parsing.

    Args:
        path: The archive.
        images: The folder of the test images, for their names and sizes.
        annotations: The image list of the split (COCO), instead of the images.

    Raises:
        UserError: There is no such archive, folder or image list.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f'there is no archive {path}: check the path')
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        return Report('an unknown file', [Fault('archive', path.name, f'it cannot be opened: {error}')])
    with archive:
        names = archive.namelist()
        coco = path.stem.startswith('detections_') or any(name.endswith('.json') for name in names)
        if annotations is not None and not coco:
            raise UserError(f'--annotations is for COCO, {path} holds label maps: pass --images')
        paths = None if images is None else collect_images([image_folder(images)])
        if coco:
            split = None if paths is None else split_of_images(paths)
            report = _check_coco(archive, path.stem, split if annotations is None else read_coco_split(annotations))
        elif any(name.endswith('.png') for name in names):
            report = _check_ade20k(archive, None if paths is None else {one.stem: image_size(one) for one in paths})
        else:
            report = Report('an unknown archive')
            report.add('archive', path.name, 'it holds neither JSON nor PNG files')
    for name, total in Counter(names).items():
        if '/' in name or '\\' in name:
            report.add('folder', name, 'the server looks for files at the top of the archive')
        if total > 1:
            report.add('duplicate file', name, f'the archive holds it {total} times')
    return report


def _check_ade20k(archive: zipfile.ZipFile, sizes: Mapping[str, Size] | None) -> Report:
    """Check label maps against the sizes of the test images by name, where these are known."""
    names = [name for name in archive.namelist() if not name.endswith('/')]
    maps = {name: name.rpartition('/')[2].removesuffix('.png') for name in names if name.endswith('.png')}
    report = Report(f'ADE20K scene parsing ({len(maps)} label maps)')
    for name in names:
        if name not in maps:
            report.add('extra file', name, 'expected PNG files only')
    for name, stem in maps.items():
        if sizes is None and not _TEST_NAME.fullmatch(stem):
            report.add('name', name, 'expected the name of its image, such as ADE_test_00000001.png')
        elif sizes is not None and stem not in sizes:
            report.add('extra label map', name, 'there is no image of that name')
        for kind, reason in _map_faults(archive, name, (sizes or {}).get(stem)):
            report.add(kind, name, reason)
    if sizes is None:
        report.notes.append(
            'not checked without --images: whether each image has a label map, and whether that has its size'
        )
    for stem in sorted(set(sizes or {}) - set(maps.values())):
        report.add('missing label map', f'{stem}.png', 'the image has no label map')
    return report


def _map_faults(archive: zipfile.ZipFile, name: str, size: Size | None) -> Iterator[tuple[str, str]]:
    try:
        with archive.open(name) as stream, Image.open(stream) as image:
            image.load()
            kind, mode, labels = image.format, image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, zipfile.BadZipFile) as error:
        yield 'unreadable label map', f'it cannot be decoded: {error}'
        return
    if kind != 'PNG':
        yield 'unreadable label map', f'it is a {kind} file, expected PNG'
    if size is not None and labels.shape[:2] != size:
        rows, columns = labels.shape[:2]
        yield 'size', f'it has {rows}x{columns} pixels (height x width), its image {size[0]}x{size[1]}'
    if mode != 'L':
        yield 'colour mode', f'it has the mode {mode}, expected L: one channel of 8 bits, the label of each pixel'
        return
    if labels.min() < 1:
        yield 'labels', f'it holds the label 0, which is no class: the classes are labelled 1 to {CLASSES}'
    if labels.max() > CLASSES:
        yield 'labels', f'it holds the label {labels.max()}, expected 1 to {CLASSES}'


def _check_coco(archive: zipfile.ZipFile, name: str, split: CocoSplit | None) -> Report:
    """Check the objects in an archive against the images of a split, where these are known."""
    report = Report('COCO detection')
    if not ARCHIVE_NAME.fullmatch(name):
        report.add('archive name', f'{name}.zip', f'expected {NAME_RULE}')
    files = [entry for entry in archive.namelist() if entry.endswith('.json')]
    for extra in archive.namelist():
        if extra not in files and not extra.endswith('/'):
            report.add('extra file', extra, 'expected a single JSON file')
    if len(files) != 1:
        report.add('JSON file', f'{name}.zip', f'it holds {len(files) or "no"} JSON files, expected one, {name}.json')
        return report
    base = files[0].rpartition('/')[2]
    if base != f'{name}.json':
        report.add('JSON file', base, f'expected {name}.json, the name of the archive')
    try:
        entries = json.loads(archive.read(files[0]))
    except (ValueError, zipfile.BadZipFile, RecursionError) as error:
        report.add('JSON file', base, f'it cannot be read: {error}')
        return report
    if not isinstance(entries, list):
        report.add('JSON file', base, f'it holds a {type(entries).__name__}, expected a list')
    elif not entries:
        report.add('no objects', base, 'the list is empty, which the server cannot score')
    else:
        _check_objects(entries, split, report)
    return report


def _check_objects(entries: list[Any], split: CocoSplit | None, report: Report) -> None:
    masks = any(isinstance(entry, dict) and 'segmentation' in entry for entry in entries)
    report.content = f'COCO detection ({"segm" if masks else "bbox"}, {len(entries)} objects)'
    seen: dict[bytes, int] = {}
    objects: Counter[int] = Counter()
    with_box = 0
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            report.add('entry', f'entry {index}', f'it is a {type(entry).__name__}, expected an object')
            continue
        number = entry.get('image_id')
        where = f'entry {index} (image {number})'
        for kind, reason in _object_faults(entry, masks, split):
            report.add(kind, where, reason)
        if _is_int(number):
            objects[number] += 1
        with_box += 'bbox' in entry
        # A digest, because a copy of two million masks would not fit into most memories.
        digest = hashlib.blake2b(json.dumps(entry, sort_keys=True).encode(), digest_size=16).digest()
        if (first := seen.setdefault(digest, index)) != index:
            report.add('duplicate', where, f'it equals entry {first}')
    for number, total in objects.items():
        if total > MAX_OBJECTS:
            reason = f'{total} objects, and the best {MAX_OBJECTS} of an image count'
            report.add('too many objects', f'image {number}', reason)
    if masks and with_box:
        report.notes.append(
            f'{with_box} masks come with a box: the server sorts objects into small, medium and large by it, not by '
            'the mask'
        )
    if split is None:
        report.notes.append(
            'not checked without --annotations or --images: whether the images belong to the split, and whether boxes '
            'and masks have the size of their image'
        )
        return
    if bare := len(set(split.sizes) - set(objects)):
        report.notes.append(f'{bare} of {len(split.sizes)} images have no object')
    if not report.faults:
        _load(entries, split, report)


def _object_faults(entry: Mapping[str, Any], masks: bool, split: CocoSplit | None) -> Iterator[tuple[str, str]]:
    """Kind and reason of what is wrong with an object by itself."""
    number, category, score = entry.get('image_id'), entry.get('category_id'), entry.get('score')
    size = None
    if not _is_int(number):
        yield 'image', f'image_id is {number!r}, expected a whole number'
    elif split is not None and (size := split.sizes.get(number)) is None:
        yield 'image', f'image_id {number} is none of the {len(split.sizes)} images of the split'
    categories = COCO_IDS if split is None else split.categories
    if not _is_int(category) or category not in categories.values():
        yield 'category', f'category_id is {category!r}, expected one of the {len(categories)} ids of COCO (1 to 90)'
    if not _is_number(score) or not 0 <= score <= 1:
        yield 'score', f'score is {score!r}, expected 0 to 1'
    if masks:
        yield from (('mask', reason) for reason in _mask_faults(entry.get('segmentation'), size))
    if not masks or 'bbox' in entry:
        yield from _box_faults(entry.get('bbox'), size)


def _box_faults(box: Any, size: Size | None) -> Iterator[tuple[str, str]]:
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


def _mask_faults(mask: Any, size: Size | None) -> Iterator[str]:
    if isinstance(mask, list):
        yield 'segmentation is a polygon, expected a compressed RLE mask'
        return
    if not isinstance(mask, dict) or not {'size', 'counts'} <= set(mask):
        yield f'segmentation is {str(mask)[:40]!r}, expected an RLE mask with size and counts'
        return
    claimed, counts = mask['size'], mask['counts']
    if not isinstance(claimed, list) or len(claimed) != 2 or not all(map(_is_int, claimed)):
        yield f'the size of the mask is {claimed!r}, expected [height, width] in pixels'
        return
    rows, columns = claimed
    if size is not None and (rows, columns) != size:
        yield f'the mask has {rows}x{columns} pixels (height x width), its image {size[0]}x{size[1]}'
    if not isinstance(counts, str):
        yield f'counts is a {type(counts).__name__}, expected the text of a compressed RLE mask'
        return
    try:
        lengths = run_lengths(counts)
    except ValueError as error:
        yield f'counts cannot be decoded: {error}'
        return
    if (lengths < 0).any() or lengths.sum() != rows * columns:
        yield (
            f'counts cannot be decoded: its runs add up to {lengths.sum()} pixels with {(lengths < 0).sum()} below '
            f'zero, the mask has {rows * columns}'
        )


def run_lengths(counts: str) -> np.ndarray:
    """The run lengths of a compressed mask in pixels: background, object, background, ... down the columns.

    pycocotools cannot check them: it reads past the end of a text that is cut off, and some versions write past the end
    of the mask where the runs are too long. A number is written in groups of five bits, the lowest first, a character
    for each: 48 and the group, and 32 more where another group follows. The highest bit of the last group is the sign.
    From the fourth number on, the difference to the number two places before is written.

    Raises:
        ValueError: The text is no such list.
    """
    codes = np.frombuffer(counts.encode('utf-8', 'surrogatepass'), dtype=np.uint8).astype(np.int64) - 48
    if ((codes < 0) | (codes >= 64)).any():
        raise ValueError('it holds characters that do not occur in such a text')
    if not codes.size:
        return codes
    if codes[-1] >= 32:
        raise ValueError('it is cut off')
    ends = np.flatnonzero(codes < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    groups = ends - starts + 1
    if groups.max() > 7:
        raise ValueError('it holds a number of more than 32 bits')
    places = np.arange(codes.size) - np.repeat(starts, groups)
    lengths = np.add.reduceat((codes % 32) << (5 * places), starts)
    lengths -= np.where(codes[ends] & 16, 1 << (5 * groups), 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


def _load(entries: list[Any], split: CocoSplit, report: Report) -> None:
    """Take the step by which the server reads the list."""
    from pycocotools.coco import COCO

    truth = COCO()
    truth.dataset = {
        'images': [{'id': number, 'height': rows, 'width': columns} for number, (rows, columns) in split.sizes.items()],
        'categories': [{'id': number, 'name': name} for name, number in split.categories.items()],
        'annotations': [],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        for start in range(0, len(entries), PART):
            try:
                truth.loadRes([dict(entry) for entry in entries[start : start + PART]])
            except Exception as error:
                reason = f'pycocotools cannot load it: {type(error).__name__}: {error}'
                report.add('JSON file', f'entries from {start} on', reason)
                return


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
