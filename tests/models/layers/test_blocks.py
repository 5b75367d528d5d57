"""Blocks of a map: order, way back, gradients."""

import pytest
import torch

from mmvit_ext.models.layers import blocks as module
from mmvit_ext.models.layers.blocks import BlockDropPath, block_groups, from_blocks, group_rows, to_blocks

SIZES = [(6, 9), (7, 11), (2, 13), (5, 1), (3, 3)]


@pytest.fixture(params=[False, True], ids=['eager', 'traced'])
def is_compiling(request, monkeypatch):
    monkeypatch.setattr(module, 'is_compiling', lambda: request.param)


def feature(size, batch=2, channels=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *size, channels, generator=generator, dtype=dtype).requires_grad_()


def test_tokens_of_a_small_map_come_in_the_order_worked_out_by_hand(is_compiling):
    # Two images of 3 x 5 tokens in blocks of 2 x 2: two whole ones, one cut at the right, two at the bottom, a corner.
    x = torch.arange(15.0).reshape(1, 3, 5, 1)
    rows = to_blocks(torch.cat([x, x + 100]), torch.zeros(1, 3, 5, 1), 2)
    whole, right, bottom, corner = [0, 1, 5, 6, 2, 3, 7, 8], [4, 9], [10, 11, 12, 13], [14]
    expected = [token + image for part in (whole, right, bottom, corner) for image in (0, 100) for token in part]
    assert rows.flatten().tolist() == expected


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_every_token_comes_back_to_its_place(size, is_compiling):
    x = feature(size)
    assert torch.equal(from_blocks(to_blocks(x, torch.zeros(1, *size, 5), 3), (2, *size), 3), x)


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_groups_hold_every_token_once_and_no_block_is_larger_than_its_edge(size):
    groups = block_groups(size, 3)
    assert sum(group_rows(groups, 7)) == 7 * size[0] * size[1]
    assert all(1 <= span.edge <= 3 for group in groups for span in group)
    assert len(groups) == len({(group.down.edge, group.right.edge) for group in groups})


def test_position_is_added_where_it_stands_on_the_plane(is_compiling):
    x, position = feature((7, 11)), feature((7, 11), batch=1)
    assert torch.equal(from_blocks(to_blocks(x, position, 3), (2, 7, 11), 3), x + position)


def test_gradients_agree_with_finite_differences_twice_over(is_compiling):
    x, position = feature((4, 5), dtype=torch.float64), feature((4, 5), batch=1, dtype=torch.float64)

    def run(x, position):
        return from_blocks(to_blocks(x, position, 3) ** 2, (2, 4, 5), 3)

    assert torch.autograd.gradcheck(run, (x, position), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, position), fast_mode=True)


def test_a_mix_of_precisions_keeps_the_wider_one_and_gradients_their_own():
    x, position = feature((4, 5), dtype=torch.bfloat16), feature((4, 5), batch=1)
    rows = to_blocks(x, position, 3)
    rows.sum().backward()
    assert (rows.dtype, x.grad.dtype, position.grad.dtype) == (torch.float32, torch.bfloat16, torch.float32)


def test_a_dropped_branch_is_dropped_for_all_blocks_of_an_image():
    torch.manual_seed(0)
    groups = block_groups((5, 7), 3)
    drop = BlockDropPath(0.25).train()
    x = to_blocks(torch.ones(64, 5, 7, 2), torch.zeros(1, 5, 7, 2), 3)
    images = from_blocks(drop(x, groups, 64), (64, 5, 7), 3).flatten(1)
    assert torch.equal(images, images[:, :1].expand_as(images)), 'part of an image was dropped'
    assert sorted(set(images[:, 0].tolist())) == pytest.approx([0, 4 / 3])
    assert 4 <= (images[:, 0] == 0).sum() <= 30
    assert drop.eval()(x, groups, 64) is x
