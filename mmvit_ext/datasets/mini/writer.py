"""Writes the mini dataset in the folder layouts of the datasets that it stands for.

Every layout holds its own copy of the pictures, so damaging or editing a file of one does not reach the others.
"""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .catalog import COCO_CATEGORIES, COCO_STUFF, MINI_CLASSES, PANOPTIC_STUFF, MiniDatasetError, load_photos
from .masks import bounding_box, encode_mask
from .scene import Scene, draw_portrait, draw_scene

__all__ = ['DATA_ROOTS', 'MARKER', 'make_mini_dataset']

#: File in the root of a mini dataset that lists what was written; only such folders may be replaced.
MARKER = '.mmvit_ext_mini_dataset.json'

#: The value of a published config's ``data_root`` for each dataset, below the folder of the mini dataset.
DATA_ROOTS = {
    'ade20k': 'ade/ADEChallengeData2016',
    'coco_stuff10k': 'coco_stuff10k',
    'pascal_context': 'VOCdevkit/VOC2010',
    'coco': 'coco',
    'imagenet': 'imagenet',
}

LEAST_IMAGES = 4  # Four consecutive pictures show every class.
MOST_IDS = 100_000  # of images, whose regions have numbers of 24 bit: three channels of a picture
MOST_IMAGES = 99999  # The file names have room for no more.
SIDE_RANGE = (48, 2048)

#: Folders of ADE20K and COCO-Stuff-10K, the year in PASCAL-Context's file names, and what COCO's ids are counted from.
OF_SPLITS = {'train': ('training', 'train2014', 2008, 0), 'val': ('validation', 'test2014', 2010, 500000)}


def _write(path: Path, data: bytes | str | dict[str, Any]) -> None:
    if isinstance(data, dict):
        data = json.dumps(data, separators=(',', ':')) + '\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def _encode(pixels: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, quality=92)  # a PNG has no quality
    return stream.getvalue()


def _write_scenes(folder: Path, split: str, scenes: Iterable[Scene]) -> None:
    """Write the scenes of a split in every layout but ImageNet's."""
    ade_part, stuff_part, year, first_id = OF_SPLITS[split]
    lines, images, annotations, panoptic = [], [], [], []
    for number, scene in enumerate(scenes, 1):
        image_id, jpeg = first_id + number, _encode(scene.image, 'JPEG')
        ade, context = f'{ade_part}/ADE_{split}_{number:08d}', f'{year}_{number:06d}'
        # Both halves of COCO-Stuff-10K come from COCO's train2014, and their files say so.
        stuff = f'{stuff_part}/COCO_train2014_{image_id:012d}'
        for dataset, image, annotation, ids in (
            ('ade20k', f'images/{ade}.jpg', f'annotations/{ade}.png', 'ade'),
            ('coco_stuff10k', f'images/{stuff}.jpg', f'annotations/{stuff}_labelTrainIds.png', 'coco_stuff'),
            ('pascal_context', f'JPEGImages/{context}.jpg', f'SegmentationClassContext/{context}.png', 'context'),
        ):
            table = np.array([0, *(getattr(cls, ids) for cls in MINI_CLASSES.values())], dtype=np.uint8)
            _write(folder / DATA_ROOTS[dataset] / image, jpeg)
            _write(folder / DATA_ROOTS[dataset] / annotation, _encode(table[scene.labels], 'PNG'))
        lines.append(f'{context}\n')
        name, (height, width) = f'{image_id:012d}.jpg', scene.labels.shape
        _write(folder / DATA_ROOTS['coco'] / f'{split}2017/{name}', jpeg)
        images.append({'id': image_id, 'file_name': name, 'height': height, 'width': width})
        segments, colours = _segments(scene, image_id)
        segmented = folder / DATA_ROOTS['coco'] / f'annotations/panoptic_{split}2017/{image_id:012d}.png'
        _write(segmented, _encode(colours, 'PNG'))
        panoptic.append({'image_id': image_id, 'file_name': f'{image_id:012d}.png', 'segments_info': segments})
        for position, (cls, mask) in enumerate(scene.instances):
            left, top, right, bottom = bounding_box(mask)
            numbers = {'id': image_id * 100 + position, 'image_id': image_id, 'category_id': cls.coco}
            size = {'area': int(mask.sum()), 'bbox': [left, top, right - left, bottom - top]}
            annotations.append({**numbers, 'segmentation': encode_mask(mask), **size, 'iscrowd': 0})
    _write(folder / DATA_ROOTS['pascal_context'] / f'ImageSets/SegmentationContext/{split}.txt', ''.join(lines))
    categories: list[dict[str, Any]] = [
        {'id': number, 'name': name, 'supercategory': group} for number, name, group in COCO_CATEGORIES
    ]
    info = {'description': 'Mini dataset of mmvit_ext: drawn scenes, not COCO'}
    content: dict[str, Any] = {'info': info, 'images': images, 'annotations': annotations, 'categories': categories}
    _write(folder / DATA_ROOTS['coco'] / f'annotations/instances_{split}2017.json', content)
    other: list[dict[str, Any]] = [
        {'id': i, 'name': name, 'supercategory': 'stuff', 'isthing': 0} for i, name in COCO_STUFF.items()
    ]
    content |= {'annotations': panoptic, 'categories': [{**entry, 'isthing': 1} for entry in categories] + other}
    _write(folder / DATA_ROOTS['coco'] / f'annotations/panoptic_{split}2017.json', content)


def _segments(scene: Scene, image_id: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The things and kinds of stuff of a scene as COCO's panoptic annotations have them, and their ids in colours."""
    regions: list[tuple[int | None, np.ndarray]] = [(cls.coco, mask) for cls, mask in scene.instances]
    regions += [(number, scene.labels == index) for index, number in PANOPTIC_STUFF.items()]
    found, ids = [], np.zeros(scene.labels.shape, dtype=np.uint32)
    for position, (category, mask) in enumerate(regions):
        if not mask.any():
            continue
        number = image_id % MOST_IDS * 100 + position + 1
        ids[mask] = number
        left, top, right, bottom = bounding_box(mask)
        size = {'area': int(mask.sum()), 'bbox': [left, top, right - left, bottom - top]}
        found.append({'id': number, 'category_id': category, **size, 'iscrowd': 0})
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    return found, colours


def _write_portraits(folder: Path, portraits: Mapping[str, Iterable[Scene]]) -> None:
    """Write pictures of one thing each in ImageNet's layout, with the true boxes beside it."""
    root, boxes = folder / DATA_ROOTS['imagenet'], {}
    for split, scenes in portraits.items():
        lines = []
        for number, scene in enumerate(scenes, 1):
            ((cls, mask),) = scene.instances
            stem = f'{cls.wnid}_{number}' if split == 'train' else f'ILSVRC2012_val_{number:08d}'
            name, (height, width) = f'{cls.wnid}/{stem}.JPEG', mask.shape
            _write(root / split / name, _encode(scene.image, 'JPEG'))
            lines.append(f'{name} {cls.imagenet}\n')
            entry = {'wnid': cls.wnid, 'label': cls.imagenet, 'width': width, 'height': height}
            boxes[f'{split}/{name}'] = {**entry, 'boxes': [bounding_box(mask)]}
        _write(root / f'meta/{split}.txt', ''.join(lines))
    edges = 'left, top, right, bottom in pixels, the last two exclusive'
    _write(root / 'boxes.json', {'format': edges, 'images': boxes})


def _readme(images: int, val_images: int, size: tuple[int, int], seed: int) -> str:
    rows = ''.join(
        f'| {cls.name} | {cls.photo} | {cls.ade} | {cls.coco_stuff} | {cls.context} | {cls.coco or "-"} '
        f'| {cls.wnid or "-"} |\n'
        for cls in MINI_CLASSES.values()
    )
    roots = ''.join(f'- {dataset}: `{root}`\n' for dataset, root in DATA_ROOTS.items())
    command = f'tools/make_mini_dataset.py --images {images} --size {size[0]}x{size[1]} --seed {seed}'
    return (
        f'# Mini dataset\n\nDrawn by `{command}` of mmvit_ext: {images} training and {val_images} validation pictures '
        'in the folder layouts of five datasets. The textures are cut from photographs inside scikit-image; the README '
        'of its `data` folder says where they come from.\n\n'
        f'`data_root` of each dataset, below this folder:\n\n{roots}\n'
        'Values in the annotation files (0 is "other"):\n\n'
        '| class | photograph | ADE20K | COCO-Stuff-10K | PASCAL-Context | COCO | ImageNet |\n'
        f'|---|---|---|---|---|---|---|\n{rows}'
    )


def _refusal(out: Path, images: int, size: tuple[int, int], seed: int, force: bool) -> str | None:
    """What is wrong with the arguments; nothing but an older mini dataset is ever replaced."""
    (low, high), marker = SIDE_RANGE, out / MARKER
    if images < LEAST_IMAGES:
        return f'The number of images is {images}, but it takes at least {LEAST_IMAGES} for every class to occur.'
    if images > MOST_IMAGES:
        return f'The number of images is {images}, but at most {MOST_IMAGES} can be named: ask for fewer.'
    if len(size) != 2 or not all(low <= side <= high for side in size):
        shown, bounds = 'x'.join(map(str, size)), f'{low} to {high} pixels'
        return f"The size is '{shown}', but height and width must both be {bounds}: write it like '150x200'."
    if seed < 0:
        return f'The seed is {seed}, but it must not be negative: choose 0 or more.'
    if out.is_symlink():
        return f'{out} is a symbolic link, which would be replaced by a folder: name the folder itself.'
    if out.exists() and not out.is_dir():
        return f'{out} is a file, but a folder is to be written there: choose another name.'
    if not out.exists() or not any(out.iterdir()):
        return None
    if not marker.is_file():
        return f'{out} exists and was not written by this tool, so it is never replaced: choose another folder.'
    if not force:
        return f'{out} already holds a mini dataset: add --force to replace it, or choose another folder.'
    try:
        known = {*json.loads(marker.read_text())['files'], MARKER}
    except (ValueError, KeyError, TypeError):
        return f'{marker} cannot be read, so it is unknown what in {out} may be removed: remove the folder yourself.'
    for path in sorted(out.rglob('*')):
        if (path.is_symlink() or not path.is_dir()) and path.relative_to(out).as_posix() not in known:
            return f'{path} was not written by this tool, and replacing {out} would remove it: move it elsewhere first.'
    return None


def _move_into_place(built: Path, out: Path) -> None:
    """Put the finished folder where it belongs; an older one is removed only when the new one is there."""
    if not out.exists():
        built.rename(out)
        return
    # Not inside the folder of `built`, which is removed whatever happens.
    old = Path(tempfile.mkdtemp(prefix=f'.{out.name}.old-', dir=out.parent)) / 'dataset'
    out.rename(old)
    try:
        built.rename(out)
    except BaseException:
        old.rename(out)
        old.parent.rmdir()
        raise
    shutil.rmtree(old.parent)


def make_mini_dataset(
    out: str | os.PathLike[str],
    *,
    images: int = 240,
    size: tuple[int, int] = (150, 200),
    seed: int = 0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw the mini dataset and write it in the layouts of five datasets, whole or not at all; return ``out``.

    Equal arguments give equal bytes with equal versions of Pillow, numpy and scikit-image. A picture does not depend on
    how many others there are; ``images`` are those for training. The sides of ``size`` (height, width) vary by 15 %.
    ``progress`` is called after each picture with the numbers of pictures done and to be done.
    """
    out = Path(os.path.abspath(out))  # has a name and a parent even if '.' was given
    if refusal := _refusal(out, images, size, seed, force):
        raise MiniDatasetError(refusal)
    photos = load_photos()
    counts = {'train': images, 'val': max(images // 4, LEAST_IMAGES)}
    done, total = count(1), 2 * sum(counts.values())

    def drawn(draw: Callable[..., Scene], first_stream: int) -> dict[str, Iterator[Scene]]:
        def scenes(stream: int, number: int) -> Iterator[Scene]:
            for index in range(number):
                scene = draw(photos, index, size, np.random.default_rng([seed, stream, index]))
                if progress is not None:
                    progress(next(done), total)
                yield scene

        return {split: scenes(stream, counts[split]) for stream, split in enumerate(counts, first_stream)}

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent, ignore_cleanup_errors=True) as folder:
            built = Path(folder) / f'.{out.name}.partial'  # unlike the folder around it, with the usual permissions
            for split, scenes in drawn(draw_scene, 0).items():
                _write_scenes(built, split, scenes)
            _write_portraits(built, drawn(draw_portrait, 2))
            _write(built / 'README.md', _readme(images, counts['val'], size, seed))
            files = sorted(path.relative_to(built).as_posix() for path in built.rglob('*') if path.is_file())
            _write(built / MARKER, {'images': images, 'size': list(size), 'seed': seed, 'files': files})
            _move_into_place(built, out)
    except OSError as error:
        remedy = f'check the permissions and the free space of {out.parent}, or choose another folder.'
        raise MiniDatasetError(f'{out} cannot be written ({error.strerror or error}): {remedy}') from error
    return out
