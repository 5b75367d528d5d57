"""List files and COCO files for the samples of a folder, and the dataset dicts that read them."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mmvit_ext.files import atomic_path

from .data import FolderData, Sample
from .parts import draw_objects, merge_parts

__all__ = ['write_datasets']


def write_datasets(data: FolderData, out_dir: Path) -> dict[str, dict[str, Any]]:
    """Write a list or COCO file for each split and return the datasets that read them, without ``pipeline``.

    Args:
        data: What :func:`understand` returned.
        out_dir: Where the files are written.
    """
    out_dir, datasets = Path(out_dir).absolute(), {}
    for split, samples in data.splits.items():
        common: dict[str, Any] = {'data_root': str(data.root), 'metainfo': {'classes': data.classes}}
        if data.palette:
            common['metainfo']['palette'] = [list(colour) for colour in data.palette]
        if data.task in ('det', 'inst'):
            path = str(out_dir / f'{split}.json')
            _write_coco(data, samples, Path(path))
            datasets[split] = dict(type='CocoDataset', **common, ann_file=path, data_prefix={'img': ''})
        elif data.task == 'seg':
            path = str(out_dir / f'{split}.csv')
            rows = [('image', 'mask'), *((item.image, _mask_of(data, item, out_dir)) for item in samples)]
            with atomic_path(path) as temporary, temporary.open('w', newline='', encoding='utf-8') as file:
                csv.writer(file).writerows(rows)
            datasets[split] = dict(type='mmvit_ext.ListSegDataset', **common, ann_file=path)
        else:
            path = str(out_dir / f'{split}.txt')
            with atomic_path(path) as temporary:
                temporary.write_text(''.join(f'{item.image} {item.label}\n' for item in samples), encoding='utf-8')
            datasets[split] = dict(type='CustomDataset', **common, ann_file=path, data_prefix='')
    return datasets


def _mask_of(data: FolderData, sample: Sample, out_dir: Path) -> str:
    """The path of an image's mask, which is written below ``out_dir`` where it is to be merged or drawn."""
    if sample.mask and not sample.parts:
        return sample.mask
    path = out_dir / 'masks' / f'{sample.image}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        labels = merge_parts(data.root, sample) if sample.parts else draw_objects(sample)
        Image.fromarray(labels).save(temporary, format='PNG')
    return str(path)


def _write_coco(data: FolderData, samples: Sequence[Sample], path: Path) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, sample in enumerate(samples, 1):
        height, width = sample.size
        images.append({'id': number, 'file_name': sample.image, 'height': height, 'width': width})
        for item in sample.objects:
            entry: dict[str, Any] = {'id': len(annotations) + 1, 'image_id': number, 'category_id': item.label + 1}
            said = isinstance(item.area, int | float) and item.area > 0
            area = item.area if said else item.box[2] * item.box[3]
            entry |= {'bbox': item.box, 'area': area, 'iscrowd': int(item.crowd)}
            annotations.append(entry if item.mask is None else {**entry, 'segmentation': item.mask})
    categories = [{'id': number, 'name': name} for number, name in enumerate(data.classes, 1)]
    with atomic_path(path) as temporary:
        content = {'images': images, 'annotations': annotations, 'categories': categories}
        temporary.write_text(json.dumps(content), encoding='utf-8')
