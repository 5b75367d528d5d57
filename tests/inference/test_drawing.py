"""Overlays and legends, objects with boxes, masks and names, label maps as pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmvit_ext.inference.drawing import draw_frame, draw_instances, draw_overlay, label_image, make_palette


def test_an_overlay_mixes_image_and_colour_by_the_opacity() -> None:
    image = np.full((2, 3, 3), 100, np.uint8)
    labels = np.array([[0, 1, 255], [0, 1, 7]])
    palette = [(200, 0, 0), (0, 200, 0)]
    painted = np.array(draw_overlay(image, labels, ['a', 'b'], palette, opacity=0.25, legend=False))
    assert painted[0, 0].tolist() == [125, 75, 75]
    assert painted[1, 1].tolist() == [75, 125, 75]
    assert painted[0, 2].tolist() == painted[1, 2].tolist() == [100, 100, 100]


def test_a_frame_of_less_than_a_pixel_is_drawn() -> None:
    picture = Image.new('RGB', (9, 9))
    draw_frame(ImageDraw.Draw(picture), (4.2, 4.2, 4.6, 4.4), (255, 0, 0), 1)
    assert picture.getpixel((4, 4)) == (255, 0, 0)


def test_the_legend_lists_present_classes_only_and_leaves_the_picture_alone() -> None:
    image = np.zeros((50, 400, 3), np.uint8)
    labels = np.zeros((50, 400), np.int64)
    labels[:, 300:] = 2
    palette = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    plain = np.array(draw_overlay(image, labels, ['wall', 'floor', 'sky'], palette, legend=False))
    picture = np.array(draw_overlay(image, labels, ['wall', 'floor', 'sky'], palette))
    assert np.array_equal(picture[:50, :400], plain)
    below = picture[50:].reshape(-1, 3)
    counts = {colour: int((below == colour).all(axis=1).sum()) for colour in palette}
    assert counts[palette[0]] > 50
    assert counts[palette[2]] > 50
    assert counts[palette[1]] == 0


def test_a_legend_wider_than_the_image_widens_the_picture() -> None:
    image = np.zeros((20, 10, 3), np.uint8)
    picture = draw_overlay(image, np.zeros((20, 10), np.int64), ['a class with a long name'], [(255, 0, 0)])
    assert picture.width > 100
    assert np.array(picture)[:20, 10:].min() == 255


@pytest.mark.parametrize('count', [3, 300])
def test_label_pictures_keep_class_indices(count: int, tmp_path: Path) -> None:
    labels = np.arange(count).reshape(3, -1)
    label_image(labels, make_palette(count)).save(tmp_path / 'a.png')
    assert np.array_equal(np.array(Image.open(tmp_path / 'a.png')), labels)


def test_objects_have_a_frame_an_outline_and_a_mask_of_their_colour() -> None:
    image = np.full((17, 29, 3), 100, np.uint8)
    mask = np.zeros((1, 17, 29), bool)
    mask[0, 3:12, 5:16] = True
    red = (200, 0, 0)
    arguments = (image, np.array([[4.0, 2.0, 20.0, 14.0]]), [1], ['a', 'b'], [(0, 0, 0), red])
    picture = np.array(draw_instances(*arguments, masks=mask, opacity=0.25, names=False)).astype(int)
    assert picture.shape == image.shape
    expected = np.full((17, 29, 3), 100)
    expected[3:12, 5:16] = red
    expected[4:11, 6:15] = (125, 75, 75)
    expected[2:14, [4, 19]] = expected[[2, 13], 4:20] = red
    assert np.abs(picture - expected).max() <= 1
    bare = np.array(draw_instances(*arguments, names=False))
    assert (bare == red).all(axis=-1).sum() == 2 * 16 + 2 * 10


def test_of_overlapping_objects_the_more_confident_one_is_painted() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    boxes, masks = np.array([[0.0, 0.0, 20.0, 20.0]] * 2), np.ones((2, 20, 20), bool)
    palette = [(200, 0, 0), (0, 200, 0)]
    for scores, middle in (([0.9, 0.4], [100, 0, 0]), ([0.4, 0.9], [0, 100, 0])):
        picture = draw_instances(image, boxes, [0, 1], 'ab', palette, scores=scores, masks=masks, names=False)
        assert np.abs(np.array(picture)[10, 10].astype(int) - middle).max() <= 1


def test_a_small_picture_is_enlarged_for_names_that_do_not_cover_each_other() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = np.array([[10.0, 10.0, 50.0, 35.0]] * 3)
    palette = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    picture = np.array(draw_instances(image, boxes, [0, 1, 2], ['cat', 'cup', 'dog'], palette, scores=[0.5, 0.6, 0.7]))
    assert picture.shape == (320, 480, 3)
    areas = [int((picture == colour).all(axis=-1).sum()) for colour in palette]
    assert min(areas) > 400  # a name's background, nothing of which the other two have covered
    large = np.zeros((40, 600, 3), np.uint8)
    assert draw_instances(large, boxes, [0, 1, 2], 'abc', palette).size == (600, 40)


def test_a_picture_without_objects_is_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 255, (30, 500, 3), dtype=np.uint8)
    picture = draw_instances(
        image, np.zeros((0, 4)), [], ['a'], [(1, 2, 3)], scores=[], masks=np.zeros((0, 30, 500), bool)
    )
    assert np.array_equal(np.array(picture), image)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'labels': [0]}, '2 boxes, 1 labels'),
        ({'scores': [0.5]}, '2 boxes, 2 labels and 1 scores'),
        ({'masks': np.ones((2, 7, 9), bool)}, r'masks must be of shape \(2, 9, 7\)'),
        ({'opacity': 1.5}, 'opacity must be 0 to 1, got 1.5'),
    ],
)
def test_objects_that_do_not_fit_together_are_refused(changes: dict, message: str) -> None:
    arguments = {'boxes': np.zeros((2, 4)), 'labels': [0, 0], **changes}
    with pytest.raises(ValueError, match=message):
        draw_instances(np.zeros((9, 7, 3), np.uint8), classes=['a'], palette=[(0, 0, 0)], **arguments)


def test_made_up_colours_differ() -> None:
    assert len(set(make_palette(150))) == 150
