"""P2T: pooling, attention, stages and arguments; the contract of every backbone is in test_backbone_contract.py."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn

from benchmarks import plain_p2t as plain_p2t_module
from benchmarks.plain_p2t import plain_attention, plain_p2t
from mmvit_ext.models.backbones.p2t import P2T, InvertedResidualFFN, PyramidPoolingAttention, pooled_size
from tests.zoo import BACKBONES, PRIME_SIZE

ROW = BACKBONES['P2T']


def image(size=PRIME_SIZE, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def attention(channels=6, ratios=(2, 3), pool_type='avg'):
    torch.manual_seed(0)
    return PyramidPoolingAttention(
        channels, 2, pool_ratios=ratios, pool_type=pool_type, qkv_bias=True, attn_drop=0.0, proj_drop=0.0
    )


def pooled_by_hand(x, size, pool_type):
    """Each place of the pooled map from all rows and columns that it covers, at least in part."""
    out = x.new_empty(*x.shape[:2], *size)
    for i, j in itertools.product(range(size[0]), range(size[1])):
        rows, columns = (
            slice(place * edge // count, -(-(place + 1) * edge // count))
            for place, edge, count in zip((i, j), x.shape[2:], size, strict=True)
        )
        window = x[..., rows, columns].flatten(2)
        out[..., i, j] = window.mean(2) if pool_type == 'avg' else window.amax(2)
    return out


@pytest.mark.parametrize(
    ('size', 'ratio', 'expected'),
    [
        ((56, 56), 12, (5, 5)),  # 4.67
        ((56, 56), 16, (4, 4)),  # 3.5: halves go to the even neighbour
        ((40, 56), 16, (2, 4)),  # 2.5 and 3.5
        ((7, 20), 24, (1, 1)),  # 0.29 and 0.83
        ((1, 100), 24, (1, 4)),
    ],
)
def test_pooled_sizes_are_rounded_as_python_rounds_and_never_empty(size, ratio, expected):
    assert pooled_size(size, ratio) == expected


@pytest.mark.parametrize('pool_type', ['avg', 'max'])
@pytest.mark.parametrize('size', [(5, 7), (1, 11), (13, 1), (1, 1)], ids=str)
def test_attention_equals_the_one_written_out(size, pool_type, monkeypatch):
    attn, convs = (
        attention(pool_type=pool_type),
        nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1, groups=6) for _ in range(2)),
    )
    x = torch.randn(2, size[0] * size[1], 6)
    out = attn(x, size, convs)
    by_hand = {pool_type: partial(pooled_by_hand, pool_type=pool_type)}
    monkeypatch.setattr(plain_p2t_module, 'POOLINGS', by_hand)
    torch.testing.assert_close(out, plain_attention(attn, x, size, convs), atol=1e-5, rtol=1e-5)


def test_attention_to_equal_tokens_returns_their_value():
    attn = attention()
    x = torch.randn(1, 1, 6).expand(1, 35, 6).contiguous()
    value = attn.kv(attn.norm(x)).chunk(2, dim=-1)[1]
    torch.testing.assert_close(attn(x, (5, 7), None), attn.proj(value), atol=1e-5, rtol=1e-5)


def test_transposed_images_give_transposed_maps():
    attn, x = attention(), torch.randn(1, 35, 6)
    transposed = x.unflatten(1, (5, 7)).transpose(1, 2).flatten(1, 2)
    out = attn(x, (5, 7), None).unflatten(1, (5, 7)).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(attn(transposed, (7, 5), None), out, atol=1e-5, rtol=1e-5)


def test_a_box_filter_in_the_ffn_sums_the_neighbours_inside_the_image():
    ffn = InvertedResidualFFN(1, 1, act_cfg={'type': 'ReLU'}, drop=0.0)
    for layer in (ffn.fc1, ffn.conv, ffn.fc2):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    expected = torch.full((7, 13), 9.0)
    expected[[0, -1]] = 6
    expected[:, [0, -1]] = 6
    expected[[0, 0, -1, -1], [0, -1, 0, -1]] = 4
    assert torch.equal(ffn(torch.ones(1, 91, 1), (7, 13)).view(7, 13), expected)


@pytest.mark.parametrize('batch', [1, 2])
def test_network_and_gradients_equal_the_plain_formulation(batch):
    model = ROW.make().train()
    img = image(batch=batch)
    gradients = []
    for forward in (model, lambda img: plain_p2t(model, img)):
        outs = forward(img)
        sum((out**2).mean() for out in outs).backward()
        gradients.append(([out.detach() for out in outs], [p.grad.clone() for p in model.parameters()]))
        model.zero_grad()
    for ours, plain in zip(*gradients, strict=True):
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize('batch', [1, 2])
def test_only_the_image_and_the_returned_maps_are_copied_between_layouts(batch):
    model, img = ROW.make().eval(), image(batch=batch)
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, record_shapes=True) as profile, torch.no_grad():
        outs = model(img)
    assert all(out.is_contiguous() for out in outs), 'RoIAlign of mmcv reads other layouts wrongly on a CPU'
    events = profile.key_averages(group_by_input_shape=True)
    copied = [event.input_shapes[:2] for event in events if event.key == 'aten::copy_' for _ in range(event.count)]
    maps = [tuple(to) for to, source in copied if to == source and len(to) == 4 and to[0] == batch]
    assert sorted(maps) == sorted(tuple(tensor.shape) for tensor in (img.permute(0, 2, 3, 1), *outs))


def test_all_blocks_of_a_stage_share_its_position_encoding():
    names = [name for name, _ in ROW.make().named_parameters() if 'rpe_convs' in name and name.endswith('weight')]
    assert names == [f'stages.{s}.rpe_convs.{r}.weight' for s, count in enumerate((3, 2, 4, 2)) for r in range(count)]


def test_stochastic_depth_grows_linearly_over_all_blocks():
    model = ROW.make(drop_path_rate=0.4)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(('frozen', 'free'), [(-1, 4), (0, 4), (1, 3), (3, 1), (4, 0)])
def test_frozen_stages_stay_as_they_are_in_training(frozen, free):
    model = ROW.make(frozen_stages=frozen, drop_path_rate=0.5).train()
    for index, stage in enumerate(model.stages):
        trains = index >= max(frozen, 0)
        assert all(p.requires_grad == trains for p in stage.blocks.parameters())
        assert all(module.training == trains for module in stage.blocks.modules())
    embeds = [all(p.requires_grad for p in stage.patch_embed.parameters()) for stage in model.stages]
    assert embeds[0] == (frozen < 0)
    assert sum(embeds[1:]) == min(free, 3)


def test_patches_without_overlap_drop_the_rest_of_the_image():
    outs = ROW.make(overlapped=False).eval()(image((71, 101)))
    assert [tuple(out.shape[-2:]) for out in outs] == [(17, 25), (8, 12), (4, 6), (2, 3)]


def test_patches_without_overlap_refuse_an_image_that_holds_none():
    with pytest.raises(ValueError, match='at least 32 x 32 pixels, got'):
        ROW.make(overlapped=False)(image((31, 64)))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'arch': 'huge'}, "arch must be one of .* got 'huge'"),
        ({'arch': {'embed_dims': (8, 8, 8, 8)}}, 'arch: missing .*depths'),
        ({'arch': {**ROW.tiny['arch'], 'depths': (1, 1, 1)}}, 'depths, mlp_ratios must have one value for each stage'),
        ({'arch': {name: values[:3] for name, values in ROW.tiny['arch'].items()}}, 'depths must have 4 values'),
        ({'arch': {**ROW.tiny['arch'], 'num_heads': (1, 2, 3, 3)}}, 'num_heads must divide embed_dims'),
        ({'arch': {**ROW.tiny['arch'], 'depths': (1, 0, 1, 1)}}, r'one block for each stage, got \(1, 0, 1, 1\)'),
        ({'arch': {**ROW.tiny['arch'], 'embed_dims': 64}}, 'must have one value for each stage, got .*64'),
        ({'attn_drop_rate': 1.5}, 'attn_drop_rate must be a probability from 0 to below 1, got 1.5'),
        ({'pool_ratios': ((1,), (2,), (3,))}, 'pool_ratios must be 4'),
        ({'pool_ratios': ((1,), (2,), (3,), ())}, 'pool_ratios must be 4'),
        ({'pool_type': 'mean'}, "pool_type must be one of .* got 'mean'"),
        ({'ffn_type': 'glu'}, "ffn_type must be one of .* got 'glu'"),
        ({'frozen_stages': 5}, 'frozen_stages must be -1 to 4, got 5'),
        ({'out_indices': (0, 4)}, 'out_indices must name distinct stages'),
        ({'out_indices': (1, -3)}, 'out_indices must name distinct stages'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ROW.build(**{**ROW.tiny, **arguments})


def test_in_place_activations_and_those_with_parameters_train():
    for act_cfg in ({'type': 'ReLU', 'inplace': True}, {'type': 'PReLU'}):
        model = ROW.make(act_cfg=act_cfg).train()
        sum(out.mean() for out in model(image())).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.skipif(torch.__version__.startswith('2.1.'), reason='its dynamo breaks the graph')
def test_compiling_gives_the_same_numbers_without_graph_breaks():
    torch._dynamo.reset()
    model, img = ROW.make().train(), image()
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    for a, b in zip(compiled(img), model(img), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_first_values_of_depthwise_convolutions_keep_the_signal():
    """An output of a depthwise convolution sees 9 inputs: a variance of 2 / 9, and an FFN that passes the signal on."""
    torch.manual_seed(0)
    network = P2T('tiny')
    network.init_weights()
    ffn = network.stages[1].blocks[0].ffn
    assert ffn.conv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert ffn.fc1.weight.std().item() == pytest.approx((2 / 768) ** 0.5, rel=0.05)
    x = torch.randn(1, 144, 96)
    assert ffn(x, (12, 12)).std() > 0.3
