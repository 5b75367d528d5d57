import pytest
import torch

from mmvit_ext.checkpoints.convert import convert
from mmvit_ext.models.backbones.vit import ViT
from mmvit_ext.models.layers.position_embedding import resize_position_embedding, square_grid

SMALL = {'embed_dims': 48, 'num_layers': 4, 'num_heads': 3, 'img_size': (96, 64), 'out_indices': (1, 3)}


@pytest.mark.parametrize('size', [(96, 64), (97, 130), (16, 16), (33, 200)], ids=str)
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'patch_bias': True, 'final_norm': True, 'norm_cfg': {'type': 'LN', 'eps': 1e-6}},
        {'with_cls_token': False, 'pre_norm': True, 'patch_norm': True},
        {'output_cls_token': True, 'out_origin': True, 'qkv_bias': False, 'num_fcs': 3},
        {'patch_pad': 'same', 'interpolate_mode': 'bilinear', 'mlp_ratio': 2},
    ],
    ids=str,
)
def test_outputs_and_names_equal_those_of_mmseg(options, size):
    mmseg = pytest.importorskip('mmseg.models.backbones')
    torch.manual_seed(0)
    theirs, ours = mmseg.VisionTransformer(**SMALL, **options), ViT(**SMALL, **options)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.eval()  # returns None there
    ours.eval()
    img = torch.randn(2, 3, *size)
    for a, b in zip(theirs(img), ours(img), strict=True):
        for x, y in zip(a, b, strict=True) if isinstance(a, list) else [(a, b)]:
            torch.testing.assert_close(y, x, atol=1e-5, rtol=0)


def test_same_token_count_on_another_grid_still_resizes_the_position_embedding():
    torch.manual_seed(0)
    model = ViT(**SMALL).eval()
    torch.nn.init.normal_(model.pos_embed)
    img = torch.zeros(1, 3, 64, 96)  # 4 x 6 patches like the training grid's 6 x 4
    tokens, grid = model.embed(img)
    resized = resize_position_embedding(model.pos_embed, (6, 4), (4, 6), num_prefix_tokens=1)
    assert grid == (4, 6)
    assert torch.allclose(tokens[:, 1:], resized[:, 1:])
    assert not torch.allclose(tokens[:, 1:], model.pos_embed[:, 1:])


def test_layers_above_the_last_output_are_neither_run_nor_trained():
    model = ViT(**{**SMALL, 'out_indices': (1,)}).train()
    with torch.no_grad():
        for parameter in model.layers[2].parameters():
            parameter.fill_(float('nan'))
    model(torch.randn(1, 3, 32, 32))[0].sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for layer in model.layers[2:] for p in layer.parameters())


def test_a_converted_classifier_in_timm_names_loads_strictly_at_another_size():
    torch.manual_seed(0)
    ours = ViT(embed_dims=48, num_layers=2, num_heads=3, img_size=64, patch_bias=True, out_indices=(1,))
    theirs = {
        'cls_token': torch.randn(1, 1, 48),
        'pos_embed': torch.randn(1, 26, 48),
        'patch_embed.proj.weight': torch.randn(48, 3, 16, 16),
        'patch_embed.proj.bias': torch.randn(48),
        'norm.weight': torch.randn(48),
        'norm.bias': torch.randn(48),
        'head.weight': torch.randn(1000, 48),
        'head.bias': torch.randn(1000),
    }
    shapes = {'norm1': (48,), 'norm2': (48,), 'attn.qkv': (144, 48), 'attn.proj': (48, 48)}
    shapes |= {'mlp.fc1': (192, 48), 'mlp.fc2': (48, 192)}
    for layer in range(2):
        for name, shape in shapes.items():
            theirs[f'blocks.{layer}.{name}.weight'] = torch.randn(shape)
            theirs[f'blocks.{layer}.{name}.bias'] = torch.randn(shape[:1])
    ours.load_state_dict(convert(theirs, 'vit'), strict=True)
    assert torch.equal(ours.layers[1].attn.attn.in_proj_weight, theirs['blocks.1.attn.qkv.weight'])
    assert torch.equal(ours.layers[0].ffn.layers[1].bias, theirs['blocks.0.mlp.fc2.bias'])
    expected = resize_position_embedding(theirs['pos_embed'], (5, 5), (4, 4), num_prefix_tokens=1)
    assert torch.equal(ours.pos_embed, expected)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'arch': 'huge'}, "one of .*'large'.*'huge'"),
        ({'arch': {'embed_dims': 8}}, r"missing \['num_heads', 'num_layers'\]"),
        ({'num_heads': 5}, 'num_heads=5 and embed_dims=768'),
        ({'out_indices': (3, 12)}, r'12, got \(3, 12\)'),
        ({'out_indices': (3, -9)}, 'distinct layers'),
        ({'img_size': (1, 2, 3)}, r'\(1, 2, 3\)'),
        ({'img_size': 8}, 'of at least 16 pixels'),
        ({'with_cls_token': False, 'output_cls_token': True}, 'needs with_cls_token=True'),
        ({'num_fcs': 1}, 'num_fcs must be at least 2'),
        ({'drop_path_rate': 1.5}, 'drop_path_rate must be a probability from 0 to below 1, got 1.5'),
        ({'attn_drop_rate': -0.1}, 'attn_drop_rate must be a probability from 0 to below 1, got -0.1'),
        ({'drop_rate': float('nan')}, 'drop_rate must be a probability'),
        ({'patch_size': 0}, 'patch_size must be at least 1, got 0'),
        ({'patch_pad': 'corners'}, "patch_pad must be one of .* or a padding in pixels, got 'corners'"),
        ({'interpolate_mode': 'area'}, "interpolate_mode must be one of .* got 'area'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with torch.device('meta'), pytest.raises(ValueError, match=message):
        ViT(**arguments)


@pytest.mark.parametrize('trained', ['pos_embed', ('pos_embed',), ['pos_embed', 'norm1']], ids=str)
def test_what_is_not_frozen_may_be_one_name_or_several(trained):
    model = ViT(**SMALL, frozen_exclude=trained)
    free = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parts = [trained] if isinstance(trained, str) else trained
    assert free == {name for name, _ in model.named_parameters() if any(part in name for part in parts)}


def test_a_padding_in_pixels_leaves_out_what_fills_no_patch():
    maps = ViT(**SMALL, patch_pad=3)(torch.zeros(1, 3, 41, 67))
    assert {tuple(x.shape[2:]) for x in maps} == {((41 + 6) // 16, (67 + 6) // 16)}


def test_a_stored_position_embedding_of_unknown_grid_is_refused():
    with pytest.raises(ValueError, match=r'pos_embed has 24 tokens.*no square number'):
        square_grid(24, 'pos_embed')
