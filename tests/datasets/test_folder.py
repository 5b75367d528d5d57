"""Folders of images and annotations: what is understood of each layout."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from mmengine.config import Config

from mmvit_ext.checks.every_sample import check_every_file
from mmvit_ext.datasets.folder import FolderData, understand, write_datasets
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.registry import DATASETS, TRANSFORMS
from tests import folder_exports  # noqa: F401
from tests.folder_layouts import LAYOUTS, SIZE, blocks, mask, photo


def load(data: FolderData, out: Path, split: str = 'train', size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """The first sample of the dataset that is written for a split; for segmentation, with its labels."""
    scope = {'seg': 'mmvit_ext', 'cls': 'mmpretrain'}.get(data.task, 'mmdet')
    dataset = DATASETS.build({**write_datasets(data, out)[split], 'pipeline': [], '_scope_': scope})
    assert len(dataset) == len(data.splits[split])
    sample = dataset[0]
    if data.load_annotations:
        sample = TRANSFORMS.build(data.load_annotations)({**sample, 'ori_shape': size})
    return sample


@pytest.mark.parametrize(
    ('images', 'masks'),
    [
        ('images/{:03}.jpg', 'masks/{:03}.png'),
        ('images/img_{:03}.jpg', 'masks/mask_{:03}.png'),
        ('data/{:03}.jpg', 'data/{:03}_mask.png'),
        ('x/a{:03}.jpg', 'x/a{:03}.png'),
        ('scene/{:03}/image.png', 'scene/{:03}/mask.png'),
        ('fotos/bild_{:03}.jpg', 'etiketten/etikett_{:03}.png'),
        ('set {:03}/rgb.jpg', 'set {:03}/gt.png'),
        ('Images/{:03}.jpg', 'Ground Truth/{:03}_GT.bmp'),
    ],
)
def test_photographs_and_masks_are_paired(tmp_path: Path, images: str, masks: str) -> None:
    for number in range(1, 11):
        photo(tmp_path / images.format(number))
        mask(tmp_path / masks.format(number), [0, 1, 2])
    data = understand(tmp_path)
    assert data.task == 'seg'
    pairs = {sample.image: sample.mask for samples in data.splits.values() for sample in samples}
    assert pairs == {images.format(number): masks.format(number) for number in range(1, 11)}
    assert (len(data.splits['train']), len(data.splits['val'])) == (8, 2)
    assert np.array_equal(load(data, tmp_path / 'out')['gt_seg_map'], blocks([0, 1, 2]))


SEGMENTATION = {
    # classes, number of them, images in train, val and test, loaded labels of the blocks
    'cityscapes': (('road', 'sidewalk', 'building'), 19, (6, 4, 0), [255, 0, 2, 13, 18, 255]),
    'ade20k': (('wall', 'building', 'sky'), 3, (3, 2, 0), [255, 0, 1, 2]),
    'voc_segmentation': (('background', 'aeroplane'), 21, (4, 2, 0), [0, 1, 3, 255]),
    'camvid_segnet': (('class_0', 'class_1', 'class_2'), 3, (3, 2, 2), [0, 1, 2]),
    'camvid_colours': (('Car', 'Sky'), 2, (4, 1, 0), [255, 0, 1]),
    'drive': (('background', 'foreground'), 2, (3, 2, 0), [0, 1]),
    'chase': (('background', 'foreground'), 2, (8, 2, 0), [0, 1]),
    'pets_trimaps': (('class_1', 'class_2', 'class_3'), 3, (8, 2, 0), [0, 1, 2]),
    'nnunet': (('class_0', 'class_1', 'class_2'), 3, (4, 1, 0), [0, 1, 2]),
    'deepglobe': (('urban_land', 'agriculture_land'), 2, (5, 1, 0), [0, 1, 255]),
    'carvana': (('background', 'foreground'), 2, (5, 1, 0), [0, 1]),
    'uavid': (('background', 'color_800000', 'color_804080'), 3, (4, 4, 0), [0, 1, 2]),
    'bdd100k': (('class_0', 'class_1', 'class_2'), 3, (3, 3, 0), [0, 1, 2, 255]),
    'mapillary': (('bird', 'road'), 2, (3, 3, 0), [0, 1, 255]),
    'other_words': (('background', 'foreground'), 2, (3, 3, 0), [0, 1]),
    'csv_masks': (('class_0', 'class_7', 'class_11'), 3, (4, 2, 0), [0, 1, 2]),
    'roboflow_masks': (('ground', 'road', 'car'), 3, (4, 2, 2), [0, 1, 2]),
    'odd_names_and_formats': (('class_0', 'class_1', 'class_2'), 3, (4, 1, 0), [0, 1, 2]),
    'links': (('background', 'foreground'), 2, (4, 1, 0), [0, 1]),
    'masks_of_classes': (('background', 'Haemorrhages_HE', 'Microaneurysms_MA'), 3, (4, 2, 0), [2, 1, 0]),
}


def counts(data: FolderData) -> tuple[int, ...]:
    return tuple(len(data.splits.get(split, ())) for split in ('train', 'val', 'test'))


@pytest.mark.parametrize('name', SEGMENTATION)
def test_masks_in_the_layouts_of_public_datasets(tmp_path: Path, name: str) -> None:
    LAYOUTS[name](tmp_path / name)
    data = understand(tmp_path / name)
    classes, number, images, labels = SEGMENTATION[name]
    assert (data.task, data.classes[: len(classes)], len(data.classes)) == ('seg', classes, number)
    assert counts(data) == images
    assert np.array_equal(load(data, tmp_path / 'out')['gt_seg_map'], blocks(labels))
    assert len(data.notes) <= 10
    assert len(data.palette) == number
    assert data.background == (0 if classes[0] == 'background' else None)


DETECTION = {
    'voc_boxes': ('det', ('cat', 'dog'), (4, 2, 0), [2, 3, 12, 14]),
    'coco_splits': ('inst', ('cat', 'dog'), (3, 2, 0), [2, 3, 10, 12]),
    'coco_one_file': ('det', ('cat', 'dog'), (8, 2, 0), [2, 3, 10, 12]),
    'roboflow_coco': ('det', ('cat', 'dog'), (2, 2, 2), [2, 3, 10, 12]),
    'yolo': ('det', ('cat', 'dog', 'cow'), (4, 2, 0), [12.8, 9, 19.2, 15]),
    'yolo_polygons': ('inst', ('cat', 'dog'), (2, 2, 0), [3.2, 2.4, 16, 12]),
    'darknet': ('det', ('cat', 'dog'), (5, 1, 0), [12.8, 9, 19.2, 15]),
    'cvat_xml': ('det', ('dog',), (4, 1, 0), [3, 4, 12, 14]),
    'csv_boxes': ('det', ('cat', 'dog'), (4, 1, 0), [3, 4, 12, 14]),
    'labelme': ('inst', ('leaf',), (4, 1, 0), [1, 1, 20, 20]),
    'labelme_forms': ('inst', ('dot', 'leaf'), (4, 1, 0), [1, 1, 20, 20]),
    'supervisely': ('inst', ('cat',), (4, 1, 0), [1, 1, 20, 20]),
    'via': ('det', ('dog',), (4, 1, 0), [3, 4, 12, 14]),
    'masks_of_objects': ('inst', ('object',), (4, 1, 0), [0, 0, 11, 24]),
    'yolo_in_capitals': ('det', ('cat',), (4, 1, 0), [12.8, 9, 19.2, 15]),
    'csv_corner_and_size': ('det', ('dog',), (4, 1, 0), [3, 4, 12, 14]),
    'csv_without_heading': ('det', ('dog',), (4, 1, 0), [3, 4, 12, 14]),
    'csv_one_cell': ('det', ('object',), (4, 1, 0), [3, 4, 12, 14]),
    'open_images': ('det', ('Person',), (4, 1, 0), [8, 6, 16, 12]),
}


@pytest.mark.parametrize('name', DETECTION)
def test_objects_in_the_formats_of_public_datasets(tmp_path: Path, name: str) -> None:
    LAYOUTS[name](tmp_path / name)
    data = understand(tmp_path / name)
    task, classes, images, box = DETECTION[name]
    assert (data.task, data.classes, counts(data)) == (task, classes, images)
    instances = load(data, tmp_path / 'out', 'val')['instances']
    assert instances[0]['bbox'] == pytest.approx(box)
    assert ('mask' in instances[0]) == (task == 'inst')
    assert (tmp_path / 'out/val.json').is_file()


CLASSIFICATION = {
    'imagenet': (('tench', 'English springer'), (6, 4, 0)),
    'class_folders': (('bus', 'car', 'train'), (12, 3, 0)),
    'tiny_imagenet': (('n01', 'n02'), (6, 4, 0)),
    'intel': (('forest', 'sea'), (6, 4, 0)),
    'kaggle': (('0', '1'), (8, 2, 0)),
    'json_labels': (('cat', 'dog'), (8, 2, 0)),
    'csv_labels': (('rust', 'scab'), (8, 2, 0)),
    'csv_one_hot': (('bcc', 'mel', 'nv'), (6, 3, 0)),
    'list_of_labels': (('healthy', 'sick'), (4, 2, 0)),
}


@pytest.mark.parametrize('name', CLASSIFICATION)
def test_classes_of_whole_images(tmp_path: Path, name: str) -> None:
    LAYOUTS[name](tmp_path / name)
    data = understand(tmp_path / name)
    classes, images = CLASSIFICATION[name]
    assert (data.task, data.classes, counts(data)) == ('cls', classes, images)
    labels = {sample.label for sample in data.splits['val']}
    assert labels == set(range(len(classes)))
    assert load(data, tmp_path / 'out', 'val')['gt_label'] in labels


def test_every_layout_is_tested() -> None:
    assert {*SEGMENTATION, *DETECTION, *CLASSIFICATION} == set(LAYOUTS)
    assert len(LAYOUTS) >= 20


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='holds no image'):
        understand(tmp_path)


def test_the_check_of_every_file_knows_the_classes_of_a_folder(tmp_path: Path) -> None:
    LAYOUTS['deepglobe'](tmp_path / 'in')
    LAYOUTS['csv_masks'](tmp_path / 'two')
    for name in ('in', 'two'):
        data = understand(tmp_path / name)
        pipeline = [{'type': 'mmvit_ext.LoadImageFromFile'}, data.load_annotations]
        dataset = {**write_datasets(data, tmp_path / 'out')['train'], 'pipeline': pipeline}
        cfg = Config({'train_dataloader': {'dataset': dataset}})
        (report,) = check_every_file(cfg, ['train'], jobs=1, progress=False)
        assert not report.findings
        assert report.histogram.min() > 0
    mask(tmp_path / 'two' / data.splits['train'][0].mask, [0, 9])
    (report,) = check_every_file(cfg, ['train'], jobs=1, progress=False)
    assert [finding.kind for finding in report.findings] == ['label values']


def _cut(root: Path, name: str, heads: dict[str, tuple[int, ...]]) -> None:
    """Divide the annotation file of a layout into several, with some of its five images each."""
    (path,) = [path for path in root.rglob('*') if path.suffix in ('.csv', '.xml', '.json')]
    text = path.read_text()
    path.unlink()
    for head, numbers in heads.items():
        target = path.with_name(head + path.suffix)
        if path.suffix == '.csv':
            first, *rows = text.splitlines()
            target.write_text('\n'.join([first, *(row for row in rows if int(row[0]) in numbers)]))
        elif path.suffix == '.json':
            entries = {key: value for key, value in json.loads(text).items() if int(key[0]) in numbers}
            target.write_text(json.dumps(entries))
        else:
            root_element = ElementTree.fromstring(text)
            for image in root_element.findall('image'):
                if int(image.get('id', '')) not in numbers:
                    root_element.remove(image)
            target.write_text(ElementTree.tostring(root_element, encoding='unicode'))


@pytest.mark.parametrize('name', ['csv_boxes', 'cvat_xml', 'via'])
def test_names_of_annotation_files_for_many_images_say_the_splits(tmp_path: Path, name: str) -> None:
    LAYOUTS[name](tmp_path / name)
    _cut(tmp_path / name, name, {'my_train_boxes': (0, 2), 'val2017': (1, 3), 'test': (4,)})
    data = understand(tmp_path / name)
    found = {split: [Path(sample.image).stem for sample in samples] for split, samples in data.splits.items()}
    assert found == {'train': ['0', '2'], 'val': ['1', '3'], 'test': ['4']}


def test_a_column_of_a_table_of_boxes_says_the_splits(tmp_path: Path) -> None:
    LAYOUTS['csv_boxes'](tmp_path)
    path = tmp_path / 'labels.csv'
    first, *rows = path.read_text().splitlines()
    said = {row[0]: 'valid' if row[0] in '13' else 'train' for row in rows}
    path.write_text('\n'.join([f'{first},subset', *(f'{row},{said[row[0]]}' for row in rows)]))
    assert counts(understand(tmp_path)) == (3, 2, 0)
