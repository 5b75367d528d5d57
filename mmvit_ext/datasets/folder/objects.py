"""Objects of images in the formats of COCO, PASCAL VOC and YOLO."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

from mmvit_ext.errors.user_error import UserError

from .class_names import ClassNames
from .data import LEFT_OUT, Object, Report, shown
from .index import Index
from .words import Places, split_of

__all__ = ['Found', 'read_coco', 'read_voc', 'read_yolo']


@dataclass
class Found:
    """Objects by image, and what was found on the way."""

    layout: str
    classes: tuple[str, ...]
    objects: dict[str, list[Object]]
    splits: dict[str, str] = field(default_factory=dict)  # of images, where the annotation file says it
    masks: bool = False
    json_files: dict[str, tuple[str, str]] = field(default_factory=dict)  # by split: COCO files that serve as they are
    files: tuple[str, ...] = ()


def _clip(edges: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, width and height of the part of a box that is in the image."""
    left, top, right, bottom = edges
    height, width = size
    left, right = (min(max(value, 0.0), float(width)) for value in (left, right))
    top, bottom = (min(max(value, 0.0), float(height)) for value in (top, bottom))
    return left, top, right - left, bottom - top


class _Wrong:
    """Objects that cannot be used, each with its file and line."""

    def __init__(self) -> None:
        self.places: list[str] = []
        self.total = 0

    def tell(self, report: Report) -> None:
        report.leave_out(self.places, self.total, 'objects that are no box in their image', 'correct these entries')


def _object(
    label: int, edges: Sequence[float], size: tuple[int, int], where: str, wrong: _Wrong, **more: Any
) -> Object | None:
    """An object with its box cut at the image's edges; ``None`` for one without area."""
    wrong.total += 1
    if all(math.isfinite(edge) and abs(edge) < 1e9 for edge in edges):
        left, top, width, height = _clip(edges, size)
        if width > 0 and height > 0 and edges[2] > edges[0] and edges[3] > edges[1]:
            return Object(label, (left, top, width, height), **more)
    wrong.places.append(where)
    return None


# COCO


def read_coco(index: Index, report: Report) -> Found | None:
    """Objects of all COCO files of a folder; the splits are those of their names or folders."""
    files = {
        path: content for path in index.texts if path.endswith('.json') and (content := _coco_content(index, path))
    }
    if not files:
        return None
    chosen = _one_for_each_image(files, report)
    names = list(dict.fromkeys(name for content in chosen.values() for name in _categories(content).values()))
    order = {name: number for number, name in enumerate(names)}
    found = Found('COCO annotation file' + 's' * (len(chosen) > 1) + f' {shown(list(chosen))}', tuple(names), {})
    wrong, with_mask, total = _Wrong(), 0, 0
    for path, content in chosen.items():
        missing: list[str] = []
        images: dict[Any, str] = {}
        for entry in content['images']:
            picture = index.find(str(entry.get('file_name', '')), near=path)
            if picture is None:
                missing.append(str(entry.get('file_name')))
            else:
                images[entry.get('id')] = picture
        remedy = 'copy the images into the folder, or remove them from the file'
        report.leave_out(missing, len(content['images']), f'images of {path} are not in the folder', remedy)
        headers = index.headers(list(images.values()))
        split = split_of(_plain(PurePosixPath(path).stem)) or next(
            (split for part in PurePosixPath(path).parts[-2::-1] if (split := split_of(part))), None
        )
        for picture in images.values():
            found.objects.setdefault(picture, [])
            if split:
                found.splits[picture] = split
        categories, before = _categories(content), len(wrong.places)
        for entry in content['annotations']:
            where = f'{path}: annotation {entry.get("id")}'
            picture, name = images.get(entry.get('image_id')), categories.get(entry.get('category_id'))
            if picture is None:
                continue
            box = entry.get('bbox')
            number = isinstance(box, list) and len(box) == 4 and all(isinstance(edge, int | float) for edge in box)
            if name is None or not number:
                wrong.total += 1
                wrong.places.append(f'{where} ({"no box" if name else "unknown category"})')
                continue
            mask = entry.get('segmentation')
            mask = mask if mask and mask != [[]] else None
            edges = (box[0], box[1], box[0] + box[2], box[1] + box[3])
            size = headers[picture].size if not headers[picture].problem else (10**6, 10**6)
            item = _object(
                order[name],
                edges,
                size,
                where,
                wrong,
                mask=mask,
                area=entry.get('area'),
                crowd=bool(entry.get('iscrowd')),
            )
            if item:
                found.objects[picture].append(item)
                total += 1
                with_mask += mask is not None
        sizes = all(
            (entry.get('height'), entry.get('width')) == headers[images[entry['id']]].size
            for entry in content['images']
            if entry.get('id') in images
        )
        folder = _image_folder(content['images'], images)
        whole = len(set(images.values())) == len(content['images']) and len(wrong.places) == before and sizes
        if split and whole and folder is not None and list(categories.values()) == names:
            found.json_files[split] = (path, folder)
    wrong.tell(report)
    found.masks = with_mask > (1 - LEFT_OUT) * total > 0
    if found.masks and with_mask < total:
        report.doubts.append(
            f'{total - with_mask} of {total} objects have no mask: pass --task det to train on boxes only'
        )
        found.objects = {image: [item for item in items if item.mask] for image, items in found.objects.items()}
        found.json_files.clear()
    found.files = tuple(chosen)
    return found


def _plain(stem: str) -> str:
    """The last word of a name such as ``instances_train2017`` that says a split."""
    words = [word for word in stem.replace('-', '_').replace('.', '_').split('_') if split_of(word)]
    return words[-1] if words else stem


def _coco_content(index: Index, path: str) -> dict[str, Any] | None:
    """The content of a JSON file if it is one of COCO's with objects."""
    text = index.read(path)
    if '"annotations"' not in text or '"images"' not in text:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{index.root / path} is no JSON file ({error}): copy or export it again') from error
    lists = (
        [content.get(key) for key in ('images', 'annotations', 'categories')] if isinstance(content, dict) else [None]
    )
    if not all(isinstance(items, list) and items and all(isinstance(item, dict) for item in items) for items in lists):
        return None
    return None if all('bbox' not in entry for entry in content['annotations'][:100]) else content


def _one_for_each_image(files: Mapping[str, dict[str, Any]], report: Report) -> dict[str, dict[str, Any]]:
    """Without the files that describe images which another one describes, too, such as COCO's of keypoints."""
    chosen: dict[str, dict[str, Any]] = {}
    taken: set[str] = set()
    for path in sorted(files, key=lambda path: ('instance' not in path.lower(), 'keypoint' in path.lower(), path)):
        names = {f'{PurePosixPath(path).parent}/{entry.get("file_name")}' for entry in files[path]['images']}
        if names & taken:
            report.doubts.append(f'{path} is not used, other files annotate the same images: move those away to use it')
        else:
            chosen[path] = files[path]
            taken |= names
    return dict(sorted(chosen.items()))


def _categories(content: Mapping[str, Any]) -> dict[Any, str]:
    """Names by id, without the ones that group others and have no object, as Roboflow writes them."""
    used = {entry.get('category_id') for entry in content['annotations']}
    groups = {entry.get('supercategory') for entry in content['categories']}
    entries = [
        e
        for e in content['categories']
        if e.get('id') in used or e.get('name') not in groups - {e.get('supercategory')}
    ]
    return {entry.get('id'): str(entry.get('name')) for entry in entries}


def _image_folder(entries: Sequence[Mapping[str, Any]], images: Mapping[Any, str]) -> str | None:
    """What stands before all file names of a COCO file, relative to the root, if it is one and the same."""
    starts = set()
    for entry in entries:
        picture, name = images.get(entry.get('id'), ''), str(entry.get('file_name'))
        starts.add(picture[: -len(name)] if picture.endswith(name) else None)
    return starts.pop() if len(starts) == 1 else None


# PASCAL VOC


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
        if root.tag != 'annotation':
            continue
        picture = index.find(PurePosixPath(path).stem, near=path) or index.find(
            root.findtext('filename') or '', near=path
        )
        if picture is None:
            lone.append(path)
            continue
        items = []
        for number, entry in enumerate(root.iter('object'), 1):
            try:
                box = [float(entry.findtext(f'bndbox/{edge}', 'nan')) for edge in ('xmin', 'ymin', 'xmax', 'ymax')]
            except ValueError:
                box = [math.nan] * 4
            where = f'{path}: object {number}'
            items.append(
                ((entry.findtext('name') or '').strip(), box, entry.findtext('difficult', '0').strip() == '1', where)
            )
        parsed[picture] = items
    if not parsed:
        return None
    report.leave_out(broken, len(paths), 'XML files cannot be read', 'correct them')
    report.leave_out(lone, len(paths), 'XML files have no image', 'copy the images into the folder')
    classes = sorted({name for items in parsed.values() for name, *_ in items})
    # VOC counts pixels from 1; a box that begins at 0 shows that a tool counted from 0.
    first = 0.0 if any(min(box[:2]) == 0 for items in parsed.values() for _, box, *_ in items) else 1.0
    headers, wrong, hard = index.headers(list(parsed)), _Wrong(), 0
    objects: dict[str, list[Object]] = {}
    for picture, items in parsed.items():
        objects[picture] = []
        size = headers[picture].size if not headers[picture].problem else (10**6, 10**6)
        for name, (left, top, right, bottom), difficult, where in items:
            edges = (left - first, top - first, right, bottom)
            item = _object(classes.index(name), edges, size, where, wrong, crowd=difficult)
            objects[picture] += [item] if item else []
            hard += difficult
    wrong.tell(report)
    if hard:
        report.notes.append(f'{hard} objects marked as difficult are neither trained nor scored on')
    return Found(f'{len(parsed)} XML files of PASCAL VOC', tuple(classes), objects)


# YOLO


def read_yolo(index: Index, places: Places, names: ClassNames, report: Report) -> Found | None:
    """Objects of text files, one for each image, with a class number and a box or polygon a line."""
    texts: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path in index.texts:
        if path.endswith('.txt'):
            place = places.read(path)
            for key in ((place.split or '', *place.key), place.key, (place.key[-1],)):
                texts[key].append(path)
    if not texts:
        return None
    of_image: dict[str, str] = {}
    for path in index.pictures:
        place = places.read(path)
        for key in ((place.split or '', *place.key), place.key, (place.key[-1],)):
            if len(texts.get(key, ())) == 1:
                of_image[path] = texts[key][0]
                break
    lines = {
        path: [(number, line.split()) for number, line in enumerate(index.read(text).splitlines(), 1) if line.strip()]
        for path, text in of_image.items()
    }
    entries = [entry for items in lines.values() for _, entry in items]
    if not entries or sum(map(_is_yolo, entries)) < (1 - LEFT_OUT) * len(entries):
        return None
    wrong, polygons = _Wrong(), sum(len(entry) > 6 for entry in entries)
    masks = polygons > (1 - LEFT_OUT) * len(entries)
    headers = index.headers(list(lines))
    objects: dict[str, list[Object]] = {}
    highest = max(int(float(entry[0])) for entry in entries if _is_yolo(entry))
    if names.by_id and highest > max(names.by_id):
        strange = {
            of_image[path]: None
            for path, items in lines.items()
            if any(_is_yolo(entry) and int(float(entry[0])) not in names.by_id for _, entry in items)
        }
        raise UserError(
            f'the label files {shown(list(strange))} have class numbers up to {highest}, but {names.source} names '
            f'{len(names.by_id)} classes: name all of them there, or correct the numbers'
        )
    if not names.by_id:
        report.doubts.append('the classes have no names: write a file classes.txt, one name a line')
    classes = [names.by_id.get(number, f'class_{number}') for number in range(max([highest, *names.by_id]) + 1)]
    for path, items in lines.items():
        objects[path] = []
        height, width = size = headers[path].size
        for number, entry in items:
            where = f'{of_image[path]}:{number}'
            if not _is_yolo(entry):
                wrong.total += 1
                wrong.places.append(where)
                continue
            values = [float(value) for value in entry[1:]]
            mask = None
            if len(values) > 5:
                points = [value * (height if place % 2 else width) for place, value in enumerate(values)]
                edges = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
                mask = [points]
            else:
                x, y, w, h = values[:4]
                edges = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
            if max(values) > 1.01 or min(values) < -0.01 or (masks and mask is None):
                wrong.total += 1
                wrong.places.append(where)
            elif not headers[path].problem and (
                item := _object(int(float(entry[0])), edges, size, where, wrong, mask=mask)
            ):
                objects[path].append(item)
    wrong.tell(report)
    if polygons and not masks:
        report.doubts.append(
            f'{polygons} of {len(entries)} lines are polygons and the others boxes: all are taken as boxes'
        )
        objects = {path: [Object(item.label, item.box) for item in items] for path, items in objects.items()}
    kind = 'polygons' if masks else 'boxes'
    return Found(f'{len(of_image)} text files of YOLO with {kind}', tuple(classes), objects, masks=masks)


def _is_yolo(entry: Sequence[str]) -> bool:
    """Whether a line has a class number and the numbers of a box, with or without a score, or of a polygon."""
    try:
        values = [float(value) for value in entry]
    except ValueError:
        return False
    return (
        len(values) >= 5 and (len(values) in (5, 6) or len(values) % 2 == 1) and values[0] >= 0 and values[0] % 1 == 0
    )
