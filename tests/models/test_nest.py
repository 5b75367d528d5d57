"""NesT: blocks, attention, padding, arguments; the contract of every backbone is in test_backbone_contract.py."""

import pytest
import torch
from torch import nn

from benchmarks.plain_nest import plain_levels, plain_nest
from mmvit_ext.models.backbones.nest import BlockAggregation, NesT
from mmvit_ext.models.layers.blocks import BlockAttention
from tests.zoo import BACKBONES, PRIME_SIZE

ROW = BACKBONES['NesT']
TORCH = tuple(int(part) for part in torch.__version__.split('.')[:2])
UNIT = 48
"""Pixels that hold whole blocks at every level of the row: patch 4, block 3, three levels."""


def image(size=PRIME_SIZE, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def attention(num_heads=3, *, multi_query=False):
    torch.manual_seed(0)
    return BlockAttention(12, num_heads, block_size=3, multi_query=multi_query)


def constant_positions(model):
    """The same position embedding everywhere: resizing it to another map gives the same again."""
    for level in model.levels:
        level.pos_embed.data[:] = level.pos_embed.data[:, :1]
    return model


@pytest.mark.parametrize('multi_query', [False, True])
@pytest.mark.parametrize('size', [(48, 96), PRIME_SIZE, (4, 5), (1, 100)], ids=str)
def test_network_and_gradients_equal_the_padded_and_masked_formulation(size, multi_query):
    model, img = ROW.make(multi_query=multi_query).train(), image(size)
    results = []
    for forward in (model, lambda img: plain_nest(model, img)):
        outs = forward(img)
        sum((out**2).mean() for out in outs).backward()
        results.append(([out.detach() for out in outs], [p.grad.clone() for p in model.parameters()]))
        model.zero_grad()
    for ours, plain in zip(*results, strict=True):
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_a_padded_image_gives_what_the_image_alone_gives_wherever_the_padding_is_out_of_reach():
    model, img = constant_positions(ROW.make(final_norm=False).eval()), image((2 * UNIT, 2 * UNIT))
    alone = model(img)
    padded = model(nn.functional.pad(img, (0, UNIT, 0, UNIT)))
    # Level 1: blocks end where the image ends. Then the convolution looks one token across the border, and attention
    # carries that through the block it lands in: the last of four blocks, and the last of two.
    for a, b, same in zip(alone, padded, (24, 9, 3), strict=True):
        edge = a.shape[-1]
        torch.testing.assert_close(a[..., :same, :same], b[..., :same, :same], atol=1e-5, rtol=1e-5)
        if same < edge:
            assert (a[..., same:] - b[..., :edge, same:edge]).abs().amin() > 0


@pytest.mark.parametrize('size', [(41, 67), (45, 61)], ids=str)
def test_what_lies_beyond_the_border_changes_nothing(size):
    model, img = constant_positions(ROW.make(final_norm=False).eval()), image(size)
    for a, b in zip(model(img), plain_levels(model, img), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_blocks_do_not_see_each_other_below_the_first_aggregation():
    model, img = ROW.make().eval(), image((UNIT, 2 * UNIT))
    changed = img.clone()
    changed[:, :, 13, 29] += 1  # token (3, 7), in the block of rows 3 to 5 and columns 6 to 8
    difference = [(a - b).abs().amax((0, 1)) for a, b in zip(model(img), model(changed), strict=True)]
    inside = torch.zeros(12, 24, dtype=torch.bool)
    inside[3:6, 6:9] = True
    assert torch.equal(difference[0] > 0, inside)
    assert (difference[1] > 0).sum() > 9, 'the aggregation does not cross the borders of blocks'


def test_attention_to_equal_tokens_returns_their_value():
    attn = attention(3)
    x = torch.randn(1, 12).expand(2, 5, 7, 12)
    torch.testing.assert_close(attn(x), attn.proj(attn.qkv(x)[..., 24:]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('keep_metadata', [True, False])
def test_files_that_say_they_are_of_the_first_layout_give_what_they_gave_and_others_are_left_alone(keep_metadata):
    """In the first layout the columns of the last projection have the heads innermost."""
    model, img = ROW.make().eval(), image()
    new = model.state_dict() if keep_metadata else dict(model.state_dict())
    bare = {name: tensor for name, tensor in new.items() if name != 'layout_version'}  # of parameters alone
    old = {name: tensor.clone() for name, tensor in bare.items()} | {'layout_version': torch.tensor(1)}
    for name, layer in ((n, m) for n, m in model.named_modules() if isinstance(m, BlockAttention)):
        columns = old[f'{name}.proj.weight'].unflatten(1, (layer.num_heads, -1))
        old[f'{name}.proj.weight'] = columns.transpose(1, 2).flatten(1)
    for stored in (new, old, bare):
        other = ROW.build(**ROW.tiny).eval()
        missing = other.load_state_dict(stored, strict=stored is not bare).missing_keys
        assert missing == (['layout_version'] if stored is bare else [])
        for a, b in zip(model(img), other(img), strict=True):
            assert torch.equal(a, b)


def test_shared_keys_and_values_equal_the_same_ones_in_every_head():
    shared, split = attention(3, multi_query=True), attention(3)
    split.load_state_dict(split.state_dict() | {f'proj.{k}': v for k, v in shared.proj.state_dict().items()})
    for name in ('weight', 'bias'):
        q, k, v = getattr(shared.qkv, name).data.split((12, 4, 4))
        getattr(split.qkv, name).data = torch.cat([q, k, k, k, v, v, v])
    x = torch.randn(2, 5, 7, 12)
    torch.testing.assert_close(shared(x), split(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ('size', 'expected'),
    [((4, 4), [[1, 3], [9, 11]]), ((3, 5), [[1, 3, 5], [11, 13, 15]]), ((1, 2), [[1]]), ((1, 1), [[1]])],
)
@pytest.mark.parametrize('sign', [1, -1])
def test_pooling_starts_at_the_first_token_and_never_takes_the_padding(size, expected, sign):
    aggregation = BlockAggregation(1, 1, norm_cfg={'type': 'LN'})
    aggregation.norm = nn.Identity()
    nn.init.zeros_(aggregation.conv.weight)
    nn.init.zeros_(aggregation.conv.bias)
    aggregation.conv.weight.data[0, 0, 1, 1] = 1
    H, W = size
    x = sign * torch.arange(1.0, H * W + 1).reshape(1, 1, H, W)
    if sign > 0:  # the last token of a window instead of the first one
        rows, columns = ([min(2 * i + 2, n - 1) for i in range(-(-n // 2))] for n in size)
        expected = [[r * W + c + 1 for c in columns] for r in rows]
    out = aggregation(x.contiguous(memory_format=torch.channels_last))
    assert (sign * out[0, 0]).tolist() == expected


@pytest.mark.parametrize('out_indices', [-1, (0, 1, 2)], ids=str)
def test_outputs_of_intermediate_maps_have_gradients_with_respect_to_each(out_indices):
    model = ROW.make(out_indices=out_indices).eval()
    maps = model.forward_intermediates(image())
    outs = [model.to_output(maps[name]) for name in model.out_names]
    for gradient in torch.autograd.grad(outs[-1].square().mean(), list(maps.values())):
        assert gradient.abs().sum() > 0
    for ours, whole in zip(outs, model(image()), strict=True):
        assert torch.equal(ours, whole)


def test_the_extra_map_is_an_aggregation_of_the_top_before_its_norm():
    model = ROW.make(extra_dims=28, out_indices=(0, 3, 2)).eval()
    outs = model(image())
    assert model.out_channels == (8, 28, 20)
    assert model.out_strides == (4, 32, 16)
    assert [tuple(out.shape[2:]) for out in outs] == [(11, 17), (2, 3), (3, 5)]
    plain = ROW.make(extra_dims=28, out_indices=3).eval()
    plain.load_state_dict(model.state_dict())
    top = plain.forward_intermediates(image(), -1)['levels.2.layers.0']
    torch.testing.assert_close(outs[1], model.extra_aggregation(top))
    torch.testing.assert_close(outs[2], model.norm(top.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    assert ROW.make(extra_dims=28).out_strides == (4, 8, 16, 32)


@pytest.mark.parametrize('out_indices', [-1, (0, 3)], ids=str)
def test_intermediate_maps_of_a_network_with_an_extra_map_are_those_of_all_its_layers(out_indices):
    model = ROW.make(extra_dims=28, out_indices=out_indices).eval()
    assert tuple(model.forward_intermediates(image())) == model.block_names
    assert model(image())[-1].shape == (2, 28, 2, 3)
    assert model.get_layer_depth('extra_aggregation') == model.get_layer_depth('extra_aggregation.conv.weight')


def test_positions_are_resized_along_each_axis_of_the_plane():
    model, name = ROW.make(), 'levels.0.pos_embed'
    assert model.levels[0].grid == (12, 16)
    ramp = torch.arange(12.0)[:, None].expand(12, 16).reshape(1, -1, 1).expand(-1, -1, 8)
    other = ROW.make(img_size=(64, 64))
    with pytest.raises(ValueError, match='no square number'):
        other.load_state_dict(dict(other.state_dict()) | {name: ramp})
    square = torch.arange(16.0)[:, None].expand(16, 16).reshape(1, -1, 1).expand(-1, -1, 8)
    model.load_state_dict(dict(model.state_dict()) | {name: square})
    plane = model.levels[0].pos_embed.data.reshape(12, 16, 8)
    assert torch.equal(plane, plane[:, :1].expand_as(plane))
    assert (plane[1:, 0] > plane[:-1, 0]).all()


def test_a_stored_final_norm_is_left_out_where_there_is_none():
    ROW.make(final_norm=False).load_state_dict(ROW.make().state_dict(), strict=True)


@pytest.mark.parametrize('arch', ['cifar-tiny', 'cifar-small', 'cifar-base'])
def test_networks_for_small_images_have_four_levels_of_one_width(arch):
    with torch.device('meta'):
        model = NesT(arch)
    dims = {'cifar-tiny': 192, 'cifar-small': 384, 'cifar-base': 768}[arch]
    outs = model(torch.empty(2, 3, 32, 32, device='meta'))
    assert [tuple(out.shape) for out in outs] == [(2, dims, edge, edge) for edge in (32, 16, 8, 4)]
    assert [level.grid for level in model.levels] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert all(layer.attn.qkv.out_features == dims + 128 for level in model.levels for layer in level.layers)


def test_stochastic_depth_grows_linearly_over_all_layers():
    model = ROW.make(drop_path_rate=0.3)
    rates = [layer.drop_path.drop_prob for level in model.levels for layer in level.layers]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize('frozen', [-1, 0, 1, 3])
def test_frozen_levels_stay_as_they_are_in_training(frozen):
    model = ROW.make(frozen_stages=frozen, drop_path_rate=0.5).train()
    assert all(p.requires_grad == (frozen < 0) for p in model.patch_embed.parameters())
    for index, level in enumerate(model.levels):
        trains = index >= frozen
        assert all(p.requires_grad == trains for p in level.parameters())
        assert all(module.training == trains for module in level.modules())


def test_what_no_output_needs_is_not_trained():
    model = ROW.make(out_indices=1, extra_dims=28)
    trained = {name.split('.')[0] + name.split('.')[1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {'patch_embedprojection', 'levels0', 'levels1'}
    assert list(model.forward_intermediates(image())) == ['levels.0.layers.0', 'levels.1.layers.0', 'levels.1.layers.1']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'arch': 'huge'}, "arch must be one of .* got 'huge'"),
        ({'arch': {'embed_dims': (8, 8)}}, 'arch: missing .*depths'),
        ({'arch': {**ROW.tiny['arch'], 'depths': (1, 1)}}, 'must have one value for each stage'),
        ({'arch': {'embed_dims': (), 'num_heads': (), 'depths': ()}}, 'must have one value for each stage'),
        ({'arch': {**ROW.tiny['arch'], 'num_heads': (1, 5, 5)}}, 'num_heads must divide embed_dims'),
        ({'img_size': (1, 2, 3)}, r'img_size must be an edge or \(H, W\)'),
        ({'img_size': (64, 3)}, r'img_size must be an edge or \(H, W\)'),
        ({'block_size': 0}, 'block_size must be at least 1, got 0'),
        ({'arch': {**ROW.tiny['arch'], 'depths': (1, 0, 1)}}, r'one block for each stage, got \(1, 0, 1\)'),
        ({'drop_path_rate': 1.0}, 'drop_path_rate must be a probability from 0 to below 1, got 1.0'),
        ({'interpolate_mode': 'bicubc'}, "interpolate_mode must be one of .* got 'bicubc'"),
        ({'extra_dims': 0}, 'extra_dims must be a width of at least 1 or None, got 0'),
        ({'frozen_stages': 4}, 'frozen_stages must be -1 to 3, got 4'),
        ({'out_indices': (0, 3)}, 'out_indices must name distinct levels of 3'),
        ({'out_indices': (1, -2)}, 'out_indices must name distinct levels of 3'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ROW.build(**{**ROW.tiny, **arguments})


@pytest.mark.skipif(TORCH < (2, 5), reason='older dynamo does not trace the network whole')
def test_compiling_gives_the_same_numbers_without_graph_breaks():
    torch._dynamo.reset()
    model, img = ROW.make().train(), image()
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    for a, b in zip(compiled(img), model(img), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
