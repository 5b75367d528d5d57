"""Grids and tables of pictures: every picture in its place, no text cut."""

import numpy as np
import torch
from PIL import Image

from mmvit_ext.inference.sheets import draw_table, image_grid


def test_grid_has_every_image_in_its_place_and_white_around_it():
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 2, 4)
    grid = image_grid(images, columns=3, gap=1)
    assert grid.shape == (2 * 3 + 1, 3 * 5 + 1, 3)
    for number in range(5):
        top, left = 1 + number // 3 * 3, 1 + number % 3 * 5
        assert (grid[top : top + 2, left : left + 4] == number).all()
    white = np.ones(grid.shape[:2], bool)
    for number in range(5):
        top, left = 1 + number // 3 * 3, 1 + number % 3 * 5
        white[top : top + 2, left : left + 4] = False
    assert (grid[white] == 255).all()


def test_grid_is_no_wider_than_its_images():
    assert image_grid(torch.zeros(2, 3, 2, 4, dtype=torch.uint8), columns=8, gap=1).shape == (4, 11, 3)


def test_a_single_image_has_white_around_it_as_well():
    grid = image_grid(torch.zeros(1, 3, 2, 4, dtype=torch.uint8), columns=8, gap=1)
    assert grid.shape == (4, 6, 3)
    assert (grid[1:3, 1:5] == 0).all()
    assert grid.sum() == 255 * 3 * (4 * 6 - 2 * 4)


def test_pictures_of_a_table_keep_their_sizes_and_stand_below_their_headings():
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    red, green, blue = (
        Image.new('RGB', size, colour) for size, colour in zip([(40, 30), (20, 50), (60, 10)], colours, strict=True)
    )
    table = np.array(draw_table([('', [red, green]), ('second', [(blue, 'a caption')])], ['one', 'two']))
    places = [np.argwhere((table == colour).all(-1)) for colour in colours]
    (y, x), (y2, x2), (y3, _) = (place.min(0) for place in places)
    assert [len(place) for place in places] == [40 * 30, 20 * 50, 60 * 10]
    assert y == y2
    assert x + 40 < x2
    assert y3 > y + 50


def test_headings_of_a_table_are_not_cut():
    table = np.array(draw_table([('a long heading of a row', [None])], ['a heading wider than its picture'], (16, 16)))
    border = np.concatenate([table[0], table[-1], table[:, 0], table[:, -1]])
    assert (border == 255).all()
    with_footer = draw_table([('a', [None])], ['b'], (16, 16), 'a footer that is wider than the whole table by far')
    assert np.array(with_footer)[:, -1].min() == 255
    assert with_footer.width > table.shape[1] - 100
