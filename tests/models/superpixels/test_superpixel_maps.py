"""Maps of superpixels: upsampled associations and their largest, against loops over pixels."""

import math

import pytest
import torch

from mmvit_ext.models.superpixels.grid import (
    fine_association,
    grid_of,
    hard_superpixels,
    neighbour_ids,
    with_merged_head,
)

INF = float('inf')


def similarity_of(size, cell, heads=2, seed=0):
    """Random similarities, -inf where the grid ends."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(1, heads, 9, *size, generator=generator, dtype=torch.float64)
    grid = [-(-edge // cell) for edge in size]
    for y in range(size[0]):
        for x in range(size[1]):
            for n in range(9):
                row, column = y // cell + n // 3 - 1, x // cell + n % 3 - 1
                if not (0 <= row < grid[0] and 0 <= column < grid[1]):
                    values[0, :, n, y, x] = -INF
    return values


def slow_fine_association(similarity, cell, factor):
    """Each fine pixel asks each of its superpixels for the similarity at that place, inside the superpixel's window."""
    heads, (h, w) = similarity.shape[1], similarity.shape[-2:]
    grid = [-(-edge // cell) for edge in (h, w)]
    out = torch.full((1, heads, 9, h * factor, w * factor), -INF, dtype=similarity.dtype)
    for Y in range(h * factor):
        for X in range(w * factor):
            y, x = (Y + 0.5) / factor - 0.5, (X + 0.5) / factor - 0.5
            for n in range(9):
                row, column = Y // (cell * factor) + n // 3 - 1, X // (cell * factor) + n % 3 - 1
                if not (0 <= row < grid[0] and 0 <= column < grid[1]):
                    continue
                total, share = torch.zeros(heads, dtype=similarity.dtype), 0.0
                for yy in (math.floor(y), math.floor(y) + 1):
                    for xx in (math.floor(x), math.floor(x) + 1):
                        weight = (1 - abs(y - yy)) * (1 - abs(x - xx))
                        if not (0 <= yy < h and 0 <= xx < w) or weight <= 0:
                            continue
                        dy, dx = row - yy // cell, column - xx // cell
                        if max(abs(dy), abs(dx)) > 1:  # outside the window of this superpixel
                            continue
                        total += weight * similarity[0, :, 3 * (dy + 1) + dx + 1, yy, xx]
                        share += weight
                out[0, :, n, Y, X] = total / share
    return out.softmax(2)


@pytest.mark.parametrize(('size', 'cell', 'factor'), [((7, 5), 3, 3), ((4, 11), 4, 2), ((2, 3), 4, 4), ((5, 7), 2, 1)])
def test_each_superpixels_similarity_is_interpolated_inside_its_own_window(size, cell, factor):
    similarity = similarity_of(size, cell)
    ours = fine_association(similarity, cell, factor)
    torch.testing.assert_close(ours, slow_fine_association(similarity, cell, factor))
    torch.testing.assert_close(ours.sum(2), torch.ones_like(ours[:, :, 0]))


def test_pictures_show_the_association_that_the_head_lifts_logits_with():
    pytest.importorskip('mmseg')
    from mmvit_ext.models.decode_heads.superpixel_head import merged_association

    similarity = similarity_of((7, 10), 4, heads=3)
    ours = fine_association(with_merged_head(similarity), 4, 2)[:, -1:]
    torch.testing.assert_close(ours, merged_association(similarity, (2, 3), 4, factor=2)[..., :14, :20])


def test_heads_are_merged_before_the_softmax_and_stand_last():
    similarity = similarity_of((3, 5), 3, heads=3).float()
    merged = with_merged_head(similarity.bfloat16())
    assert merged.shape == (1, 4, 9, 3, 5)
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged[:, :3], similarity.bfloat16().float())
    expected = similarity.bfloat16().float()
    torch.testing.assert_close(merged[:, 3], (expected[:, 0] + expected[:, 1] + expected[:, 2]) / 3**0.5)


def test_neighbours_of_a_pixel_are_the_superpixels_around_its_cell():
    ids = neighbour_ids((5, 7), (3, 4), 2)
    for y in range(5):
        for x in range(7):
            for n in range(9):
                row, column = y // 2 + n // 3 - 1, x // 2 + n % 3 - 1
                expected = row * 4 + column if 0 <= row < 3 and 0 <= column < 4 else -1
                assert ids[n, y, x] == expected


@pytest.mark.parametrize(('size', 'cell', 'factor'), [((7, 5), 3, 2), ((3, 2), 5, 3)])
def test_the_superpixel_of_a_pixel_is_the_neighbour_with_the_largest_association(size, cell, factor):
    association = fine_association(similarity_of(size, cell), cell, factor)
    labels = hard_superpixels(association, cell, factor)
    columns = grid_of(similarity_of(size, cell), cell)[1]
    for y in range(size[0] * factor):
        for x in range(size[1] * factor):
            for head in range(2):
                n = int(association[0, head, :, y, x].argmax())
                row, column = y // (cell * factor) + n // 3 - 1, x // (cell * factor) + n % 3 - 1
                assert labels[0, head, y, x] == row * columns + column


def test_a_certain_own_cell_gives_the_grid_of_cells():
    similarity = torch.where(similarity_of((6, 9), 3) == -INF, -INF, 0.0)
    similarity[:, :, 4] = 50.0
    labels = hard_superpixels(fine_association(similarity, 3, 2), 3, 2)
    rows, columns = torch.arange(12)[:, None] // 6, torch.arange(18) // 6
    assert torch.equal(labels, (rows * 3 + columns).expand(1, 2, 12, 18))
