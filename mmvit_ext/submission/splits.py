"""What a test server knows of its images: names, sizes, and for COCO the ids of images and categories."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mmvit_ext.datasets.mini.catalog import COCO_CATEGORIES
from mmvit_ext.errors.user_error import UserError

__all__ = ['CocoSplit', 'coco_image_id', 'image_size', 'read_coco_split', 'split_of_images']

COCO_IDS = {name: number for number, name, _ in COCO_CATEGORIES}
"""Category ids by name, as in COCO's own annotation files."""
_ORIENTATION, _FIRST_TURNED = 0x0112, 5  # EXIF: from 5 on, width and height change places
_COCO_NAME = re.compile(r'\d{12}')


@dataclass(frozen=True)
class CocoSplit:
    """The images and categories of a split of COCO.

    Args:
        ids: Image id by file name.
        sizes: Height and width in pixels by image id; none where only the names are known.
        categories: Category id by name.
    """

    ids: dict[str, int]
    sizes: dict[int, tuple[int, int]]
    categories: dict[str, int]


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels of an image as the loader turns it, from the head of the file.

    Args:
        path: The image.

    Returns:
        Height and width.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
    except OSError as error:
        raise UserError(f'the image {path} cannot be read ({error}): copy or download it again') from error
    return (width, height) if turned else (height, width)


def coco_image_id(path: Path) -> int:
    """The id that an image of COCO 2017 has in its name.

    Args:
        path: An image, such as ``000000000139.jpg``.

    Returns:
        Its id, here 139.

    Raises:
        UserError: The name is no number of twelve digits.
    """
    if not _COCO_NAME.fullmatch(path.stem):
        raise UserError(
            f'the image id cannot be told from the name of {path}: expected twelve digits as in 000000000139.jpg; pass '
            '--annotations with the image list of the split (image_info_test-dev2017.json)'
        )
    return int(path.stem)


def read_coco_split(path: str | Path) -> CocoSplit:
    """Read the image list of a split, or its annotations.

    Args:
        path: A JSON file such as ``image_info_test-dev2017.json`` or ``instances_val2017.json``.

    Returns:
        The images and the categories; COCO's own categories where the file lists none.

    Raises:
        UserError: The file is missing or holds no such list.
    """
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'--annotations {path} cannot be opened: {error.strerror}; check the path') from error
    except ValueError as error:
        raise UserError(f'--annotations {path} is no JSON file ({error}): download it again') from error
    try:
        images = content['images']
        ids = {entry['file_name']: int(entry['id']) for entry in images}
        sizes = {int(entry['id']): (int(entry['height']), int(entry['width'])) for entry in images}
        categories = {entry['name']: int(entry['id']) for entry in content.get('categories', [])}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'--annotations {path} is no image list of COCO ({type(error).__name__}: {error}): expected "images" with '
            '"id", "file_name", "height" and "width", as in image_info_test-dev2017.json'
        ) from error
    if not ids:
        raise UserError(f'--annotations {path} lists no images: expected a file such as image_info_test-dev2017.json')
    return CocoSplit(ids, sizes, categories or COCO_IDS)


def split_of_images(paths: Iterable[Path]) -> CocoSplit:
    """The split that a folder of COCO images makes up.

    Args:
        paths: The images; their ids are told from their names.

    Returns:
        The images with their sizes, and COCO's categories.

    Raises:
        UserError: A name holds no id, or an image cannot be read.
    """
    paths = list(paths)
    ids = {path.name: coco_image_id(path) for path in paths}
    return CocoSplit(ids, {ids[path.name]: image_size(path) for path in paths}, COCO_IDS)
