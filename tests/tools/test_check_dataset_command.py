"""``tools/check_dataset.py``: every kind of fault in the three layouts, what it prints, lists and ends with."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmvit_ext.checks import every_sample as dataset_check
from mmvit_ext.checks.coco_file import box_problem
from mmvit_ext.datasets.mini import make_mini_dataset

Config = Callable[..., str]
Run = Callable[..., tuple[int, str]]


def save_labels(path: Path, labels: np.ndarray) -> None:
    Image.fromarray(labels.astype(np.uint8)).save(path)


def add_pairs(root: Path, count: int) -> None:
    for index in range(3, count):
        for folder in ('images', 'labels'):
            shutil.copy(root / folder / 'image_0.png', root / folder / f'image_{index}.png')


def findings(output: str) -> list[str]:
    """The listed faults, without the rest of the report."""
    assert 'Traceback' not in output, output
    kinds = ('missing file', 'unreadable', 'size', 'label values', 'empty labels', 'box', 'annotation')
    return [line.strip() for line in output.splitlines() if line.startswith('  ') and line.strip().startswith(kinds)]


# Segmentation


def test_a_good_dataset_is_counted_and_ends_with_0(make_config: Config, run_tool: Run) -> None:
    code, output = run_tool('check_dataset', make_config())
    assert code == 0
    assert (
        'train_dataloader.dataset and val_dataloader.dataset and test_dataloader.dataset: 3 images: nothing' in output
    )
    # Rows 0 to 13 are the first class, 14 to 27 the second and 28 to 39 the third, 48 pixels wide, in three images.
    for name, pixels, share in (('wall', 2016, '35.00%'), ('floor', 2016, '35.00%'), ('sky', 1728, '30.00%')):
        assert any(line.split() == [name, str(pixels), share] for line in output.splitlines()), name


@pytest.mark.parametrize('jobs', ['1', '3'])
def test_each_fault_is_found_and_listed(
    jobs: str, make_config: Config, run_tool: Run, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_check, '_CHUNK', 2)
    add_pairs(data_root, 10)
    images, labels = data_root / 'images', data_root / 'labels'
    (images / 'image_0.png').write_bytes((images / 'image_0.png').read_bytes()[:900])
    (images / 'image_1.png').write_bytes(b'')
    (labels / 'image_2.png').unlink()
    save_labels(labels / 'image_3.png', np.zeros((48, 40)))
    save_labels(labels / 'image_4.png', np.full((40, 48), 255))
    wrong = np.ones((40, 48))
    wrong[:2, :5], wrong[7, 7] = 17, 9
    save_labels(labels / 'image_5.png', wrong)
    binary = np.zeros((40, 48))
    binary[:3, :7] = 254
    save_labels(labels / 'image_6.png', binary)
    (labels / 'image_7.png').write_bytes(b'no picture')
    shifted = np.ones((40, 48))
    shifted[5, :3] = 3
    save_labels(labels / 'image_8.png', shifted)
    code, output = run_tool('check_dataset', make_config(), '--split', 'train', '--jobs', jobs, '--fix-list', 'bad.txt')
    assert code == 1
    assert 'val_dataloader' not in output
    listed = findings(output)
    expected = [
        ('empty labels', 'image_4.png', 'no pixel of any class'),
        ('label values', 'image_5.png', '9 (1 px), 17 (10 px)'),
        ('label values', 'image_6.png', 'a mask of 0 and 254 has to be written as 0 and 1'),
        ('label values', 'image_8.png', 'set reduce_zero_label=True'),
        ('missing file', 'image_2.png', 'does not exist'),
        ('size', 'image_3.png', '40x48 pixels but its image'),
        ('unreadable image', 'image_0.png', 'cannot be decoded'),
        ('unreadable image', 'image_1.png', 'is empty'),
        ('unreadable label map', 'image_7.png', 'cannot be decoded'),
    ]
    assert len(listed) == len(expected)
    for line, (kind, name, reason) in zip(listed, expected, strict=True):
        assert line.startswith(f'{kind}: '), line
        assert name in line
        assert reason in line
    assert 'label values outside the 3 classes: 3 (3 px in 1 files), 9 (1 px in 1 files), 17 (10 px in 1' in output
    lines = (tmp_path / 'bad.txt').read_text().splitlines()
    assert len(lines) == len(expected)
    paths = [line.split('\t')[0] for line in lines]
    assert sorted(paths) == paths
    assert all(os.path.isabs(path) for path in paths)
    assert str(labels / 'image_5.png') in paths


def test_all_faults_are_on_the_screen_unless_they_go_to_a_file(
    make_config: Config, run_tool: Run, data_root: Path
) -> None:
    add_pairs(data_root, 30)
    for path in (data_root / 'images').iterdir():
        path.write_bytes(b'')
    assert len(findings(run_tool('check_dataset', make_config(), '--jobs', '1')[1])) == 30
    output = run_tool('check_dataset', make_config(), '--jobs', '1', '--fix-list', 'bad.txt')[1]
    assert len(findings(output)) == 20
    assert '... and 10 more' in output
    assert '30 files listed in bad.txt' in output


def test_zeros_that_are_ignored_are_no_class(make_config: Config, run_tool: Run, data_root: Path) -> None:
    for path in (data_root / 'labels').iterdir():
        save_labels(path, np.array(Image.open(path)) + 1)
    (data_root / 'labels' / 'image_0.png').unlink()
    save_labels(data_root / 'labels' / 'image_0.png', np.zeros((40, 48)))
    config = make_config("train_dataloader['dataset']['reduce_zero_label'] = True")
    code, output = run_tool('check_dataset', config, '--split', 'train', '--jobs', '1')
    assert code == 1
    assert [line[:13] for line in findings(output)] == ['empty labels:']
    assert any(line.split() == ['wall', '1344', '35.00%'] for line in output.splitlines())


@pytest.mark.parametrize(('foreground', 'faults'), [(255, 1), (1, 0)])
def test_masks_whose_foreground_is_ignored_are_told(
    foreground: int, faults: int, make_config: Config, run_tool: Run, data_root: Path
) -> None:
    mask = np.zeros((40, 48))
    mask[3:11, 5:18] = foreground
    for path in (data_root / 'labels').iterdir():
        save_labels(path, mask)
    code, output = run_tool('check_dataset', make_config(), '--split', 'train', '--jobs', '1')
    assert code == faults
    listed = findings(output)
    assert len(listed) == faults
    assert not faults or 'consist of 0 and 255, and 255 is ignored' in listed[0]


def test_a_label_map_without_its_image_is_found(make_config: Config, run_tool: Run, data_root: Path) -> None:
    (data_root / 'images' / 'image_0.png').unlink()
    code, output = run_tool('check_dataset', make_config(), '--jobs', '1')
    assert code == 1
    assert len(findings(output)) == 1
    assert 'image_0.png has no image' in findings(output)[0]


def test_a_named_pipe_is_not_waited_for(make_config: Config, run_tool: Run, data_root: Path) -> None:
    (data_root / 'labels' / 'image_0.png').unlink()
    os.mkfifo(data_root / 'labels' / 'image_0.png')
    code, output = run_tool('check_dataset', make_config(), '--jobs', '1')
    assert code == 1
    assert 'image_0.png does not exist' in findings(output)[0]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--jobs', '0'), '--jobs must be at least 1'),
        (('--cfg-options', 'data_root=/nowhere'), '/nowhere'),
        (('--fix-list', '/proc/no/bad.txt'), 'cannot write /proc/no/bad.txt'),
    ],
)
def test_wrong_arguments_end_with_2(arguments: tuple, message: str, make_config: Config, run_tool: Run) -> None:
    code, output = run_tool('check_dataset', make_config(), *arguments)
    assert code == 2
    assert 'check_dataset: error: ' in output
    assert message in output


def _kill_at_second_chunk(samples: Any, context: Any) -> Any:
    if any('image_1.' in str(sample.image) for sample in samples):
        os.kill(os.getpid(), 9)
    time.sleep(0.05)
    return dataset_check._Outcome()


def test_a_worker_that_dies_does_not_leave_the_check_waiting(
    make_config: Config, run_tool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_check, '_CHUNK', 1)
    monkeypatch.setattr(dataset_check, '_check_chunk', _kill_at_second_chunk)
    code, output = run_tool('check_dataset', make_config(), '--jobs', '2')
    assert code == 2
    assert 'a worker process was killed' in output


# COCO


COCO = """
default_scope = 'mmdet'
train_dataloader = dict(
    dataset=dict(
        type='CocoDataset',
        data_root={root!r},
        ann_file='annotations.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=('cat', 'dog')),
        pipeline=[],
    )
)
"""


@pytest.fixture
def coco(tmp_path: Path) -> tuple[str, Path, dict[str, Any]]:
    """A config, its annotation file and what is in it: two images of 48x40, a cat and a dog."""
    root = tmp_path / 'coco'
    (root / 'images').mkdir(parents=True)
    for index in (1, 2):
        Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(root / 'images' / f'{index}.png')
    content: dict[str, Any] = {
        'images': [{'id': index, 'file_name': f'{index}.png', 'width': 48, 'height': 40} for index in (1, 2)],
        'annotations': [
            {'id': 1, 'image_id': 1, 'category_id': 3, 'bbox': [0, 0, 48, 40], 'area': 1920, 'iscrowd': 0},
            {'id': 2, 'image_id': 2, 'category_id': 5, 'bbox': [7.5, 3, 11, 13], 'area': 143, 'iscrowd': 0},
        ],
        'categories': [{'id': 3, 'name': 'cat'}, {'id': 5, 'name': 'dog'}],
    }
    config = tmp_path / 'coco.py'
    config.write_text(COCO.format(root=str(root)))
    (root / 'annotations.json').write_text(json.dumps(content))
    return str(config), root / 'annotations.json', content


def test_a_good_coco_file_is_counted(coco: tuple, run_tool: Run) -> None:
    code, output = run_tool('check_dataset', coco[0], '--jobs', '1')
    assert code == 0
    assert 'train_dataloader.dataset: 2 images: nothing wrong' in output
    assert any(line.split() == ['cat', '1', '50.00%'] for line in output.splitlines())


def change_box(content: dict, *box: float) -> None:
    content['annotations'][1]['bbox'] = list(box)


COCO_FAULTS = {
    'no width': (lambda c: change_box(c, 3, 4, 0, 7), 'box', '2.png: the box [3, 4, 0, 7] has no area'),
    'negative height': (lambda c: change_box(c, 3, 4, 5, -7), 'box', 'has no area'),
    'outside': (lambda c: change_box(c, 40, 4, 11, 7), 'box', 'reaches out of the image of 48x40 pixels'),
    'above': (lambda c: change_box(c, 4, -3, 11, 7), 'box', 'reaches out'),
    'no number': (lambda c: change_box(c, 4, 3, float('nan'), 7), 'box', 'no numbers'),
    'three numbers': (lambda c: change_box(c, 4, 3, 5), 'box', 'no list of four numbers'),
    'no area': (lambda c: c['annotations'][1].update(area=0), 'box', 'its area is 0'),
    'category': (lambda c: c['annotations'][1].update(category_id=4), 'annotation', 'unknown category 4'),
    'image': (lambda c: c['annotations'][1].update(image_id=9), 'annotation', 'of image 9, which the file does not'),
    'list as image': (lambda c: c['annotations'][1].update(image_id=[1]), 'annotation', 'of image [1], which'),
    'list as category': (lambda c: c['annotations'][1].update(category_id={}), 'annotation', 'unknown category {}'),
    'twice': (lambda c: c['images'][1].update(id=1), 'annotation', 'two images have the id 1'),
    'size': (lambda c: c['images'][1].update(width=40, height=48), 'size', 'is 48x40 but its annotation says 40x48'),
    'no size': (lambda c: c['images'][1].pop('width'), 'annotation', '2.png has no width and height'),
    'missing': (lambda c: c['images'][1].update(file_name='3.png'), 'missing file', '3.png does not exist'),
    'class': (lambda c: c['categories'][1].update(name='cow'), 'annotation', "has no category 'dog'"),
    'box of 400 digits': (lambda c: change_box(c, 4, 3, 10**400, 7), 'box', 'no numbers'),
    'true in a box': (lambda c: change_box(c, 4, 3, True, 7), 'box', 'no numbers'),
    'area that is none': (lambda c: c['annotations'][1].update(area=float('nan')), 'box', 'its area is nan'),
    'width of 400 digits': (lambda c: c['images'][1].update(width=10**400), 'annotation', 'no width and height'),
    'annotation twice': (lambda c: c['annotations'][1].update(id=1), 'annotation', 'two annotations have the id 1'),
    'no annotation id': (lambda c: c['annotations'][1].pop('id'), 'annotation', 'of image 2 has no id'),
    'list as annotation id': (
        lambda c: [annotation.update(id=[1]) for annotation in c['annotations']],
        'annotation',
        'two annotations have the id [1]',
    ),
    'image under two ids': (
        lambda c: c['images'][1].update(file_name='1.png'),
        'annotation',
        'two images have the file',
    ),
    'image by two paths': (
        lambda c: c['images'][1].update(file_name='../images/./1.png'),
        'annotation',
        'two images have the file',
    ),
    'category twice': (lambda c: c['categories'][1].update(id=3), 'annotation', 'two categories have the id 3'),
    'category name twice': (
        lambda c: c['categories'].append({'id': 7, 'name': 'dog'}),
        'annotation',
        'two categories have the name dog',
    ),
    'half a character': (lambda c: c['images'][1].update(file_name='\ud800.png'), 'annotation', 'no file_name'),
    'zero byte': (lambda c: c['images'][1].update(file_name='2.png\0'), 'annotation', 'no file_name'),
    'no annotations': (lambda c: c['annotations'].clear(), 'annotation', 'has no annotations: the dataset is empty'),
    'nothing': (
        lambda c: [c[key].clear() for key in ('images', 'annotations')],
        'annotation',
        'has no images: the dataset is empty',
    ),
}


@pytest.mark.parametrize('fault', list(COCO_FAULTS))
def test_each_fault_of_a_coco_file_is_found(fault: str, coco: tuple, run_tool: Run) -> None:
    config, path, content = coco
    change, kind, reason = COCO_FAULTS[fault]
    change(content)
    path.write_text(json.dumps(content))
    code, output = run_tool('check_dataset', config, '--jobs', '1')
    assert code == 1, output
    listed = findings(output)
    assert listed[0].startswith(f'{kind}: '), listed
    assert any(reason in line for line in listed), listed


def test_an_image_without_objects_is_told_but_no_fault(coco: tuple, run_tool: Run) -> None:
    config, path, content = coco
    content['annotations'].pop()
    path.write_text(json.dumps(content))
    code, output = run_tool('check_dataset', config, '--jobs', '1')
    assert code == 0
    assert 'note: 1 images have no objects' in output
    assert 'note: 1 classes never occur: dog' in output


@pytest.mark.parametrize(
    'text',
    [
        '',
        '{',
        '[]',
        '{"images": []}',
        '{"images": [1], "annotations": [], "categories": []}',
        '\ufeff{"images": [], "annotations": [], "categories": []}',
        '[' * 100_000,
        '{"images": [], "annotations": [], "categories": [' + '9' * 5000 + ']}',
    ],
)
def test_an_annotation_file_of_another_kind_ends_with_2(text: str, coco: tuple, run_tool: Run) -> None:
    coco[1].write_text(text)
    code, output = run_tool('check_dataset', coco[0], '--jobs', '1')
    assert code == 2
    assert 'annotations.json' in output
    assert 'Traceback' not in output


def test_a_box_may_reach_out_by_the_rounding_of_a_pixel() -> None:
    assert box_problem([-0.6, 0, 49, 40], 48, 40) is None
    assert box_problem([-1.1, 0, 5, 5], 48, 40) is not None
    assert box_problem([0, 0, 5, math.inf], 48, 40) == 'has values that are no numbers'
    assert box_problem(None, 48, 40) == 'is no list of four numbers'


# ImageNet


IMAGENET = """
default_scope = 'mmpretrain'
train_dataloader = dict(
    dataset=dict(type='CustomDataset', data_root={root!r}, ann_file='list.txt', data_prefix='images', pipeline=[])
)
"""


def test_wrong_labels_and_files_of_a_list_are_found(tmp_path: Path, run_tool: Run) -> None:
    (tmp_path / 'data' / 'images').mkdir(parents=True)
    for index in range(3):
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / 'data' / 'images' / f'{index}.jpg')
    cut = tmp_path / 'data' / 'images' / '1.jpg'
    cut.write_bytes(cut.read_bytes()[:-50])
    (tmp_path / 'data' / 'list.txt').write_text('0.jpg 0\n1.jpg 1\n2.jpg 7\n3.jpg 1\n0.jpg 0\n0.jpg 1\n')
    config = tmp_path / 'imagenet.py'
    config.write_text(IMAGENET.format(root=str(tmp_path / 'data')) + "train_dataloader['dataset']['metainfo'] = dict(")
    config.write_text(config.read_text() + "classes=('cat', 'dog'))\n")
    code, output = run_tool('check_dataset', str(config), '--jobs', '1')
    assert code == 1
    listed = findings(output)
    assert len(listed) == 4
    assert '0.jpg is listed with the labels [0] and [1]' in listed[0]
    assert 'has the label 7 where the dataset has 2 classes' in listed[1]
    assert '3.jpg does not exist' in listed[2]
    assert '1.jpg cannot be decoded' in listed[3]
    assert 'note: 2 samples are images that are listed before' in output
    assert any(line.split() == ['dog', '3', '60.00%'] for line in output.splitlines())


def test_a_dataset_that_fetches_itself_and_has_no_folder_is_told_in_one_sentence(tmp_path: Path, run_tool: Run) -> None:
    config = tmp_path / 'cifar.py'
    config.write_text(
        "default_scope = 'mmpretrain'\n"
        "train_dataloader = dict(dataset=dict(type='CIFAR10', data_root='', split='train', pipeline=[]))\n"
    )
    code, output = run_tool('check_dataset', str(config))
    assert code == 2
    assert 'the dataset CIFAR10 (train_dataloader.dataset) has no data_root: set train_dataloader' in output


def test_the_segments_of_a_panoptic_dataset_are_not_read_as_boxes(tmp_path: Path, run_tool: Run) -> None:
    pytest.importorskip('panopticapi')
    make_mini_dataset(tmp_path / 'mini', images=4, size=(60, 80))
    config = Path(__file__).parents[2] / 'configs/eomt/eomt-panoptic_vit-mini_1xb8-20e_mini-coco.py'
    code, output = run_tool('check_dataset', config, '--cfg-options', f'data_root={tmp_path}/mini/coco')
    assert code == 0, output
    assert 'train_dataloader.dataset: 4 images: nothing wrong' in output
