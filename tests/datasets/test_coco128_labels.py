"""The script that makes panoptic labels and label maps from COCO's masks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('pycocotools')

from pycocotools import mask as mask_api

from benchmarks import coco128_labels

ROOT = Path(__file__).parents[2]


def write_masks(root, *boxes, crowd=()):
    """An image of 8x12 pixels with rectangles ``(left, top, right, bottom)`` of the categories 5 and 9 in turn."""
    (root / 'train2017').mkdir(parents=True)
    (root / 'annotations').mkdir()
    Image.new('RGB', (12, 8)).save(root / 'train2017' / '000000000007.jpg')
    entries = []
    for number, (left, top, right, bottom) in enumerate(boxes):
        mask = np.zeros((8, 12), dtype=np.uint8, order='F')
        mask[top:bottom, left:right] = 1
        encoded = mask_api.encode(mask)
        encoded['counts'] = encoded['counts'].decode()
        size = {'bbox': [left, top, right - left, bottom - top], 'area': int(mask.sum()), 'segmentation': encoded}
        what = {'id': number + 1, 'image_id': 7, 'category_id': (9, 5)[number % 2], 'iscrowd': int(number in crowd)}
        entries.append(what | size)
    content = {
        'images': [{'id': 7, 'file_name': '000000000007.jpg', 'height': 8, 'width': 12}],
        'annotations': entries,
        'categories': [{'id': 5, 'name': 'cat'}, {'id': 9, 'name': 'dog'}],
    }
    (root / 'annotations/instances_train2017.json').write_text(json.dumps(content))
    return root


def run(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'benchmarks.coco128_labels', *map(str, arguments)],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_objects_and_background_stand_in_both_forms(tmp_path):
    data = write_masks(tmp_path / 'data', (0, 0, 4, 8), (6, 2, 10, 6), (10, 0, 12, 2), crowd=(2,))
    assert coco128_labels.write(data, tmp_path / 'out') == 1
    annotations = tmp_path / 'out/annotations'
    classes = np.asarray(Image.open(annotations / 'semantic_train2017/000000000007.png'))
    assert (classes[:, :4] == 2).all()  # 9 is the second category
    assert (classes[2:6, 6:10] == 1).all()
    assert (classes[:2, 10:] == 2).all()
    assert (classes == 0).sum() == 8 * 12 - 32 - 16 - 4
    content = json.loads((annotations / 'panoptic_train2017.json').read_text())
    assert [(entry['id'], entry['name'], entry['isthing']) for entry in content['categories']] == [
        (5, 'cat', 1),
        (9, 'dog', 1),
        (10, 'background', 0),
    ]
    (entry,) = content['annotations']
    found = [(s['category_id'], s['area'], s['iscrowd'], s['bbox']) for s in entry['segments_info']]
    assert found == [
        (9, 32, 0, [0, 0, 4, 8]),
        (5, 16, 0, [6, 2, 4, 4]),
        (9, 4, 1, [10, 0, 2, 2]),
        (10, 44, 0, [4, 0, 8, 8]),
    ]
    ids = np.asarray(Image.open(annotations / 'panoptic_train2017' / entry['file_name']))
    assert {s['id']: s['area'] for s in entry['segments_info']} == dict(
        zip(*map(np.ndarray.tolist, np.unique(ids[..., 0], return_counts=True)), strict=True)
    )
    assert not ids[..., 1:].any()
    assert (tmp_path / 'out/train2017/000000000007.jpg').read_bytes() == (
        data / 'train2017/000000000007.jpg'
    ).read_bytes()


def test_masks_that_share_pixels_are_refused(tmp_path):
    data = write_masks(tmp_path / 'data', (0, 0, 4, 8), (3, 0, 6, 6))
    with pytest.raises(ValueError, match=r'000000000007\.jpg: masks 1 and 2 share pixels'):
        coco128_labels.write(data, tmp_path / 'out')


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    data = write_masks(tmp_path / 'data', (0, 0, 4, 8), (3, 0, 6, 6))
    done = run(data, '--out', tmp_path / 'out')
    assert done.returncode == 2
    assert 'share pixels' in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['data']
    done = run(write_masks(tmp_path / 'other', (0, 0, 4, 8)), '--out', tmp_path / 'out')
    assert '1 images with labels in' in done.stdout, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ['data', 'other', 'out']


def test_nothing_that_is_there_is_written_into(tmp_path):
    data = write_masks(tmp_path / 'data', (0, 0, 4, 8))
    done = run(data, '--out', data)
    assert done.returncode == 2
    assert f'--out {data} exists: name a new folder' in done.stderr
    done = run(tmp_path, '--out', tmp_path / 'new')
    assert done.returncode == 2
    assert 'has no annotations/instances_train2017.json: name the folder of COCO128' in done.stderr
    assert not (tmp_path / 'new').exists()
