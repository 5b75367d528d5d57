"""Released TNT files in three styles and two generations.

The authors' names are those of the recorded files, mmpretrain's those of its class; timm's are written down here from
what is known of them, without its code.
"""

from pathlib import Path

import pytest
import torch

from mmvit_ext.checkpoints.convert import convert, describe
from mmvit_ext.checkpoints.convert.tnt import tnt_arguments
from mmvit_ext.models.backbones import TNT

RECORD = torch.load(Path(__file__).parents[1] / 'data' / 'tnt_64.pt', weights_only=True)
AUTHORS = RECORD['state_dict']
ARCH = {
    'embed_dims_outer': 48,
    'embed_dims_inner': 8,
    'num_layers': 2,
    'num_heads_outer': 3,
    'num_heads_inner': 2,
}
TIMM_NAMES = (
    ('outer_pos', 'patch_pos'),
    ('inner_pos', 'pixel_pos'),
    ('patch_embed', 'pixel_embed'),
    ('proj_norm1', 'norm1_proj'),
    ('proj_norm2', 'norm2_proj'),
    ('inner_norm1', 'norm_in'),
    ('inner_attn', 'attn_in'),
    ('inner_norm2', 'norm_mlp_in'),
    ('inner_mlp', 'mlp_in'),
    ('outer_norm1', 'norm_out'),
    ('outer_attn', 'attn_out'),
    ('outer_norm2', 'norm_mlp'),
    ('outer_mlp', 'mlp'),
)


def timm():
    """The recorded weights in timm's names, words' positions as a map."""
    renamed = {}
    for key, value in AUTHORS.items():
        for theirs, other in TIMM_NAMES:
            key = key.replace(theirs, other)
        renamed[key] = value
    del renamed['outer_tokens']
    return {**renamed, 'pixel_pos': renamed['pixel_pos'].transpose(1, 2).unflatten(2, (4, 4))}


def legacy():
    """The names and shapes that timm calls legacy: words normalised one by one, a bias, nothing afterwards."""
    generator = torch.Generator().manual_seed(0)
    state_dict = {key: value for key, value in timm().items() if not ('blocks' in key and 'norm2_proj' in key)}
    for block in ('blocks.0', 'blocks.1'):
        for part in ('weight', 'bias'):
            state_dict[f'{block}.norm1_proj.{part}'] = torch.randn(8, generator=generator)
        state_dict[f'{block}.proj.bias'] = torch.randn(48, generator=generator)
    return state_dict


def mmpretrain(**arguments):
    """A network of mmpretrain and its state dict."""
    models = pytest.importorskip('mmpretrain.models')
    torch.manual_seed(0)
    model = models.TNT(arch=ARCH, img_size=64, **arguments)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def backbone_of(converted):
    return {key.removeprefix('backbone.'): value for key, value in converted.items() if key.startswith('backbone.')}


def build(state_dict, **replaced):
    """Our network with the arguments that the file tells and the heads that it cannot tell."""
    arguments = tnt_arguments(state_dict)
    return TNT(**{**arguments, 'arch': {**ARCH, **arguments['arch']}, **replaced}).eval()


def test_the_same_weights_in_two_styles_become_the_same():
    ours, others = convert(AUTHORS, 'tnt'), convert(timm(), 'tnt')
    assert ours.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in ours.items())


@pytest.mark.parametrize('style', [timm, legacy])
def test_names_of_timm_load_strictly_into_the_network_that_is_told(style):
    build(style()).load_state_dict(backbone_of(convert(style(), 'tnt')), strict=True)


def test_generations_are_told_apart():
    assert tnt_arguments(timm()) == tnt_arguments(AUTHORS)
    assert 'word_norm' not in tnt_arguments(timm())
    told = tnt_arguments(legacy())
    assert (told['word_norm'], told['word_padding']) == ('word', 'image')
    assert 'legacy generation' in describe(legacy(), 'tnt')
    assert 'legacy' not in describe(timm(), 'tnt')


def test_a_legacy_file_does_not_load_into_the_network_of_the_authors():
    with pytest.raises(RuntimeError, match=r'Missing key.*norm2'):
        build(legacy(), word_norm='sentence', word_padding='patch').load_state_dict(
            backbone_of(convert(legacy(), 'tnt')), strict=True
        )


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize('qkv_bias', [False, True])
def test_mmpretrain_weights_give_the_numbers_of_mmpretrain(prefix, qkv_bias):
    theirs = mmpretrain(qkv_bias=qkv_bias)
    state_dict = {prefix + key: value for key, value in theirs.state_dict().items()}
    model = build(state_dict, out_type='cls_token')
    model.load_state_dict(backbone_of(convert(state_dict, 'tnt')), strict=True)
    img = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(img)[0], theirs(img)[-1], atol=1e-5, rtol=1e-4)


def test_a_classifier_of_mmpretrain_keeps_its_head():
    names = {f'backbone.{key}': value for key, value in mmpretrain().state_dict().items()}
    head = {'head.fc.weight': torch.zeros(5, 48), 'head.fc.bias': torch.zeros(5)}
    converted = convert({**names, **head}, 'tnt')
    assert all(converted[name] is value for name, value in head.items())


def test_queries_keys_and_values_are_joined_in_this_order():
    converted = convert(AUTHORS, 'tnt')
    joined = converted['backbone.blocks.1.inner.attn.qkv.weight']
    assert torch.equal(joined[:16], AUTHORS['blocks.1.inner_attn.qk.weight'])
    assert torch.equal(joined[16:], AUTHORS['blocks.1.inner_attn.v.weight'])


def test_every_other_weight_is_carried_over_once():
    converted = convert(AUTHORS, 'tnt')
    kept = {id(v) for k, v in AUTHORS.items() if k != 'outer_tokens' and not k.endswith(('qk.weight', 'attn.v.weight'))}
    assert kept == {id(v) for k, v in converted.items() if 'qkv' not in k}


@pytest.mark.parametrize('style', [lambda: AUTHORS, timm, legacy], ids=['authors', 'timm', 'legacy'])
@pytest.mark.parametrize('extra', ['blocks.0.se_layer.fc.1.weight', 'backbone.norm.weight', 'pos_embed'])
def test_a_key_that_is_left_over_is_named(style, extra):
    with pytest.raises(ValueError, match=f'unknown keys {extra}'):
        convert({**style(), extra: torch.zeros(1)}, 'tnt')


@pytest.mark.parametrize(
    ('missing', 'named'),
    [
        ('head.bias', 'head.fc.bias'),
        ('cls_token', 'cls_token'),
        ('outer_pos', 'patch_pos'),
        ('norm.bias', 'norm.bias'),
        ('blocks.1.outer_mlp.fc2.bias', 'blocks.1.outer.ffn.fc2.bias'),
        ('blocks.0.proj_norm2.weight', 'blocks.0.projection.norm2.weight'),
        ('blocks.1.inner_attn.v.weight', 'blocks.1.inner.attn.v.weight'),
        ('blocks.1.inner_attn.qk.weight', 'blocks.1.inner.attn.qkv.weight'),
    ],
)
def test_a_key_that_is_missing_is_named(missing, named):
    with pytest.raises(ValueError, match=f'missing .*{named}'):
        convert({key: value for key, value in AUTHORS.items() if key != missing}, 'tnt')


def test_a_projection_of_neither_generation_is_refused_with_the_reason():
    odd = {**AUTHORS, 'blocks.0.proj_norm1.weight': torch.zeros(48)}
    with pytest.raises(ValueError, match=r'normalised over 48 numbers .* need 128 \(authors\) or 8 \(legacy\)'):
        convert(odd, 'tnt')


def test_something_else_is_refused_with_what_would_be_taken():
    with pytest.raises(ValueError, match=r'no TNT in the names of its authors .* but layer1.0.conv1.weight'):
        convert({'layer1.0.conv1.weight': torch.zeros(1)}, 'tnt')


@pytest.mark.parametrize('arch', TNT.ARCHS)
def test_the_three_published_sizes_are_recognised(arch):
    """Names of the authors on the shapes of a published size."""
    with torch.device('meta'):
        model = TNT(arch)
    theirs = {'inner_pos': model.word_pos, 'outer_pos': model.patch_pos, 'cls_token': model.cls_token}
    for name, tensor in model.state_dict().items():
        if name in ('word_pos', 'patch_pos', 'cls_token'):
            continue
        if '.attn.qkv' in name:
            width = tensor.shape[1]
            theirs[name.replace('qkv', 'qk')], theirs[name.replace('qkv', 'v')] = (
                tensor[: 2 * width],
                tensor[2 * width :],
            )
        else:
            theirs[name] = tensor
    replaced = (
        ('patch_embed.norm', 'proj_norm'),
        ('patch_embed.proj', 'proj'),
        ('word_embed.projection', 'patch_embed.proj'),
        ('projection.norm', 'proj_norm'),
        ('projection.proj', 'proj'),
        ('.inner.', '.inner_'),
        ('.outer.', '.outer_'),
        ('_ffn', '_mlp'),
    )
    authors = {}
    for name, tensor in theirs.items():
        for ours, other in replaced:
            name = name.replace(ours, other)
        authors[name] = tensor
    assert describe(authors, 'tnt') == f"TNT-{arch.capitalize()} in the authors' names: arch={arch!r}"
    assert backbone_of(convert(authors, 'tnt')).keys() == model.state_dict().keys()
    assert {name: value.shape for name, value in backbone_of(convert(authors, 'tnt')).items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }


def test_what_a_file_tells_of_its_sizes():
    stride8 = torch.load(Path(__file__).parents[1] / 'data' / 'tnt_stride8.pt', weights_only=True)['state_dict']
    assert tnt_arguments(stride8) == {
        'arch': {'embed_dims_outer': 32, 'embed_dims_inner': 12, 'num_layers': 2},
        'img_size': 48,
        'inner_stride': 8,
    }
