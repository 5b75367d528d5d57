import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmvit_ext.models.generators import ConvDiscriminator, ConvGenerator
from mmvit_ext.models.generators.sagan import DownBlock, PlaneAttention, UpBlock


def generator(**changes):
    torch.manual_seed(0)
    return ConvGenerator(**{'embed_dims': (24, 16, 8), 'noise_dims': 7, 'attention_level': 1, **changes})


def discriminator(**changes):
    torch.manual_seed(0)
    return ConvDiscriminator(**{'embed_dims': (8, 16), 'attention_level': 0, **changes})


def open_gate(network):
    """Attention begins with no share; here it gets one."""
    nn.init.constant_(network.attention.gain, 0.7)
    return network


def test_images_have_the_promised_size_and_range():
    network = generator()
    images = network(10 * torch.randn(3, 7))
    assert images.shape == (3, 3, 16, 16)
    assert network.img_size == 16
    assert images.abs().max() <= 1


def test_each_image_gets_one_score_of_its_own():
    network, images = open_gate(discriminator()).eval(), torch.randn(3, 3, 16, 24)
    scores = network(images)
    assert scores.shape == (3,)
    torch.testing.assert_close(torch.cat([network(image[None]) for image in images]), scores)


@pytest.mark.parametrize(('network', 'shape'), [(generator, (2, 7)), (discriminator, (2, 3, 16, 16))])
def test_every_parameter_gets_a_gradient(network, shape):
    network = open_gate(network())
    network(torch.randn(shape)).square().sum().backward()
    silent = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    # What stands before a norm that takes the mean away has a bias without effect.
    assert silent <= {f'blocks.{block}.conv1.bias' for block in range(2)}


@pytest.mark.parametrize('layer', ['conv', 'linear'])
def test_weights_are_used_with_a_largest_singular_value_of_one(layer):
    network = discriminator(attention_level=None)
    for _ in range(50):  # one step of power iteration each
        network(torch.randn(2, 3, 16, 16))
    weight = network.blocks[1].conv2.weight if layer == 'conv' else network.score.weight
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_attention_equals_equations_1_to_3():
    torch.manual_seed(0)
    attention = PlaneAttention(16).double()
    nn.init.constant_(attention.gain, 0.3)
    attention.eval()
    x = torch.randn(2, 16, 6, 10, dtype=torch.double)
    query, key, value = (getattr(attention, name)(x) for name in ('query', 'key', 'value'))
    expected = torch.empty_like(x)
    for image in range(2):
        keys = F.max_pool2d(key[image], 2).flatten(1)
        values = F.max_pool2d(value[image], 2).flatten(1)
        for row in range(6):
            for column in range(10):
                weights = torch.softmax(keys.T @ query[image, :, row, column], 0)
                mixed = (values @ weights)[None, :, None, None]
                expected[image, :, row, column] = x[image, :, row, column] + 0.3 * attention.out(mixed)[0, :, 0, 0]
    torch.testing.assert_close(attention(x), expected)


def test_attention_has_no_share_at_the_start():
    x = torch.randn(1, 16, 4, 4)
    assert torch.equal(PlaneAttention(16)(x), x)


def test_an_up_block_is_two_normed_convolutions_behind_doubled_pixels_beside_a_short_cut():
    block, x = UpBlock(8, 16), torch.randn(2, 8, 3, 5)
    for norm in (block.norm1, block.norm2):
        for values in (norm.weight.data, norm.bias.data, norm.running_mean):
            nn.init.normal_(values)
    block.eval()
    twice = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    hidden = block.conv1(block.norm1(twice).clamp(min=0))
    expected = block.conv2(block.norm2(hidden).clamp(min=0)) + block.skip(twice)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('first', [True, False])
def test_a_down_block_is_two_convolutions_before_means_of_four_pixels_beside_a_short_cut(first):
    block, x = DownBlock(8, 16, first=first).eval(), torch.randn(2, 8, 6, 10)
    hidden = block.conv1(x if first else x.clamp(min=0)).clamp(min=0)
    full = block.conv2(hidden) + block.skip(x)
    expected = sum(full[..., i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


def test_discriminator_can_be_differentiated_twice():
    """By finite differences of the first gradient's length along the weights' own gradient."""
    network = open_gate(discriminator()).double().eval()
    images = torch.randn(2, 3, 8, 8, dtype=torch.double, requires_grad=True)
    weight = network.score.parametrizations.weight.original

    def length():
        (gradient,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
        return gradient.square().sum()

    (slope,) = torch.autograd.grad(length(), weight)
    step = 1e-5 * slope / slope.norm()
    with torch.no_grad():
        weight += step
    above = length().item()
    with torch.no_grad():
        weight -= 2 * step
    below = length().item()
    assert (above - below) / 2e-5 == pytest.approx(slope.norm().item(), rel=1e-4)


@pytest.mark.parametrize('build', [generator, discriminator])
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'embed_dims': (12, 8)}, r'multiple of 8 .*\(12, 8\)'),
        ({'embed_dims': ()}, 'embed_dims'),
        ({'attention_level': 3}, 'attention_level must be 0 to'),
    ],
)
def test_wrong_arguments_are_named(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_an_image_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match=r'\(10, 8\) pixels cannot be halved 2 times: use multiples of 4'):
        discriminator()(torch.randn(1, 3, 10, 8))
