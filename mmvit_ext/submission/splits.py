"""The images of a test server: their names and sizes, and for COCO the ids of images and categories."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmvit_ext.checks.coco_file import read_lists
from mmvit_ext.datasets.mini.catalog import COCO_CATEGORIES
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import open_image

__all__ = ['COCO_IDS', 'CocoSplit', 'image_size', 'read_coco_split', 'split_of_images']

COCO_IDS = {name: number for number, name, _ in COCO_CATEGORIES}
"""Category ids by name, as in COCO's own annotation files."""
_ORIENTATION, _FIRST_TURNED = 0x0112, 5  # EXIF: from 5 on, width and height change places
_COCO_NAME = re.compile(r'\d{12}')


@dataclass(frozen=True)
class CocoSplit:
    """A split of COCO: image ids by file name, height and width in pixels by image id, category ids by name."""

    ids: dict[str, int]
    sizes: dict[int, tuple[int, int]]
    categories: dict[str, int]


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image in pixels, turned as its EXIF data say; only the head of the file is read."""
    try:
        with open_image(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
    except Exception as error:  # decoders raise what they like
        raise UserError(f'the image {path} cannot be read ({error}): copy or download it again') from error
    return (width, height) if turned else (height, width)


def read_coco_split(path: str | Path) -> CocoSplit:
    """Read the image list of a split (``image_info_test-dev2017.json``) or its annotations.

    Categories that the file does not list are COCO's own.
    """
    content = read_lists(Path(path).expanduser(), '--annotations', 'images')
    images = content['images']
    try:
        ids = {str(entry['file_name']): int(entry['id']) for entry in images}
        sizes = {int(entry['id']): (int(entry['height']), int(entry['width'])) for entry in images}
        categories = {str(entry['name']): int(entry['id']) for entry in content.get('categories') or []}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f'--annotations {path} is no image list of COCO ({type(error).__name__}: {error}): expected "images" with '
            '"id", "file_name", "height" and "width", as in image_info_test-dev2017.json'
        ) from error
    if not ids:
        raise UserError(f'--annotations {path} lists no images: expected a file such as image_info_test-dev2017.json')
    if not len(ids) == len(sizes) == len(images):
        raise UserError(f'--annotations {path} has an id or a file_name twice in "images": download it again')
    return CocoSplit(ids, sizes, categories or COCO_IDS)


def split_of_images(paths: Iterable[Path]) -> CocoSplit:
    """The split of the given images of COCO 2017, whose names are their ids: ``000000000139.jpg`` has the id 139."""
    ids, sizes = {}, {}
    for path in paths:
        if not _COCO_NAME.fullmatch(path.stem):
            raise UserError(
                f'the name of {path} is no image id: expected twelve digits as in 000000000139.jpg; pass '
                '--annotations with the image list of the split (image_info_test-dev2017.json)'
            )
        ids[path.name] = int(path.stem)
        sizes[int(path.stem)] = image_size(path)
    return CocoSplit(ids, sizes, COCO_IDS)
