"""Operation counts, worked out by hand."""

import pytest
import torch
from torch import nn

from mmvit_ext.models.flops import count_flops


@pytest.mark.parametrize(
    ('conv', 'multiply_adds'),
    [
        (nn.Conv2d(6, 4, 3, padding=1), 5 * 7 * 6 * 4 * 9),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), 5 * 7 * 6 * 9),
        (nn.Conv2d(6, 4, 3, padding=1, groups=2), 5 * 7 * 4 * 3 * 9),
        (nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), 5 * 7 * 6 * 2 * 4),
    ],
    ids=['plain', 'depthwise', 'grouped', 'transposed'],
)
def test_a_convolution_counts_once_forwards_and_twice_backwards(conv, multiply_adds):
    x = torch.randn(3, 6, 5, 7, requires_grad=True)
    assert count_flops(lambda: conv(x)) == 2 * 3 * multiply_adds
    assert count_flops(lambda: conv(x).sum().backward()) == 3 * 2 * 3 * multiply_adds
