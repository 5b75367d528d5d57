"""Check that a dataset is the one that a row was published on: its numbers of images, and files that open.

A figure measured on 1,999 of 2,000 images looks like any other figure, so a count that is off by one is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmengine.config import Config

from mmvit_ext.datasets import mini
from mmvit_ext.errors.failures import describe_failure
from mmvit_ext.errors.user_error import UserError

from .datasets import VisitedDataset, check_samples, visit_datasets

__all__ = ['LAYOUTS', 'DatasetCount', 'Layout', 'check_layout', 'draw_mini_data']

SAMPLE = 8
"""Images of each dataset that are opened."""


@dataclass(frozen=True)
class Layout:
    """What a dataset consists of."""

    train: int  # images for training
    test: int  # images that rows are evaluated on
    place: str  # what has to be where, below ``--data-root``, and where it comes from


_CONTEXT = Layout(
    4996,
    5104,
    'JPEGImages/*.jpg, SegmentationClassContext/*.png and ImageSets/SegmentationContext/{train,val}.txt: VOC 2010 '
    "with the annotations of PASCAL-Context, converted with mmseg's tools/dataset_converters/pascal_context.py",
)

_MINI = Layout(240, 60, 'what `python tools/make_mini_dataset.py data/mini` draws')

_CIFAR = '{0}: {1}.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html'

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
        'Oxford Flowers-102': Layout(
            2_040,
            6_149,
            'jpg/*.jpg, imagelabels.mat and setid.mat: https://www.robots.ox.ac.uk/~vgg/data/flowers/102',
        ),
        'Oxford-IIIT Pets': Layout(
            3_680,
            3_669,
            'images/*.jpg and annotations/{trainval,test}.txt: https://www.robots.ox.ac.uk/~vgg/data/pets',
        ),
        'iNaturalist 2019': Layout(
            265_213,
            3_030,
            'train_val2019/*/*/*.jpg, and meta/{train,val}.txt with file_name and category_id of {train,val}2019.json '
            'per line: https://github.com/visipedia/inat_comp',
        ),
        'CIFAR-10': Layout(50_000, 10_000, _CIFAR.format('cifar-10-batches-py', 'cifar-10-python')),
        'CIFAR-100': Layout(50_000, 10_000, _CIFAR.format('cifar-100-python', 'cifar-100-python')),
        **{f'mini {name}': _MINI for name in ('ADE20K', 'COCO', 'ImageNet')},
    }
)
"""The datasets of the ledger by name."""


@dataclass(frozen=True)
class DatasetCount:
    """What a dataset was found to hold."""

    split: str  # as the config calls it
    images: int
    annotations: int
    unit: str  # of the annotations: label maps, objects or class numbers
    opened: int  # images that were read and prepared

    def __str__(self) -> str:
        return f'{self.split}: {self.images:,} images, {self.annotations:,} {self.unit}, {self.opened} of them opened'


def check_layout(
    cfg: Config, name: str, splits: Sequence[str], sample: int = SAMPLE, *, tested_on: str = 'test'
) -> list[DatasetCount]:
    """Count and check the datasets of a config against what is known of them.

    Args:
        cfg: The config, its scope prepared and ``data_root`` set.
        name: The dataset's name in the ledger.
        splits: Which of ``train``, ``val`` and ``test``.
        sample: How many images of each are opened, evenly spread.
        tested_on: ``train`` where a row is evaluated on the training images, as generators are.

    Raises:
        UserError: Something is missing, the numbers are others or a file cannot be read; names what belongs where.
    """
    layout = LAYOUTS.get(name)
    if layout is None:
        raise UserError(f'the layout of {name} is not known: expected one of {list(LAYOUTS)}')
    counts = []
    for split in splits:
        try:
            (dataset,) = visit_datasets(cfg, [split])
            if dataset.built is None:
                kind = dataset.config.get('type')
                raise UserError(f'{dataset.key} is a {kind}, whose images cannot be counted: use a dataset of _base_')
            count = _count(dataset, split, sample)
            expected = layout.train if 'train' in (split, tested_on) else layout.test
            if count.images != expected:
                raise UserError(
                    f'{name} has {count.images:,} images for {split} in {dataset.config.get("data_root")} where it '
                    f'should have {expected:,}: get the missing ones or take out what does not belong there'
                )
        except UserError as error:
            raise UserError(f'{error}; expected below --data-root: {layout.place}') from error
        counts.append(count)
    return counts


def _count(dataset: VisitedDataset, split: str, sample: int) -> DatasetCount:
    samples = check_samples(dataset)
    chosen = samples[:: max(1, len(samples) // sample)][:sample]
    for item in chosen:
        _open(dataset.built, dict(item), dataset.key)
    label_maps = sum(isinstance(item.get('seg_map_path'), str) for item in samples)
    if label_maps:
        annotations, unit = label_maps, 'label maps'
    elif any('instances' in item for item in samples):
        annotations, unit = sum(len(item.get('instances') or []) for item in samples), 'objects'
    else:
        annotations, unit = sum('gt_label' in item for item in samples), 'class numbers'
    return DatasetCount(split, len(samples), annotations, unit, len(chosen))


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
    """Draw the mini dataset where nothing is at a row's ``data_root``, and return whether it was drawn."""
    root = Path(data_root)
    if root.exists():
        return False
    for end in mini.DATA_ROOTS.values():
        if root.absolute().as_posix().endswith(f'/{end}'):
            mini.make_mini_dataset(root.absolute().parents[len(Path(end).parts) - 1])
            return True
    raise UserError(
        f'the data root {root} does not exist: expected a folder that ends in {" or ".join(mini.DATA_ROOTS.values())}, '
        'below which `python tools/make_mini_dataset.py` wrote'
    )
