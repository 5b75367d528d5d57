"""Panoptic labels and label maps from COCO's masks: ``python -m benchmarks.coco128_labels DATA --out FOLDER``.

For images whose masks do not overlap, as those of COCO128, which were cut from COCO's panoptic labels. What belongs to
no object is background, a kind of stuff. The folder holds copies of the images and of the masks too, so that it is a
``data_root``. It is written whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from rich.console import Console
from rich.progress import track

from mmvit_ext.datasets.mini.masks import bounding_box

SPLIT = 'train2017'


def background(coco: COCO) -> dict:
    """The category of what belongs to no object."""
    return {'id': max(coco.cats) + 1, 'name': 'background', 'supercategory': 'stuff', 'isthing': 0}


def label_arrays(coco: COCO, image: dict) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Numbers of the segments in three channels ``(H, W, 3)``, classes ``(H, W)``, and what the segments are.

    Classes are counted from 1, in the order of COCO's numbers; 0 is the background, whose segment comes last.

    Args:
        coco: The file of masks.
        image: Its entry of the image.

    Raises:
        ValueError: Two masks share pixels, so that a label map cannot hold both.
    """
    labels = {category: label for label, category in enumerate(sorted(coco.cats), 1)}
    ids = np.zeros((image['height'], image['width']), dtype=np.uint32)
    classes, segments = np.zeros(ids.shape, dtype=np.uint8), []
    for number, annotation in enumerate(coco.imgToAnns[image['id']], 1):
        mask = coco.annToMask(annotation).astype(bool)
        if ids[mask].any():
            raise ValueError(f'{image["file_name"]}: masks {ids[mask].max()} and {number} share pixels')
        ids[mask], classes[mask] = number, labels[annotation['category_id']]
        kept = {key: annotation[key] for key in ('category_id', 'bbox', 'iscrowd')}
        segments.append({'id': number, 'area': int(mask.sum()), **kept})
    if (rest := ids == 0).any():
        left, top, right, bottom = bounding_box(rest)
        box = [left, top, right - left, bottom - top]
        ids[rest] = len(segments) + 1
        kept = {'category_id': background(coco)['id'], 'bbox': box, 'iscrowd': 0}
        segments.append({'id': len(segments) + 1, 'area': int(rest.sum()), **kept})
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8), classes, segments


def write(data_root: Path, out: Path) -> int:
    """Write labels and copies into a new folder; the number of images."""
    out.mkdir(parents=True)
    annotations = out / 'annotations'
    shutil.copytree(data_root / SPLIT, out / SPLIT)
    for name in (f'panoptic_{SPLIT}', f'semantic_{SPLIT}'):
        (annotations / name).mkdir(parents=True)
    masks = annotations / f'instances_{SPLIT}.json'
    shutil.copyfile(data_root / 'annotations' / masks.name, masks)
    coco, panoptic = COCO(masks), []
    for image in track(coco.dataset['images'], 'Images', transient=True):
        ids, classes, segments = label_arrays(coco, image)
        name = f'{Path(image["file_name"]).stem}.png'
        Image.fromarray(ids).save(annotations / f'panoptic_{SPLIT}' / name)
        Image.fromarray(classes).save(annotations / f'semantic_{SPLIT}' / name)
        panoptic.append({'image_id': image['id'], 'file_name': name, 'segments_info': segments})
    categories = [*({**category, 'isthing': 1} for category in coco.dataset['categories']), background(coco)]
    content = {'images': coco.dataset['images'], 'annotations': panoptic, 'categories': categories}
    (annotations / f'panoptic_{SPLIT}.json').write_text(json.dumps(content))
    return len(panoptic)


def main() -> None:
    """Read the arguments, write the labels and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data_root', type=Path, help=f'folder with {SPLIT}/ and annotations/instances_{SPLIT}.json')
    parser.add_argument('--out', type=Path, required=True, help='a new folder')
    args = parser.parse_args()
    if not (args.data_root / 'annotations' / f'instances_{SPLIT}.json').is_file():
        parser.error(f'{args.data_root} has no annotations/instances_{SPLIT}.json: name the folder of COCO128')
    if args.out.exists():
        parser.error(f'--out {args.out} exists: name a new folder')
    args.out.absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=args.out.absolute().parent) as folder:
            images = write(args.data_root, Path(folder) / 'labels')
            (Path(folder) / 'labels').rename(args.out)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    Console(soft_wrap=True).print(f'{images} images with labels in {args.out}', highlight=False)


if __name__ == '__main__':
    main()
