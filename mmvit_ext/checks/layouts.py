"""Whether a dataset is the one that a row was published on: as many images and annotations, and files that open.

A figure measured on 1,999 of 2,000 images looks like any other figure, so a count that is off by one is an error.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmengine.config import Config

from mmvit_ext.config.walking import iter_dataset_cfgs
from mmvit_ext.errors.failures import describe_failure
from mmvit_ext.errors.user_error import UserError

from .datasets import build_lazily, check_datasets, load_samples

__all__ = [
    'LAYOUTS',
    'DatasetCount',
    'Layout',
    'check_layout',
    'draw_mini_data',
]

SAMPLE = 8
"""Files of each kind that are opened."""


@dataclass(frozen=True)
class Layout:
    """What a dataset consists of.

    Args:
        train: Images for training.
        test: Images that rows are evaluated on.
        place: What has to be where, below ``--data-root``, and where it comes from.
    """

    train: int
    test: int
    place: str


_CONTEXT = Layout(
    4996,
    5104,
    'JPEGImages/*.jpg, SegmentationClassContext/*.png and ImageSets/SegmentationContext/{train,val}.txt: VOC 2010 '
    "with the annotations of PASCAL-Context, converted with mmseg's tools/dataset_converters/pascal_context.py",
)

_MINI = Layout(240, 60, 'what `python tools/make_mini_dataset.py data/mini` draws')

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        'ADE20K': Layout(
            20_210,
            2_000,
            '{images,annotations}/{training,validation}: ADEChallengeData2016.zip of http://sceneparsing.csail.mit.edu',
        ),
        'COCO 2017': Layout(
            118_287,
            5_000,
            '{train2017,val2017}/*.jpg and annotations/instances_{train2017,val2017}.json: https://cocodataset.org',
        ),
        'COCO-Stuff-10K': Layout(
            9_000,
            1_000,
            '{images,annotations}/{train2014,test2014}: cocostuff-10k-v1.1.zip of '
            "https://github.com/nightrome/cocostuff10k, converted with mmseg's "
            'tools/dataset_converters/coco_stuff10k.py',
        ),
        'PASCAL-Context (59 classes)': _CONTEXT,
        'PASCAL-Context (60 classes)': _CONTEXT,
        'ImageNet-1K': Layout(
            1_281_167,
            50_000,
            '{train,val}/<wnid>/*.JPEG, or meta/{train,val}.txt with a path and a class number per line: ILSVRC 2012 '
            'of https://image-net.org',
        ),
        'CIFAR-10': Layout(
            50_000, 10_000, 'cifar-10-batches-py: cifar-10-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html'
        ),
        'CIFAR-100': Layout(
            50_000, 10_000, 'cifar-100-python: cifar-100-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html'
        ),
        **{f'mini {name}': _MINI for name in ('ADE20K', 'COCO', 'ImageNet')},
    }
)
"""The datasets of the ledger by name."""


@dataclass(frozen=True)
class DatasetCount:
    """What a dataset was found to hold.

    Args:
        split: ``train``, ``val`` or ``test``, as the config calls it.
        images: Number of images.
        annotations: Label maps, objects or class numbers, whatever the dataset has.
        unit: What the annotations are.
        opened: Images that were read and prepared.
    """

    split: str
    images: int
    annotations: int
    unit: str
    opened: int

    def __str__(self) -> str:
        return f'{self.split}: {self.images:,} images, {self.annotations:,} {self.unit}, {self.opened} of them opened'


def check_layout(
    cfg: Config, name: str, splits: Sequence[str], sample: int = SAMPLE, *, tested_on: str = 'test'
) -> list[DatasetCount]:
    """Check the datasets of a config against what is known of them.

    Args:
        cfg: The config, its scope prepared and ``data_root`` set.
        name: The dataset's name in the ledger.
        splits: Which of ``train``, ``val`` and ``test``.
        sample: How many images of each are opened, evenly spread.
        tested_on: ``train`` where a row is evaluated on the training images, as generators are.

    Returns:
        The counts.

    Raises:
        UserError: Something is missing, the numbers are others or a file cannot be read; names what belongs where.
    """
    layout = LAYOUTS.get(name)
    if layout is None:
        raise UserError(f'the layout of {name} is not known: expected one of {list(LAYOUTS)}')
    place = f'expected below --data-root: {layout.place}'
    try:
        check_datasets(cfg, splits)
    except UserError as error:
        raise UserError(f'{error}; {place}') from error
    counts = []
    for split in splits:
        (cfg_of_split,) = [
            (key, dataset)
            for key, dataset in iter_dataset_cfgs(cfg[f'{split}_dataloader'].dataset, f'{split}_dataloader.dataset')
        ]
        count = _check_split(*cfg_of_split, split, sample, place)
        expected = layout.train if 'train' in (split, tested_on) else layout.test
        if count.images != expected:
            raise UserError(
                f'{name} has {count.images:,} images for {split} in {cfg_of_split[1].get("data_root")} where it should '
                f'have {expected:,}: get the missing ones or take out what does not belong there; {place}'
            )
        counts.append(count)
    return counts


def _check_split(key: str, dataset: Mapping[str, Any], split: str, sample: int, place: str) -> DatasetCount:
    built = build_lazily(dataset, key)
    if built is None:
        raise UserError(f'{key} is a {dataset.get("type")}, whose images cannot be counted: use a dataset of _base_')
    samples = load_samples(built, key)
    for entry, role in (('img_path', 'images'), ('seg_map_path', 'label maps')):
        paths = [item[entry] for item in samples if isinstance(item.get(entry), str)]
        absent = _absent(paths)
        if absent:
            raise UserError(
                f'{len(absent):,} of {len(paths):,} {role} of {key} do not exist, for example {absent[0]}; {place}'
            )
    step = max(1, len(samples) // sample)
    chosen = samples[::step][:sample]
    for item in chosen:
        _open(built, dict(item), key)
    label_maps = sum(isinstance(item.get('seg_map_path'), str) for item in samples)
    if label_maps:
        annotations, unit = label_maps, 'label maps'
    elif any('instances' in item for item in samples):
        annotations, unit = sum(len(item.get('instances') or []) for item in samples), 'objects'
    else:
        annotations, unit = sum('gt_label' in item for item in samples), 'class numbers'
    return DatasetCount(split, len(samples), annotations, unit, len(chosen))


def _absent(paths: Sequence[str]) -> list[str]:
    """Those that do not exist, by one listing per folder."""
    folders: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folders[os.path.dirname(path)].append(path)
    absent = []
    for folder, members in folders.items():
        present = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        absent += [path for path in members if os.path.basename(path) not in present]
    return absent


def _open(built: Any, item: dict[str, Any], key: str) -> None:
    try:
        built.pipeline({**item, 'sample_idx': 0})
    except UserError:
        raise
    except Exception as error:
        reason = describe_failure(error) or f'{type(error).__name__}: {" ".join(str(error).split())}'
        where = item.get('img_path', key)
        raise UserError(f'the image {where} or its annotation cannot be read: {reason}; copy it again') from error


def draw_mini_data(data_root: str | Path) -> bool:
    """Draw the mini dataset where a row's ``data_root`` expects it and nothing is there.

    Args:
        data_root: The folder of one of the mini dataset's layouts, such as ``data/mini/imagenet``.

    Returns:
        Whether it was drawn.

    Raises:
        UserError: The folder is no place for it.
    """
    from mmvit_ext.datasets.mini import DATA_ROOTS, MiniDatasetError, make_mini_dataset

    root = Path(data_root)
    if root.exists():
        return False
    for end in DATA_ROOTS.values():
        parts = Path(end).parts
        if root.absolute().parts[-len(parts) :] == parts:
            out = root.absolute().parents[len(parts) - 1]
            try:
                make_mini_dataset(out)
            except MiniDatasetError as error:
                raise UserError(str(error)) from error
            return True
    raise UserError(
        f'the data root {root} does not exist: expected a folder that ends in {" or ".join(DATA_ROOTS.values())}, '
        'below which `python tools/make_mini_dataset.py` wrote'
    )
