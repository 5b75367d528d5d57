"""Blocks of a map: order and way back."""

import math

import pytest
import torch

from mmvit_ext.models.layers.blocks import block_groups, from_blocks, heads_outermost, to_blocks

SIZES = [(6, 9), (7, 11), (2, 13), (5, 1), (3, 3)]


def test_tokens_of_a_small_map_come_in_the_order_worked_out_by_hand():
    # Two images of 3 x 5 tokens in blocks of 2 x 2: two whole ones, one cut at the right, two at the bottom, a corner.
    x = torch.arange(15.0).reshape(1, 3, 5, 1)
    parts = to_blocks(torch.cat([x, x + 100]), block_groups((3, 5), 2))
    whole, right, bottom, corner = [[0, 1, 5, 6], [2, 3, 7, 8]], [[4, 9]], [[10, 11], [12, 13]], [[14]]
    for part, blocks in zip(parts, (whole, right, bottom, corner), strict=True):
        expected = [[token + image for token in block] for image in (0, 100) for block in blocks]
        assert part[..., 0].tolist() == expected


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_every_token_comes_back_to_its_place(size):
    x = torch.randn(2, *size, 5)
    groups = block_groups(size, 3)
    assert torch.equal(from_blocks(to_blocks(x, groups), groups), x)


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_groups_hold_every_token_once_and_no_block_is_larger_than_its_edge(size):
    groups = block_groups(size, 3)
    assert sum(math.prod(span.blocks * span.edge for span in group) for group in groups) == size[0] * size[1]
    assert all(1 <= span.edge <= 3 for group in groups for span in group)
    assert len(groups) == len({(group.down.edge, group.right.edge) for group in groups})


def test_columns_are_moved_from_heads_innermost_to_heads_outermost():
    # Channel 0 of heads 0, 1, 2, then channel 1 of them.
    weight = torch.arange(6.0).expand(6, 6)
    assert heads_outermost(weight, 3)[0].tolist() == [0, 3, 1, 4, 2, 5]
