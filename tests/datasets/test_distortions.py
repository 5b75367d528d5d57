"""Turned and covered images: the same change to image and labels, whatever the resolution of either."""

import numpy as np
import pytest

pytest.importorskip('mmcv')

from mmvit_ext.datasets.distortions import PasteOccluder, RotateImage
from mmvit_ext.errors.user_error import UserError


def results_of(size=(11, 17), labels_size=None, name='a/x.jpg', seed=0):
    generator = np.random.default_rng(seed)
    return {
        'img_path': name,
        'img': generator.integers(0, 255, (*size, 3), dtype=np.uint8),
        'gt_seg_map': generator.integers(0, 5, labels_size or size).astype(np.uint8),
    }


@pytest.mark.parametrize(('angle', 'turns'), [(90, -1), (180, 2), (-90, 1), (270, 1)])
def test_a_square_is_turned_clockwise_without_interpolation_by_right_angles(angle, turns):
    results = results_of((13, 13))
    expected = {name: np.rot90(results[name], turns) for name in ('img', 'gt_seg_map')}
    turned = RotateImage(angle).transform(dict(results))
    for name, value in expected.items():
        assert np.array_equal(turned[name], value), name


def test_full_turns_leave_everything_as_it_is():
    results = results_of()
    turned = RotateImage(-360).transform(dict(results))
    assert turned['img'] is results['img']


def test_what_is_outside_the_turned_image_has_the_fill_and_no_label():
    results = results_of((20, 40), (10, 20))
    turned = RotateImage(90, fill=(1, 2, 3), ignore_index=77).transform(results)
    assert turned['img'].shape == (20, 40, 3)
    assert turned['gt_seg_map'].shape == (10, 20)
    assert (turned['img'][:, :9] == (1, 2, 3)).all()
    assert (turned['gt_seg_map'][:, :4] == 77).all()
    assert (turned['gt_seg_map'][:, 6:14] < 5).all()


@pytest.mark.parametrize(
    'transform', [RotateImage(30), PasteOccluder(0.3)], ids=lambda transform: type(transform).__name__
)
def test_labels_of_other_proportions_than_the_image_are_refused(transform):
    with pytest.raises(UserError, match=r'a/x\.jpg has been brought to 17x11 .* 17x17.*keep_ratio=True'):
        transform.transform(results_of((11, 17), (17, 17)))
    transform.transform(results_of((11, 17), (22, 34)))


@pytest.mark.parametrize(
    'transform', [RotateImage(30), PasteOccluder(0.3)], ids=lambda transform: type(transform).__name__
)
def test_images_without_labels_are_changed_too(transform):
    results = results_of()
    del results['gt_seg_map']
    before = results['img'].copy()
    changed = transform.transform(results)
    assert changed['img'].shape == before.shape
    assert changed['img'].dtype == np.uint8
    assert not np.array_equal(changed['img'], before)


@pytest.mark.parametrize('area', [0.05, 0.3, 0.75])
@pytest.mark.parametrize('size', [(101, 101), (60, 173)])
def test_an_ellipse_of_that_area_lies_inside_the_image(area, size):
    for name in ('a.jpg', 'b.jpg', 'c.jpg'):
        mask = PasteOccluder(area).mask(name, size)
        assert mask.mean() == pytest.approx(area, rel=0.03)
        # Inside means that the border is free, except where the ellipse touches it.
        assert mask[0].mean() < 0.2 + area / 2
        assert mask[:, -1].mean() < 0.2 + area / 2


def test_only_what_is_covered_changes_and_loses_its_label():
    before = results_of((33, 47), (66, 94))
    after = PasteOccluder(0.2).transform(dict(before))
    covered = PasteOccluder(0.2).mask('elsewhere/x.jpg', (33, 47))
    assert np.array_equal((after['img'] != before['img']).any(-1) | ~covered, np.ones_like(covered))
    assert np.array_equal(after['img'][~covered], before['img'][~covered])
    hidden = PasteOccluder(0.2).mask('x.jpg', (66, 94))
    assert (after['gt_seg_map'][hidden] == 255).all()
    assert np.array_equal(after['gt_seg_map'][~hidden], before['gt_seg_map'][~hidden])
    # The label map is twice as fine: most of the four labels of a pixel agree with it.
    assert ((hidden.reshape(33, 2, 47, 2).mean((1, 3)) >= 0.5) == covered).mean() > 0.98


def test_place_and_colour_depend_on_name_and_seed_alone():
    first = PasteOccluder(0.2).transform(results_of())['img']
    assert np.array_equal(first, PasteOccluder(0.2).transform(results_of(name='b/x.jpg'))['img'])
    assert not np.array_equal(first, PasteOccluder(0.2, seed=1).transform(results_of())['img'])
    assert not np.array_equal(first, PasteOccluder(0.2).transform(results_of(name='a/y.jpg'))['img'])


def test_an_area_of_zero_changes_nothing_and_more_than_fits_is_refused():
    results = results_of()
    assert PasteOccluder(0).transform(dict(results))['img'] is results['img']
    for area in (-0.1, 0.8):
        with pytest.raises(ValueError, match=r'area must be 0 to 0\.75'):
            PasteOccluder(area)
