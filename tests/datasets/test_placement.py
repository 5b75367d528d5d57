"""Where a pipeline puts an image, found from its coordinates, and true boxes."""

import json

import numpy as np
import pytest

pytest.importorskip('mmpretrain')

from mmengine.registry import init_default_scope

from mmvit_ext.datasets.placement import LoadBoxes, Placement, TrackPlacement, find_placement
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.registry import TRANSFORMS

PILLOW = dict(backend='pillow', interpolation='bicubic')
RESIZE = dict(type='ResizeEdge', scale=110, edge='short', **PILLOW)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmpretrain')


def placed(steps, size):
    return TrackPlacement(steps).transform({'img': np.zeros((*size, 3), np.uint8), 'img_path': 'x'})['placement']


@pytest.mark.parametrize(
    ('size', 'resized'), [((131, 193), (110, 162)), ((211, 149), (155, 110)), ((997, 1499), (110, 165))]
)
def test_resizing_and_cutting_the_middle_out_are_found(size, resized):
    found = placed([RESIZE, dict(type='CenterCrop', crop_size=96)], size)
    assert found.input_size == (96, 96)
    assert found.image_size == size
    # mmcv's centre crop begins at half of what is too much, rounded as Python does.
    offsets = [round((edge - 96) / 2) for edge in resized]
    assert found.scale == pytest.approx((resized[1] / size[1], resized[0] / size[0]), rel=2e-3)
    assert found.shift == pytest.approx((-offsets[1], -offsets[0]), abs=0.2)


def test_a_crop_alone_is_found_to_a_fraction_of_a_pixel():
    found = placed([dict(type='CenterCrop', crop_size=(71, 50))], (101, 113))
    assert found.scale == pytest.approx((1, 1), abs=2e-3)
    assert found.to_image((0, 0, 71, 50)) == pytest.approx((21, 26, 92, 76), abs=0.6)


def test_mirrored_images_are_found():
    found = placed([dict(type='RandomFlip', prob=1.0, direction='horizontal')], (97, 131))
    assert found.to_image((0, 10, 31, 20)) == pytest.approx((100, 10, 131, 20), abs=0.2)


@pytest.mark.parametrize('value', [0, 114, 255])
def test_padding_is_not_taken_for_image(value):
    step = dict(type='Pad', size=(128, 160), pad_val=dict(img=value))
    found = placed([step], (97, 131))
    assert found.scale == pytest.approx((1, 1), abs=2e-3)
    assert found.to_input((0, 0, 131, 97)) == pytest.approx((0, 0, 131, 97), abs=0.1)


def test_boxes_go_there_and_back_and_are_cut_at_the_edges():
    place = Placement((0.5, -0.25), (-10.0, 30.0), (100, 200), (30, 90))
    assert place.to_input((40, 20, 60, 80)) == (10, 10, 20, 25)
    assert place.to_image((10, 10, 20, 25)) == (40, 20, 60, 80)
    assert place.to_input((-50, -50, 400, 400)) == (0, 0, 90, 30)
    assert place.to_image((-50, -50, 400, 400)) == (0, 0, 200, 100)


def test_what_cannot_be_undone_is_refused():
    with pytest.raises(UserError, match='leave out those that turn it'):
        placed([dict(type='mmvit_ext.RotateImage', angle=30, fill=(0, 0, 0))], (97, 131))
    with pytest.raises(UserError, match='too little of it is left'):
        find_placement(lambda results: dict(results, img=results['img'] * 0), (97, 131, 3))


def test_the_image_itself_is_what_the_steps_make_of_it():
    image = np.random.default_rng(0).integers(0, 255, (37, 41, 3), dtype=np.uint8)
    step = TRANSFORMS.build(
        dict(type='mmvit_ext.TrackPlacement', transforms=[dict(type='CenterCrop', crop_size=(29, 23))])
    )
    done = step.transform({'img': image.copy(), 'img_path': 'x', 'gt_label': 3})
    assert np.array_equal(done['img'], image[7:30, 6:35])
    assert done['gt_label'] == 3


def test_boxes_come_from_the_nearest_file_above_the_image(tmp_path):
    folder = tmp_path / 'data'
    (folder / 'val' / 'cat').mkdir(parents=True)
    (tmp_path / 'boxes.json').write_text('not this one')
    (folder / 'boxes.json').write_text(json.dumps({'images': {'val/cat/1.JPEG': {'boxes': [[1, 2, 3, 4]]}}}))
    found = LoadBoxes().transform({'img_path': str(folder / 'val' / 'cat' / '1.JPEG')})
    assert found['boxes'].tolist() == [[1, 2, 3, 4]]
    with pytest.raises(UserError, match=r'has no entry for val/cat/2\.JPEG'):
        LoadBoxes().transform({'img_path': str(folder / 'val' / 'cat' / '2.JPEG')})
    with pytest.raises(UserError, match='holds no boxes'):
        LoadBoxes().transform({'img_path': str(tmp_path / 'x.JPEG')})
    with pytest.raises(UserError, match=r'no other\.json in a folder above .*make_mini_dataset'):
        LoadBoxes('other.json').transform({'img_path': str(folder / 'val' / 'cat' / '1.JPEG')})
