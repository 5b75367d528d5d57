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

from .catalog import COCO_CATEGORIES, MINI_CLASSES, MiniDatasetError, load_photos
from .masks import bounding_box, encode_mask
from .scene import Instance, Scene, draw_portrait, draw_scene

__all__ = ['DATA_ROOTS', 'MARKER', 'make_mini_dataset']

#: File in the root of a mini dataset that lists what was written; only such folders may be replaced.
MARKER = '.mmvit_ext_mini_dataset.json'

#: The value of a published config's ``data_root`` for each dataset, below the folder of the mini dataset.
DATA_ROOTS: Mapping[str, str] = {
    'ade20k': 'ade/ADEChallengeData2016',
    'coco_stuff10k': 'coco_stuff10k',
    'pascal_context': 'VOCdevkit/VOC2010',
    'coco': 'coco',
    'imagenet': 'imagenet',
}

JPEG_QUALITY = 92
LEAST_IMAGES = 4  # Four consecutive pictures show every class.
MOST_IMAGES = 99999  # The file names have room for no more.
SIDE_RANGE = (48, 2048)


def _write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def _write_json(path: Path, data: Any) -> None:
    _write(path, json.dumps(data, separators=(',', ':')) + '\n')


def _jpeg(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, 'JPEG', quality=JPEG_QUALITY)
    return stream.getvalue()


def _label_png(labels: np.ndarray, layout: str) -> bytes:
    table = np.array([0, *(getattr(cls, layout) for cls in MINI_CLASSES.values())], dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(table[labels]).save(stream, 'PNG')
    return stream.getvalue()


def _write_semantic(folder: Path, split: str, number: int, jpeg: bytes, scene: Scene) -> str:
    """Write the three layouts with label maps; return the file stem of the PASCAL-Context one."""
    train = split == 'train'
    root, sub, stem = folder / DATA_ROOTS['ade20k'], 'training' if train else 'validation', f'ADE_{split}_{number:08d}'
    _write(root / f'images/{sub}/{stem}.jpg', jpeg)
    _write(root / f'annotations/{sub}/{stem}.png', _label_png(scene.labels, 'ade'))

    # Both halves of COCO-Stuff-10K come from COCO's train2014, and their files say so.
    root, sub = folder / DATA_ROOTS['coco_stuff10k'], 'train2014' if train else 'test2014'
    stem = f'COCO_train2014_{_coco_id(split, number):012d}'
    _write(root / f'images/{sub}/{stem}.jpg', jpeg)
    _write(root / f'annotations/{sub}/{stem}_labelTrainIds.png', _label_png(scene.labels, 'coco_stuff'))

    root, stem = folder / DATA_ROOTS['pascal_context'], f'{2008 if train else 2010}_{number:06d}'
    _write(root / f'JPEGImages/{stem}.jpg', jpeg)
    _write(root / f'SegmentationClassContext/{stem}.png', _label_png(scene.labels, 'context'))
    return stem


def _coco_id(split: str, number: int) -> int:
    return number + (0 if split == 'train' else 500000)


def _coco_annotation(image_id: int, position: int, instance: Instance) -> dict[str, Any]:
    left, top, right, bottom = bounding_box(instance.mask)
    return {
        'id': image_id * 100 + position,
        'image_id': image_id,
        'category_id': instance.cls.coco,
        'segmentation': encode_mask(instance.mask),
        'area': int(instance.mask.sum()),
        'bbox': [left, top, right - left, bottom - top],
        'iscrowd': 0,
    }


def _write_scenes(folder: Path, split: str, scenes: Iterable[Scene]) -> None:
    """Write the scenes of a split in every layout but ImageNet's."""
    stems, images, annotations = [], [], []
    coco = folder / DATA_ROOTS['coco']
    for number, scene in enumerate(scenes, 1):
        jpeg, image_id = _jpeg(scene.image), _coco_id(split, number)
        stems.append(_write_semantic(folder, split, number, jpeg, scene))
        name = f'{image_id:012d}.jpg'
        _write(coco / f'{split}2017/{name}', jpeg)
        height, width = scene.labels.shape
        images.append({'id': image_id, 'file_name': name, 'height': height, 'width': width})
        annotations += [_coco_annotation(image_id, *numbered) for numbered in enumerate(scene.instances)]
    names = folder / DATA_ROOTS['pascal_context'] / f'ImageSets/SegmentationContext/{split}.txt'
    _write(names, ''.join(f'{stem}\n' for stem in stems))
    categories = [{'id': number, 'name': name, 'supercategory': group} for number, name, group in COCO_CATEGORIES]
    info = {'description': 'Mini dataset of mmvit_ext: drawn scenes, not COCO'}
    content = {'info': info, 'images': images, 'annotations': annotations, 'categories': categories}
    _write_json(coco / f'annotations/instances_{split}2017.json', content)


def _write_portraits(folder: Path, portraits: Mapping[str, Iterable[Scene]]) -> None:
    """Write pictures of one thing each in ImageNet's layout, with the true boxes beside it."""
    root, boxes = folder / DATA_ROOTS['imagenet'], {}
    for split, scenes in portraits.items():
        lines = []
        for number, scene in enumerate(scenes, 1):
            (instance,) = scene.instances
            cls, (height, width) = instance.cls, scene.labels.shape
            stem = f'{cls.wnid}_{number}' if split == 'train' else f'ILSVRC2012_val_{number:08d}'
            name = f'{cls.wnid}/{stem}.JPEG'
            _write(root / split / name, _jpeg(scene.image))
            lines.append(f'{name} {cls.imagenet}\n')
            entry = {'wnid': cls.wnid, 'label': cls.imagenet, 'width': width, 'height': height}
            boxes[f'{split}/{name}'] = {**entry, 'boxes': [bounding_box(instance.mask)]}
        _write(root / f'meta/{split}.txt', ''.join(lines))
    unit = 'left, top, right, bottom in pixels, the last two exclusive'
    _write_json(root / 'boxes.json', {'format': unit, 'images': boxes})


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


def _check_arguments(images: int, size: tuple[int, int], seed: int) -> None:
    low, high = SIDE_RANGE
    fault = ''
    if images < LEAST_IMAGES:
        fault = f'number of images is {images}, but it takes at least {LEAST_IMAGES} for every class to occur.'
    elif images > MOST_IMAGES:
        fault = f'number of images is {images}, but at most {MOST_IMAGES} can be named: ask for fewer.'
    elif len(size) != 2 or not all(low <= side <= high for side in size):
        shown = 'x'.join(map(str, size))
        fault = f"size is '{shown}', but height and width must both be {low} to {high} pixels: write it like '150x200'."
    elif seed < 0:
        fault = f'seed is {seed}, but it must not be negative: choose 0 or more.'
    if fault:
        raise MiniDatasetError(f'The {fault}')


def _refusal(out: Path, force: bool) -> str | None:
    """Why ``out`` must not be written: nothing but an older mini dataset is ever replaced."""
    marker = out / MARKER
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
    """Draw the mini dataset and write it in the layouts of five datasets; return ``out`` as a path.

    :data:`DATA_ROOTS` says where each begins below ``out``. Equal arguments give equal bytes as long as the versions of
    Pillow, numpy and scikit-image are equal, and a picture does not depend on how many others there are. The folder
    appears when it is complete, or not at all.

    Args:
        out: Folder to write. It must not exist, be empty, or with ``force`` be an older mini dataset.
        images: Training pictures, 4 to 99999; a quarter of it, at least 4, is added for validation.
        size: Middle (height, width) of the pictures in pixels, each 48 to 2048; sides vary by 15 % around it.
        seed: Seed of everything random, not negative.
        force: Replace an older mini dataset, unless it holds a file that was not written by this function.
        progress: Called after each picture with the numbers of pictures done and to be done.

    Raises:
        MiniDatasetError: An argument is wrong, ``out`` cannot be written or replaced, or a photograph is missing.
    """
    out = Path(os.path.abspath(out))  # has a name and a parent even if '.' was given
    _check_arguments(images, size, seed)
    refusal = _refusal(out, force)
    if refusal:
        raise MiniDatasetError(refusal)
    photos = load_photos()
    counts = {'train': images, 'val': max(images // 4, LEAST_IMAGES)}
    done, total = count(1), 2 * sum(counts.values())

    def drawn(draw: Callable[..., Scene], stream: int, number: int) -> Iterator[Scene]:
        for index in range(number):
            scene = draw(photos, index, size, np.random.default_rng([seed, stream, index]))
            if progress is not None:
                progress(next(done), total)
            yield scene

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent, ignore_cleanup_errors=True) as folder:
            built = Path(folder) / f'.{out.name}.partial'  # unlike the folder around it, with the usual permissions
            for stream, (split, number) in enumerate(counts.items()):
                _write_scenes(built, split, drawn(draw_scene, stream, number))
            portraits = enumerate(counts.items(), 2)
            _write_portraits(
                built, {split: drawn(draw_portrait, stream, number) for stream, (split, number) in portraits}
            )
            _write(built / 'README.md', _readme(images, counts['val'], size, seed))
            files = sorted(path.relative_to(built).as_posix() for path in built.rglob('*') if path.is_file())
            _write_json(built / MARKER, {'images': images, 'size': list(size), 'seed': seed, 'files': files})
            _move_into_place(built, out)
    except OSError as error:
        raise MiniDatasetError(
            f'{out} cannot be written ({error.strerror or error}): check the permissions and the free space of '
            f'{out.parent}, or choose another folder.'
        ) from error
    return out
