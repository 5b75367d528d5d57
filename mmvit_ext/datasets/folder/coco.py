"""Objects of images in COCO files."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mmvit_ext.errors.user_error import UserError

from .data import Report, shown
from .index import Index
from .objects import Found, Shape, found_shapes
from .words import split_of_file

__all__ = ['read_coco']

_MOST_SHARED = 0.5
"""Part of a file's images that another file annotates, above which the file is not used, such as COCO's keypoints."""


def read_coco(index: Index, report: Report) -> Found | None:
    """Objects of all COCO files of a folder; the splits are those of their names or folders."""
    files = {path: content for path in index.texts_of('.json') if (content := _content(index, path))}
    if not files:
        return None
    shapes: dict[str, list[Shape]] = {}
    splits: dict[str, str] = {}
    order: dict[str, None] = {}
    used: list[str] = []
    for path in sorted(files, key=lambda path: ('instance' not in path.lower(), 'keypoint' in path.lower(), path)):
        content = files[path]
        images = _images(index, path, content, report)
        shared = [picture for picture in images.values() if picture in shapes]
        if len(shared) > _MOST_SHARED * len(images):
            report.doubts.append(f'{path} is not used, {used[0]} annotates the same images: move that away to use it')
            continue
        if shared:
            report.doubts.append(f'{path} lists images of other files again, which are left out: {shown(shared)}')
            images = {number: picture for number, picture in images.items() if picture not in shapes}
        used.append(path)
        names = _categories(content)
        order |= dict.fromkeys(names.values())
        split = split_of_file(path)
        shapes |= {picture: [] for picture in images.values()}
        splits |= {picture: split for picture in images.values() if split}
        for picture, shape in _shapes(path, content, images, names):
            shapes[picture].append(shape)
    layout = f'COCO annotation file{"s" * (len(used) > 1)} {shown(used)}'
    return found_shapes(index, layout, shapes, report, tuple(order), splits)


def _content(index: Index, path: str) -> dict[str, Any] | None:
    """The content of a JSON file if it is one of COCO's with objects."""
    text = index.read(path)
    if '"annotations"' not in text or '"images"' not in text:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{index.root / path} is no JSON file ({error}): copy or export it again') from error
    for key in ('images', 'annotations', 'categories'):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            return None
    numbers = [entry.get('id') for key in ('images', 'categories') for entry in content[key]]
    numbers += [entry.get(key) for entry in content['annotations'] for key in ('image_id', 'category_id')]
    if not all(isinstance(number, int | str | None) for number in numbers):
        raise UserError(f'{index.root / path} has an id that is neither a number nor a text: export it again')
    return content if any('bbox' in entry for entry in content['annotations'][:100]) else None


def _images(index: Index, path: str, content: Mapping[str, Any], report: Report) -> dict[Any, str]:
    """The picture of each image id; those that do not exist are left out."""
    found = {e.get('id'): index.find(str(e.get('file_name', '')), near=path) for e in content['images']}
    missing = [str(e.get('file_name')) for e in content['images'] if found[e.get('id')] is None]
    remedy = 'copy the images into the folder, or remove them from the file'
    report.leave_out(missing, len(content['images']), f'images of {path} are not in the folder', remedy)
    return {number: picture for number, picture in found.items() if picture}


def _categories(content: Mapping[str, Any]) -> dict[Any, str]:
    """Names by id, without the ones that group others and have no object, as Roboflow writes them."""
    used = {entry.get('category_id') for entry in content['annotations']}
    groups = {e.get('supercategory') for e in content['categories'] if e.get('supercategory') != e.get('name')}
    kept = [e for e in content['categories'] if e.get('id') in used or e.get('name') not in groups]
    return {entry.get('id'): str(entry.get('name')) for entry in kept}


def _shapes(
    path: str, content: Mapping[str, Any], images: Mapping[Any, str], names: Mapping[Any, str]
) -> Iterator[tuple[str, Shape]]:
    """The picture and the shape of each annotation of an image that exists."""
    for entry in content['annotations']:
        picture, name, box = images.get(entry.get('image_id')), names.get(entry.get('category_id')), entry.get('bbox')
        where, points = f'{path}: annotation {entry.get("id")}', []
        if name is None:
            where += f' (unknown category {entry.get("category_id")})'
        elif not (isinstance(box, list) and len(box) == 4 and all(isinstance(edge, int | float) for edge in box)):
            where += ' (no box)'
        elif box[2] > 0 and box[3] > 0:
            points = [(box[0], box[1]), (box[0] + box[2], box[1] + box[3])]
        mask = entry.get('segmentation')
        mask = mask if mask and mask != [[]] else None
        if picture is not None:
            crowd = bool(entry.get('iscrowd'))
            yield picture, Shape(name or '', points, where, crowd, mask=mask, area=entry.get('area'))
