import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmvit_ext.models.necks.plain_pyramid import PlainPyramid


def maps(*widths, size=(5, 7), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, width, *size, generator=generator) for width in widths)


def test_levels_have_the_strides_that_heads_are_told_also_for_odd_sizes():
    neck = PlainPyramid([3, 5, 7, 11])
    outputs = neck(maps(3, 5, 7, 11))
    assert [tuple(x.shape) for x in outputs] == [(2, 3, 20, 28), (2, 5, 10, 14), (2, 7, 5, 7), (2, 11, 3, 4)]
    assert all(x.is_contiguous() for x in outputs)


def test_the_level_of_the_same_size_is_passed_on():
    inputs = maps(3, 5, 7, 11)
    assert torch.equal(PlainPyramid([3, 5, 7, 11])(inputs)[2], inputs[2])


def test_each_level_is_made_of_the_map_of_its_own_block():
    """Changing one map changes its level alone."""
    neck, inputs = PlainPyramid([3, 3, 3, 3]), list(maps(3, 3, 3, 3))
    before = neck(inputs)
    for index in range(4):
        changed = neck([x + (number == index) for number, x in enumerate(inputs)])
        assert [not torch.equal(a, b) for a, b in zip(before, changed, strict=True)] == [n == index for n in range(4)]


def test_a_single_width_makes_all_levels_of_the_last_map():
    neck, inputs = PlainPyramid(7, out_channels=6, num_outs=5), maps(3, 7)
    outputs = neck(inputs)
    assert [tuple(x.shape) for x in outputs] == [
        (2, 6, 20, 28),
        (2, 6, 10, 14),
        (2, 6, 5, 7),
        (2, 6, 3, 4),
        (2, 6, 2, 2),
    ]
    assert all(torch.equal(a, b) for a, b in zip(outputs, neck(inputs[1:]), strict=True))
    assert torch.equal(outputs[4], outputs[3][..., ::2, ::2])


def test_a_quadrupled_level_is_what_deconvolutions_by_hand_give():
    """Kernels of ones from each channel to itself: a pixel becomes 4 x 4 equal ones, normed and activated in between.

    The norm makes 1 and -1 of two channels, in the order of their values: here 3 > -5, and -1 < 7.
    """
    neck = PlainPyramid(2, scales=[4])
    first, norm, act, second = neck.levels[0]
    for deconvolution in (first, second):
        nn.init.zeros_(deconvolution.bias)
        with torch.no_grad():
            deconvolution.weight.copy_(torch.eye(2)[..., None, None].expand(-1, -1, 2, 2))
    nn.init.constant_(norm.norm.bias, 2.0)
    (level,) = neck([torch.tensor([[[[3.0, -1.0]], [[-5.0, 7.0]]]])])
    assert isinstance(act, nn.GELU)
    more, less = 3 * 0.99865010197, 1 * 0.84134474607  # GELU of 2 + 1 and 2 - 1
    expected = torch.tensor([[more, less], [less, more]]).repeat_interleave(4, 1)[None, :, None].expand(1, 2, 4, 8)
    torch.testing.assert_close(level, expected, rtol=1e-5, atol=0)


def test_every_parameter_gets_a_gradient():
    neck = PlainPyramid(7, out_channels=6, num_outs=5)
    sum(x.square().sum() for x in neck(maps(7))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in neck.parameters())


def test_it_can_be_built_by_name_and_before_a_feature_pyramid_network():
    pytest.importorskip('mmdet')
    from mmdet.registry import MODELS as MMDET_MODELS

    neck = MMDET_MODELS.build(
        [
            dict(type='mmvit_ext.PlainPyramid', in_channels=[3, 5, 7, 11]),
            dict(type='mmdet.FPN', in_channels=[3, 5, 7, 11], out_channels=13, num_outs=5),
        ]
    )
    assert [x.shape[2] for x in neck(maps(3, 5, 7, 11, size=(4, 6)))] == [16, 8, 4, 2, 1]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(in_channels=[3, 5]), 'one for each of 4 scales'),
        (dict(in_channels=3, scales=[3, 1]), 'scales must be'),
        (dict(in_channels=3, num_outs=3), 'num_outs must be'),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        PlainPyramid(**settings)


def test_another_number_of_maps_is_named():
    neck = MODELS.build(dict(type='mmvit_ext.PlainPyramid', in_channels=[3, 5, 7, 11]))
    with pytest.raises(ValueError, match='4 widths and scales, got 3 maps'):
        neck(maps(3, 5, 7))


def test_the_form_of_tnt_has_deconvolutions_of_four_pixels_and_means():
    """Three deconvolutions with a bias and nothing else to learn; sizes as of the other form, odd ones too."""
    neck = PlainPyramid([3, 3, 3, 3], form='tnt')
    inputs = maps(3, 3, 3, 3)
    outputs = neck(inputs)
    assert [tuple(x.shape[2:]) for x in outputs] == [(20, 28), (10, 14), (5, 7), (3, 4)]
    assert sum(parameter.numel() for parameter in neck.parameters()) == 3 * (3 * 3 * 16 + 3)
    assert torch.equal(outputs[2], inputs[2])
    torch.testing.assert_close(outputs[3][..., 0, 0], inputs[3][..., :2, :2].mean((2, 3)))
    torch.testing.assert_close(outputs[3][..., 2, 3], inputs[3][..., 4, 6])
    (first, act, second), (single,) = neck.levels[0], neck.levels[1]
    assert isinstance(act, nn.GELU)
    assert {tuple(layer.kernel_size) for layer in (first, second, single)} == {(4, 4)}
    with pytest.raises(ValueError, match=r"form must be one of .*'other'"):
        PlainPyramid([3], scales=[1], form='other')
