"""Open an archive as its test server would, in bounded memory and time whatever it holds, and name every fault."""

import gc
import hashlib
import io
import json
import math
import os
import re
import reprlib
import stat
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, TextIO, TypeGuard

import numpy as np
from PIL import Image

from mmvit_ext.checks.coco_file import box_problem, is_number
from mmvit_ext.errors.user_error import UserError, printable
from mmvit_ext.inference.images import collect_images

from . import run

__all__ = ['Fault', 'Report', 'check_archive', 'json_entries', 'run_lengths']

SHOWN = 5  # faults of a kind that are listed unless all are asked for
KEPT = 1000  # faults of a kind that are kept: the rest is counted
LONGEST = 300  # characters of a name or reason
MAX_UNPACKED = 2**31  # bytes that COCO's list may have: two million objects with masks need about half of them
MAX_LIST = 2**24  # bytes of an archive's list of members, which zipfile reads at once: enough for 150,000 label maps
WINDOW = 2**20  # characters of a JSON list that are in memory at a time: the most that an entry may have
_BLANK = re.compile(r'[ \t\n\r]*')
_OPENING = re.compile(r'[ \t\n\r]*\[([ \t\n\r]*\])?')
_SIGN = re.compile(r'[ \t\n\r]*([,\]])')
MAX_FAULTS = 100_000  # faults of the objects after which a list is read no further
MAX_FILE, MAX_PIXELS, MAX_ALL_PIXELS = 2**25, 2**25, 2**33
"""Bytes and pixels of a label map, and pixels of all of them: ADE20K's images have less than a million on average."""
_TEST_NAME = re.compile(r'ADE_(?:test|val)_\d{8}')
Size = tuple[int, int]  # height and width in pixels


class Fault(NamedTuple):
    """What a test server would refuse or score wrongly: its kind, the file or entry, what was found and expected."""

    kind: str
    where: str
    reason: str


@dataclass
class Report:
    """What an archive holds, what is wrong with it, and notes on what else is worth knowing or was not checked."""

    content: str = 'an unknown file'
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, where: str, reason: str) -> None:
        """Add a fault."""
        self.counts[kind] += 1
        if self.counts[kind] <= KEPT:
            where, reason = (text if len(text) <= LONGEST else f'{text[:LONGEST]}...' for text in (where, reason))
            self.faults.append(Fault(kind, printable(where), printable(reason)))

    def lines(self, *, complete: bool = False) -> list[str]:
        """The report as lines of text: the first five faults of each kind, or the first thousand."""
        lines = [f'{self.content}: {self.counts.total() or "no"} faults']
        for kind, total in self.counts.items():
            shown = [fault for fault in self.faults if fault.kind == kind][: KEPT if complete else SHOWN]
            lines += [f'  {kind}: {fault.where}: {fault.reason}' for fault in shown]
            if len(shown) < total:
                lines.append(f'  {kind}: {total - len(shown)} more')
        return lines + [f'  note: {note}' for note in self.notes]


def check_archive(
    path: str | Path, *, images: str | Path | None = None, annotations: str | Path | None = None
) -> Report:
    """Find what is wrong with an archive; its content tells whether it is for COCO detection or ADE20K scene parsing.

    ``images`` is the folder of the test images; ``annotations`` is the image list of a split of COCO, in its place.
    """
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise UserError(f'there is no archive {path}: check the path')
    report = Report()
    with BoundedFile(path) as file, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of Pillow and zipfile: what they warn of is looked for here
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # zipfile raises what its parts raise
            report.add('archive', path.name, f'it cannot be opened: {error}')
            return report
        members = archive.infolist()
        is_coco = path.stem.startswith('detections_') or any(info.filename.endswith('.json') for info in members)
        if annotations is not None and not is_coco:
            raise UserError(f'--annotations is for COCO, {path} holds label maps: pass --images')
        paths = None if images is None else collect_images([run.image_folder(images)])
        packed, unpacked = (sum(getattr(info, name) for info in members) for name in ('compress_size', 'file_size'))
        if packed > (size := path.stat().st_size):
            report.add('archive', path.name, f'its files overlap, or their sizes are wrong: {packed} bytes in {size}')
        elif unpacked > (limit := MAX_UNPACKED if is_coco else MAX_UNPACKED // 4):
            report.add('archive', path.name, f'it unpacks to {unpacked} bytes, expected at most {limit}')
        elif is_coco:
            split = None if paths is None else run.split_of_images(paths)
            split = split if annotations is None else run.read_coco_split(annotations)
            _check_coco(archive, path.stem, split, report)
        elif any(info.filename.endswith('.png') for info in members):
            _check_ade20k(archive, None if paths is None else {one.stem: run.image_size(one) for one in paths}, report)
        else:
            report.content = 'an unknown archive'
            report.add('archive', path.name, 'it holds neither JSON nor PNG files')
    for name, total in Counter(info.orig_filename for info in members).items():
        if set(name) & set('/\\\0'):
            report.add('folder', name, 'the server looks for files at the top of the archive, by plain names')
        if total > 1:
            report.add('duplicate file', name, f'the archive holds it {total} times')
    return report


def _check_ade20k(archive: zipfile.ZipFile, sizes: Mapping[str, Size] | None, report: Report) -> None:
    """Check label maps against the sizes of the test images by name, where these are known."""
    stems, pixels = set(), 0
    for info in archive.infolist():
        name = info.filename
        stem = name.rpartition('/')[2].removesuffix('.png')
        if not name.endswith('.png'):
            if not name.endswith('/'):  # is_dir() fails for an empty name
                report.add('extra file', name, 'expected PNG files only')
            continue
        stems.add(stem)
        if sizes is not None and stem not in sizes:
            report.add('extra label map', name, 'there is no image of that name')
            continue
        if sizes is None and not _TEST_NAME.fullmatch(stem):
            report.add('name', name, 'expected the name of its image, such as ADE_test_00000001.png')
        if pixels <= MAX_ALL_PIXELS:
            pixels += _check_map(archive, info, (sizes or {}).get(stem), report)
    report.content = f'ADE20K scene parsing ({len(stems)} label maps)'
    if pixels > MAX_ALL_PIXELS:
        report.add('archive', 'label maps', f'they have more than {MAX_ALL_PIXELS} pixels, the rest was not opened')
    if sizes is None:
        report.notes.append('not checked without --images: whether each image has a label map, and of its size')
    for stem in sorted(set(sizes or {}) - stems):
        report.add('missing label map', f'{stem}.png', 'the image has no label map')


def _check_map(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: Size | None, report: Report) -> int:
    """Check a label map; returns how many pixels were decoded."""
    name, labels = info.filename, np.empty(0)
    try:
        if info.file_size > MAX_FILE:
            raise ValueError(f'it has {info.file_size} bytes, expected at most {MAX_FILE}')
        with open_member(archive, info) as stream:
            content = stream.read(info.file_size)
        with Image.open(io.BytesIO(content), formats=['PNG']) as image:
            columns, rows = image.size
            mode = image.tile[0][3]
            image.verify()  # the checksums, which decoding leaves out
        if mode == 'L' and 0 < rows * columns <= MAX_PIXELS:
            with Image.open(io.BytesIO(content), formats=['PNG']) as image:
                labels = np.asarray(image)
    except Exception as error:  # decoders raise what they like
        reason = 'it is no PNG file' if isinstance(error, Image.UnidentifiedImageError) else str(error)
        report.add('unreadable label map', name, f'it cannot be decoded: {reason or type(error).__name__}')
        return 0
    if size is not None and (rows, columns) != size:
        report.add('size', name, f'it has {rows}x{columns} pixels (height x width), its image {size[0]}x{size[1]}')
    elif not 0 < rows * columns <= MAX_PIXELS:
        report.add('size', name, f'it has {rows}x{columns} pixels (height x width), expected 1 to {MAX_PIXELS} in all')
    if mode != 'L':
        report.add('colour mode', name, f"it has the mode {mode}, expected L: a channel of 8 bits, the pixels' labels")
    for label in {labels.min(), labels.max()} if labels.size else ():
        if not 1 <= label <= run.ADE20K_CLASSES:
            report.add('labels', name, f'it holds the label {label}, expected 1 to {run.ADE20K_CLASSES}')
    return labels.size


def _check_coco(archive: zipfile.ZipFile, name: str, split: run.CocoSplit | None, report: Report) -> None:
    """Check the objects in an archive against the images of a split, where these are known."""
    report.content = 'COCO detection'
    if not run.ARCHIVE_NAME.fullmatch(name):
        report.add('archive name', f'{name}.zip', f'expected {run.NAME_RULE}')
    files = []
    for info in archive.infolist():
        if info.filename.endswith('.json'):
            files.append(info)
        elif not info.filename.endswith('/'):  # is_dir() fails for an empty name
            report.add('extra file', info.filename, 'expected a single JSON file')
    if len(files) != 1:
        report.add('JSON file', f'{name}.zip', f'it holds {len(files) or "no"} JSON files, expected one, {name}.json')
        return
    base = files[0].filename.rpartition('/')[2]
    if base != f'{name}.json':
        report.add('JSON file', base, f'expected {name}.json, the name of the archive')
    collecting = gc.isenabled()
    gc.disable()  # what is read holds no cycles, and looking for them in a million lists takes most of the time
    try:
        with open_member(archive, files[0]) as stream:
            text = io.TextIOWrapper(stream, 'utf-8', newline='')  # it closes the stream when it is forgotten
            _check_objects(json_entries(text), split, report)
    except Exception as error:  # zipfile and its decompressors raise what they like
        report.add('JSON file', base, f'it cannot be read: {error or type(error).__name__}')
    finally:
        if collecting:
            gc.enable()


def _check_objects(entries: Iterator[Any], split: run.CocoSplit | None, report: Report) -> None:
    masks, index, with_box = None, -1, 0
    seen: dict[bytes, int] = {}
    objects: Counter[int] = Counter()
    for index, entry in enumerate(entries):
        if index >= run.MAX_OBJECTS * run.TEST_DEV_IMAGES or report.counts.total() > MAX_FAULTS:
            raise ValueError(f'the entries from {index} on are too many to count or to be checked')
        if not isinstance(entry, dict):
            report.add('entry', f'entry {index}', f'it is a {type(entry).__name__}, expected an object')
            continue
        masks = 'segmentation' in entry if masks is None else masks
        number = entry.get('image_id')
        where = f'entry {index} (image {_shown(number)})'
        faults = list(_object_faults(entry, masks, split))
        for kind, reason in faults:
            report.add(kind, where, reason)
        if _is_count(number):
            objects[number] += 1
        with_box += 'bbox' in entry
        try:
            # A digest, because a copy of two million masks would not fit into most memories.
            text = json.dumps(entry, sort_keys=True, allow_nan=False)
            digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if (first := seen.setdefault(digest, index)) != index:
                report.add('duplicate', where, f'it equals entry {first}')
        except ValueError as error:
            if not faults:
                report.add('entry', where, f'a server may refuse it: {error}')
    report.content = f'COCO detection ({"segm" if masks else "bbox"}, {index + 1} objects)'
    if index < 0:
        report.add('no objects', 'JSON file', 'the list is empty, which the server cannot score')
        return
    for number, total in objects.items():
        if total > run.MAX_OBJECTS:
            report.add('too many objects', f'image {number}', f'{total} objects, and the best {run.MAX_OBJECTS} count')
    if masks and with_box:
        report.notes.append(f"{with_box} masks come with a box: the server sorts objects by its area, not the mask's")
    if split is None:
        unknown = 'whether the images belong to the split, and boxes and masks fit the size of their image'
        report.notes.append(f'not checked without --annotations or --images: {unknown}')
    elif bare := len(set(split.sizes) - set(objects)):
        report.notes.append(f'{bare} of {len(split.sizes)} images have no object')


def _object_faults(entry: Mapping[str, Any], masks: bool, split: run.CocoSplit | None) -> Iterator[tuple[str, str]]:
    """Kind and reason of what is wrong with an object by itself."""
    number, category, score = entry.get('image_id'), entry.get('category_id'), entry.get('score')
    size = None
    if not _is_count(number):
        yield 'image', f'image_id is {_shown(number)}, expected a whole number of at most twelve digits'
    elif split is not None and (size := split.sizes.get(number)) is None:
        yield 'image', f'image_id {number} is none of the {len(split.sizes)} images of the split'
    categories = run.COCO_IDS if split is None else split.categories
    if not _is_count(category) or category not in categories.values():
        yield 'category', f'category_id is {_shown(category)}, expected one of the {len(categories)} ids of COCO'
    if not is_number(score) or not 0 <= score <= 1:
        yield 'score', f'score is {_shown(score)}, expected 0 to 1'
    if masks:
        yield from (('mask', reason) for reason in _mask_faults(entry.get('segmentation'), size))
    elif 'segmentation' in entry:
        yield 'mask', 'it has a segmentation, which the first object of the list has not'
    rows, columns = size or (math.inf, math.inf)
    if (not masks or 'bbox' in entry) and (problem := box_problem(entry.get('bbox'), columns, rows, flat=True)):
        yield 'box', f'bbox {_shown(entry.get("bbox"))} {problem}; expected left, top, width and height in pixels'


def _mask_faults(mask: Any, size: Size | None) -> Iterator[str]:
    if isinstance(mask, list):
        yield 'segmentation is a polygon, expected a compressed RLE mask'
        return
    if not isinstance(mask, dict) or not {'size', 'counts'} <= set(mask):
        yield f'segmentation is {_shown(mask)}, expected an RLE mask with size and counts'
        return
    claimed, counts = mask['size'], mask['counts']
    if not isinstance(claimed, list) or len(claimed) != 2 or not all(map(_is_count, claimed)):
        yield f'the size of the mask is {_shown(claimed)}, expected [height, width] in pixels'
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
    pixels = int(lengths.sum(dtype=np.float64))
    if (negative := (lengths < 0).sum()) or pixels != rows * columns:
        found = f'its runs add up to {pixels} pixels with {negative} below zero'
        yield f'counts cannot be decoded: {found}, the mask has {rows * columns}'


def run_lengths(counts: str) -> np.ndarray:
    """The run lengths of a compressed mask in pixels: background, object, background, ... down the columns.

    pycocotools reads past the end of a text that is cut off, and writes past the mask where runs are too long. A number
    is written in groups of five bits, the lowest first, a character for each: 48 and the group, and 32 more where
    another follows. The highest bit of the last group is the sign. From the fourth number on, the difference to the
    number two places before is written. ``ValueError`` where the text is no such list.
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


_REPR = reprlib.Repr()
_REPR.maxstring = 60
_shown = _REPR.repr


def _is_count(value: Any) -> TypeGuard[int]:
    """Whether a value may be an id or a size: COCO's ids are the twelve digits of a name."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12


class BoundedFile(io.FileIO):
    """A file of an archive, of which no more is read at once than a sound list of members has."""

    def read(self, size: int | None = -1, /) -> Any:
        """Read so many bytes."""
        if size is not None and size > MAX_LIST:
            raise zipfile.BadZipFile(f'its list of members has {size} bytes, expected at most {MAX_LIST}')
        return super().read(size)


@contextmanager
def open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    """Open a member that is read to its end in the block; ``BadZipFile`` where it is not what the archive says."""
    if info.flag_bits & 0x1:
        raise zipfile.BadZipFile('it is encrypted: pack it without a password')
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile unpacks others without a limit
        raise zipfile.BadZipFile('it is compressed by a method that not every server knows: pack it with deflate')
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise zipfile.BadZipFile('it is a link or a device: pack a regular file')
    with archive.open(info) as stream:
        yield stream
        if stream.tell() != info.file_size:
            raise zipfile.BadZipFile(f'it has {stream.tell()} bytes, the archive says {info.file_size}')


def json_entries(text: TextIO) -> Iterator[Any]:
    """The entries of a JSON list one after another; ``ValueError`` or ``RecursionError`` where it cannot be read."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    window, before, count = text.read(WINDOW), 0, 0
    opening = _OPENING.match(window)
    if opening is None:
        raise ValueError(f'it starts with {window[:9]!r}, expected a list, in UTF-8 without a byte order mark')
    position, more = opening.end(), opening[1] is None
    while more:
        try:
            entry, end = decoder.raw_decode(window, _BLANK.match(window, position).end())  # type: ignore[union-attr]
            sign = _SIGN.match(window, end)
            if sign is None:
                raise json.JSONDecodeError("Expecting ',' or ']'", window, end)
        except json.JSONDecodeError as error:
            following = text.read(WINDOW - len(window) + position)
            if not following:
                limit = f', an entry may have {WINDOW} characters' if len(window) == WINDOW else ''
                raise ValueError(f'{error.msg} at character {before + error.pos}{limit}') from error
            before += position
            window, position = window[position:] + following, 0
        except ValueError as error:
            raise ValueError(f'entry {count}: {error}') from error
        else:
            yield entry
            position, more, count = sign.end(), sign[1] == ',', count + 1
    rest = window[position:] or text.read(WINDOW)
    while rest:
        if _BLANK.fullmatch(rest) is None:
            raise ValueError('there is more text behind the list')
        rest = text.read(WINDOW)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f'an object has the key {Counter(key for key, _ in pairs).most_common(1)[0][0]!r} twice')
    return found
