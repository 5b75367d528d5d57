import pytest
import torch

from mmvit_ext.models.backbones import ShrunkViT, ViT
from tests.zoo import BACKBONES

ARCH = {'embed_dims': 24, 'num_layers': 3, 'num_heads': 3, 'mlp_ratio': 2}


def make(**replaced):
    torch.manual_seed(0)
    settings = {'arch': ARCH, 'shrink_index': 1, 'img_size': 48, 'patch_size': 8, 'out_indices': (0, 2)}
    model = ShrunkViT(**{**settings, **replaced}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def test_checkpoints_of_the_plain_vit_load_strictly():
    source = ViT(arch=ARCH, img_size=48, patch_size=8, out_indices=(0, 2))
    for mode in ('query', 'qkv'):
        make(qd_mode=mode).load_state_dict(source.state_dict(), strict=True)
    result = make(qd_mode='conv').load_state_dict(source.state_dict(), strict=False)
    assert result.missing_keys == ['layers.1.downsample.weight', 'layers.1.downsample.bias']
    assert not result.unexpected_keys


def test_before_the_shrinking_layer_it_is_the_plain_vit():
    shrunk = make()
    plain = ViT(arch=ARCH, img_size=48, patch_size=8, out_indices=(0, 2), with_cls_token=False).eval()
    plain.load_state_dict(shrunk.state_dict())
    img = torch.randn(2, 3, 41, 67)
    torch.testing.assert_close(shrunk(img)[0], plain(img)[0])


@pytest.mark.parametrize('mode', ['query', 'conv'])
@pytest.mark.parametrize('grid', [(6, 9), (5, 7), (1, 4), (1, 1)], ids=str)
def test_the_shrinking_layer_attends_from_every_second_token_to_all_of_them(grid, mode):
    layer = make(qd_mode=mode).layers[1]
    x = torch.randn(2, grid[0] * grid[1], 24)
    places = [(i, j) for i in range(0, grid[0], 2) for j in range(0, grid[1], 2)]
    if mode == 'query':
        picked = x[:, [i * grid[1] + j for i, j in places]]
    else:  # of the 3x3 tokens around each, zeros outside
        padded = torch.nn.functional.pad(x.unflatten(1, grid), (0, 0, 1, 1, 1, 1))
        around = torch.stack([padded[:, i : i + 3, j : j + 3] for i, j in places], 1)
        conv = layer.downsample
        picked = torch.einsum('bnijc,dcij->bnd', around, conv.weight) + conv.bias
    attention = layer.attn.attn
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    q, _, _ = (layer.norm1(picked) @ weight.T + bias).chunk(3, -1)
    _, k, v = (layer.norm1(x) @ weight.T + bias).chunk(3, -1)
    heads = [
        (q[..., i : i + 8] @ k[..., i : i + 8].transpose(1, 2) / 8**0.5).softmax(-1) @ v[..., i : i + 8]
        for i in (0, 8, 16)
    ]
    expected = picked + attention.out_proj(torch.cat(heads, -1))
    expected = expected + layer.ffn(layer.norm2(expected))
    torch.testing.assert_close(layer(x, grid), expected, atol=1e-5, rtol=1e-5)


def test_thinning_out_keys_too_is_an_ordinary_layer_on_fewer_tokens():
    layer = make(qd_mode='qkv').layers[1]
    x = torch.randn(2, 30, 24)
    picked = x.unflatten(1, (5, 6))[:, ::2, ::2].flatten(1, 2)
    expected = picked + layer.attn(layer.norm1(picked))
    expected = expected + layer.ffn(layer.norm2(expected))
    torch.testing.assert_close(layer(x, (5, 6)), expected)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'shrink_index': 3}, '3 layers, got 3'),
        ({'shrink_index': -1}, '3 layers, got -1'),
        ({'qd_mode': 'pool'}, "'query', 'qkv', 'conv'.*'pool'"),
        ({'with_cls_token': True}, 'no class token'),
        ({'output_cls_token': True}, 'no class token: with_cls_token and output_cls_token must be False'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def make_head(**replaced):
    decode_heads = pytest.importorskip('mmvit_ext.models.decode_heads')
    torch.manual_seed(0)
    settings = {'num_classes': 5, 'img_size': (48, 64), 'query_stride': 8, 'num_heads': 3}
    return decode_heads.ShrunkATMHead([24, 24], 12, **{**settings, **replaced}).eval()


@pytest.fixture(params=['learned', 'tokens'])
def head(request):
    return make_head(query_start=request.param)


@pytest.mark.parametrize('size', [(48, 64), (41, 67), (64, 48), (8, 8)], ids=str)
def test_head_decodes_any_input_size(head, size):
    scores = head.predict(make()(torch.randn(2, 3, *size)), [{'img_shape': size}] * 2, None)
    assert scores.shape == (2, 5, *size)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize('family', ['ours', 'DINOv2 with registers', 'DINOv3'])
def test_every_parameter_of_the_head_gets_a_gradient(head, family):
    backbone = make() if family == 'ours' else BACKBONES[family].make(out_indices=(0, 2), shrink_index=1)
    outputs = head.decode(backbone(torch.randn(2, 3, 41, 67)))
    assert len(outputs) == 3
    assert all(output.masks.shape == (2, 5, 6, 9) for output in outputs)
    sum(output.logits.square().sum() + output.masks.square().sum() for output in outputs).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_learned_queries_load_at_another_crop(head):
    other, square = make_head(img_size=(80, 96)), make_head(img_size=64)
    other.load_state_dict(square.state_dict(), strict=True)
    assert other.position_queries.weight.shape == (120, 12)
    other.load_state_dict(make_head().state_dict(), strict=True)
    with pytest.raises(ValueError, match=r'position_queries\.weight has 48 tokens'):
        other.load_state_dict(dict(head.state_dict()))  # without the metadata that tells the grid


def test_the_published_form_is_the_default():
    maps = make()(torch.randn(2, 3, 48, 64))
    for default, learned in zip(make_head().decode(maps), make_head(query_start='learned').decode(maps), strict=True):
        assert torch.equal(default.masks, learned.masks)
    with pytest.raises(ValueError, match=r"query_start must be one of \('learned', 'tokens'\), got 'sine'"):
        make_head(query_start='sine')


def test_both_starts_take_the_same_weights():
    learned, tokens = make_head(), make_head(query_start='tokens')
    assert not tokens.position_queries.weight.any()
    maps = make()(torch.randn(2, 3, 48, 64))
    tokens.load_state_dict(learned.state_dict(), strict=True)
    assert not torch.allclose(tokens.decode(maps)[-1].masks, learned.decode(maps)[-1].masks)
    learned.load_state_dict(make_head(query_start='tokens').state_dict(), strict=True)


@pytest.mark.parametrize('option', [{'num_stages': 2}, {'fuse_inputs': True}], ids=str)
def test_arguments_of_several_maps_are_refused(option):
    with pytest.raises(ValueError, match=f'leave {next(iter(option))} out: ShrunkATMHead decodes one map'):
        make_head(**option)


def test_queries_that_begin_as_tokens_know_where_they_stand():
    """Attention sees a set of tokens: whatever moves them leaves the masks of learned queries where they are."""
    fine, coarse = torch.randn(2, 24, 6, 8), torch.randn(2, 24, 3, 4)
    moved = fine.roll((2, 3), (2, 3))
    for start, expected in (('learned', (0, 0)), ('tokens', (2, 3))):
        head = make_head(query_start=start)
        for before, after in zip(head.decode([fine, coarse]), head.decode([moved, coarse]), strict=True):
            torch.testing.assert_close(after.masks, before.masks.roll(expected, (2, 3)))
