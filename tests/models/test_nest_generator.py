import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mmvit_ext.models.backbones import NesT
from mmvit_ext.models.generators import NesTGenerator
from mmvit_ext.models.generators.nest_generator import BlockDeaggregation
from mmvit_ext.models.layers.blocks import block_groups

TINY = {'embed_dims': (12, 8, 5), 'num_heads': (3, 2, 1), 'depths': (1, 2, 1)}
OPTIONS = [
    {'arch': dict(TINY, embed_dims=(24, 8, 5))},
    {'arch': dict(TINY, num_heads=(4, 2, 1))},
    {'arch': dict(TINY, depths=(2, 1, 1))},
    {'noise_dims': 11},
    {'block_size': 2},
    {'out_channels': 1},
    {'multi_query': True},
    {'qkv_bias': False},
    {'norm_cfg': {'type': 'LN', 'eps': 0.5}},
    {'act_cfg': {'type': 'ReLU'}},
]


def build(**changes):
    torch.manual_seed(0)
    generator = NesTGenerator(**{'arch': TINY, 'noise_dims': 7, 'block_size': 3, **changes})
    for parameter in generator.parameters():  # nothing stays at a value that hides it
        torch.nn.init.normal_(parameter, std=0.2)
    return generator


@pytest.mark.parametrize(('arch', 'edge', 'levels'), [('32', 32, 4), ('64', 64, 5)])
def test_published_sizes_come_from_as_many_levels_that_get_narrower(arch, edge, levels):
    with torch.device('meta'):
        generator = NesTGenerator(arch).eval()
        images = generator(torch.empty(2, 128))
    assert images.shape == (2, 3, edge, edge)
    assert generator.img_size == edge
    widths = [level.pos_embed.shape[-1] for level in generator.levels]
    assert len(widths) == levels
    assert widths == sorted(widths, reverse=True)
    assert generator.levels[0].pos_embed.shape[1] == generator.block_size  # one block on top


def test_images_have_the_promised_size_and_range():
    images = build()(10 * torch.randn(2, 7))
    assert images.shape == (2, 3, 12, 12)
    assert images.is_contiguous()
    assert images.abs().max() <= 1


def test_every_parameter_gets_a_gradient():
    generator = build()
    generator(torch.randn(2, 7)).square().sum().backward()
    assert not [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize('options', OPTIONS, ids=lambda options: next(iter(options)))
def test_every_option_changes_something(options):
    plain, changed = build(), build(**options)
    shapes = [[(n, p.shape) for n, p in generator.named_parameters()] for generator in (plain, changed)]
    if shapes[0] == shapes[1]:
        noise = torch.randn(2, 7)
        assert not torch.allclose(plain(noise), changed(noise), atol=1e-4)


def test_images_depend_on_the_noise_in_every_pixel():
    images = build()(torch.randn(2, 7))
    assert (images[0] != images[1]).all()


def test_deaggregation_puts_the_four_parts_of_a_pixel_around_it():
    """With the identity as convolution: channel 4 c + 2 i + j of a pixel becomes channel c at row i, column j of it."""
    layer = BlockDeaggregation(8, 2, norm_cfg={'type': 'LN'})
    layer.norm = torch.nn.Identity()
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.bias.zero_()
        for channel in range(2):
            layer.conv.weight[channel, channel, 1, 1] = 1
    x = torch.arange(2 * 3 * 8.0).reshape(1, 2, 3, 8)
    out = layer(x)
    assert out.shape == (1, 4, 6, 2)
    for row in range(4):
        for column in range(6):
            for channel in range(2):
                part = 4 * channel + 2 * (row % 2) + column % 2
                assert out[0, row, column, channel] == x[0, row // 2, column // 2, part]


def plain_forward(generator, noise):
    """The generator as its docstring reads: blocks one by one, softmax written out."""
    edge, block = generator.block_size, generator.block_size
    x = F.linear(noise, generator.stem.weight, generator.stem.bias).reshape(len(noise), edge, edge, -1)
    for level in generator.levels:
        if level.deaggregation is not None:
            x = F.pixel_shuffle(x.permute(0, 3, 1, 2), 2)
            x = level.deaggregation.norm(level.deaggregation.conv(x).permute(0, 2, 3, 1))
        x = x + level.pos_embed
        out = torch.empty_like(x)
        for top in range(0, x.shape[1], block):
            for left in range(0, x.shape[2], block):
                tokens = x[:, top : top + block, left : left + block].flatten(1, 2)
                for layer in level.layers:
                    tokens = tokens + plain_attention(layer.attn, layer.norm1(tokens))
                    hidden = F.gelu(layer.mlp.fc1(layer.norm2(tokens)))
                    tokens = tokens + layer.mlp.fc2(hidden)
                out[:, top : top + block, left : left + block] = tokens.unflatten(1, (block, block))
        x = out
    return torch.tanh(generator.to_image(generator.norm(x).permute(0, 3, 1, 2)))


def plain_attention(attn, x):
    C, h = x.shape[-1], attn.num_heads
    q, k, v = (part.unflatten(-1, (h, C // h)) for part in F.linear(x, attn.qkv.weight, attn.qkv.bias).chunk(3, -1))
    weights = (torch.einsum('bnhc,bmhc->bhnm', q, k) / (C // h) ** 0.5).softmax(-1)
    out = torch.einsum('bhnm,bmhc->bnhc', weights, v).flatten(2)
    return F.linear(out, attn.proj.weight, attn.proj.bias)


def test_equals_the_plain_reading_of_it():
    generator = build().double()
    noise = torch.randn(2, 7, dtype=torch.double)
    torch.testing.assert_close(generator(noise), plain_forward(generator, noise))


def test_information_crosses_the_borders_of_blocks_through_the_convolution_alone():
    """A change in one block of a level reaches at most the next token of its neighbours."""
    generator = build()
    level = generator.levels[2]
    x = torch.randn(1, 6, 6, 8)
    changed = x.clone()
    changed[0, :3, :3] += 1  # the upper left of four blocks, which becomes the upper left four of sixteen
    with torch.no_grad():
        moved = (level(x) != level(changed)).any(-1)[0]
    touched = {(row, column) for row, column in moved.nonzero().div(3, rounding_mode='floor').unique(dim=0).tolist()}
    assert touched == {(row, column) for row in range(3) for column in range(3)}
    assert len(block_groups((12, 12), 3)) == 1


def test_checkpointing_changes_nothing():
    noise, gradients = torch.randn(2, 7), []
    for with_cp in (False, True):
        generator = build(with_cp=with_cp).train()
        generator(noise).square().sum().backward()
        gradients.append([p.grad for p in generator.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_bfloat16_is_close_to_float32():
    generator, noise = build().eval(), torch.randn(2, 7)
    with torch.no_grad():
        exact = generator(noise)
        with torch.autocast('cpu', torch.bfloat16):
            rounded = generator(noise)
    assert (exact - rounded.float()).abs().mean() < 0.05


def test_attention_costs_are_linear_in_the_pixels():
    """A level's operations per token do not depend on the size of its map."""
    with torch.device('meta'):
        level = NesTGenerator('64').levels[4]
        counts = []
        for edge in (16, 32):
            level.pos_embed = torch.nn.Parameter(torch.empty(1, 2 * edge, 2 * edge, 64))
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                level(torch.empty(1, edge, edge, 128))
            counts.append(counter.get_total_flops() / edge**2)
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'arch': '128'}, "arch must be one of .*'128'"),
        ({'arch': {'embed_dims': (8,), 'depths': (1,)}}, r"missing \['num_heads'\]"),
        ({'arch': dict(TINY, depths=(1, 1))}, 'one value for each stage'),
        ({'arch': dict(TINY, embed_dims=(9, 8, 5))}, r'multiples of 4 .*\(9, 8, 5\)'),
        ({'arch': dict(TINY, num_heads=(5, 2, 1))}, 'num_heads must divide embed_dims'),
        ({'noise_dims': 0}, 'noise_dims must be at least 1, got 0'),
        ({'block_size': 0}, 'block_size must be at least 1, got 0'),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_layers_are_those_of_the_backbone():
    """So that what is found out about one holds for the other."""
    backbone = NesT({'embed_dims': (8,), 'num_heads': (2,), 'depths': (1,)}, img_size=8, block_size=2)
    assert type(backbone.levels[0].layers[0]) is type(build().levels[0].layers[0])
