"""DeiT files as a start for SPFormer, compared with DeiT's blocks written out in the files' own names."""

import pytest
import torch
import torch.nn.functional as F

from mmvit_ext.checkpoints.convert import convert, describe
from mmvit_ext.checkpoints.report import check_report, load_weights
from mmvit_ext.models.backbones import SPFormer, ViT
from mmvit_ext.models.layers.position_embedding import resize_position_embedding

HEADS = 3
TINY = {
    'arch': {'embed_dims': 12, 'depths': (2, 3), 'num_heads': HEADS, 'sca_heads': 2},
    'img_size': 20,
    'pixel_stride': 2,
    'cell_size': 2,
    'norm_cfg': {'type': 'LN', 'eps': 1e-6},
    'layer_scale_init': 0.0,
    'out_indices': (0, 1, 2, 3, 4),
}


def deit(width=12, num_blocks=5, grid=5, *, distilled=False, device=None):
    """A file of DeiT with random values, in the names and the order of the authors' files."""
    generator = None if device else torch.Generator().manual_seed(0)

    def tensor(*shape):
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float64) * 0.3

    prefix = ['cls_token', 'dist_token'] if distilled else ['cls_token']
    state = {name: tensor(1, 1, width) for name in prefix}
    state['pos_embed'] = tensor(1, len(prefix) + grid * grid, width)
    shapes = {'patch_embed.proj': (width, 3, 16, 16)}
    for index in range(num_blocks):
        block = f'blocks.{index}'
        shapes |= {
            f'{block}.norm1': (width,),
            f'{block}.attn.qkv': (3 * width, width),
            f'{block}.attn.proj': (width, width),
            f'{block}.norm2': (width,),
            f'{block}.mlp.fc1': (4 * width, width),
            f'{block}.mlp.fc2': (width, 4 * width),
        }
    shapes |= {'norm': (width,), 'head': (10, width)}
    if distilled:
        shapes['head_dist'] = (10, width)
    for name, shape in shapes.items():
        state |= {f'{name}.weight': tensor(*shape), f'{name}.bias': tensor(shape[0])}
    return state


def run_block(state, index, x):
    """One block in DeiT's names."""

    def linear(name, x):
        return F.linear(x, state[f'blocks.{index}.{name}.weight'], state[f'blocks.{index}.{name}.bias'])

    def norm(name, x):
        weight, bias = (state[f'blocks.{index}.{name}.{part}'] for part in ('weight', 'bias'))
        return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)

    B, N, C = x.shape
    q, k, v = linear('attn.qkv', norm('norm1', x)).view(B, N, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(2, 3) / (C // HEADS) ** 0.5).softmax(-1)
    x = x + linear('attn.proj', (weights @ v).transpose(1, 2).reshape(B, N, C))
    return x + linear('mlp.fc2', F.gelu(linear('mlp.fc1', norm('norm2', x))))


def loaded(state, **replaced):
    """SPFormer with what the converter took over."""
    torch.manual_seed(0)
    model = SPFormer(**{**TINY, **replaced}).double().eval()
    converted = {key.removeprefix('backbone.'): value for key, value in convert(state, 'deit').items()}
    return model, load_weights(model, converted)


@pytest.mark.parametrize('distilled', [False, True])
def test_the_blocks_do_what_they_did_in_deit_and_the_third_goes_on_where_the_second_left(distilled):
    """While superpixel cross attention adds nothing: its scales are 0 here."""
    state = deit(distilled=distilled)
    model, _ = loaded(state)
    img = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        outs = model(img)
        x = F.avg_pool2d(model.stem(img), 2).flatten(2).transpose(1, 2) + state['pos_embed'][:, 1 + distilled :]
        for index, out in enumerate(outs):
            if index == 2:
                before, x = x, F.layer_norm(x, (12,), eps=1e-6)
                torch.testing.assert_close(F.layer_norm(x, (12,)), F.layer_norm(before, (12,)), rtol=1e-3, atol=1e-3)
            x = run_block(state, index, x)
            torch.testing.assert_close(out.flatten(2).transpose(1, 2), x)


def test_the_position_embedding_is_resized_to_another_grid():
    state = deit()
    model, report = loaded(state, img_size=(28, 44))
    assert not report.mismatched
    expected = resize_position_embedding(state['pos_embed'][:, 1:], (5, 5), (7, 11))
    torch.testing.assert_close(model.pos_embeds[0].detach(), expected)
    assert not model.pos_embeds[1].any()


@pytest.mark.parametrize('arch', SPFormer.ARCHS)
def test_a_published_size_lacks_the_stem_and_the_cross_attention_alone(arch):
    """And three quarters are enough for the report that refuses foreign weights."""
    dims = SPFormer.ARCHS[arch]['embed_dims']
    theirs = deit(dims, 12, 14, device='meta')
    assert describe(theirs, 'deit').startswith(f'DeiT-{arch.capitalize()} as a start for SPFormer with arch={arch!r}')
    with torch.device('meta'):
        ours = SPFormer(arch).state_dict()
    converted = {key.removeprefix('backbone.'): value for key, value in convert(theirs, 'deit').items()}
    assert all(ours[key].shape == value.shape for key, value in converted.items())
    assert {key.split('.')[0] for key in ours.keys() - converted.keys()} == {'stem', 'sca'}
    lacking = [key for key in ours.keys() - converted.keys() if not key.endswith('num_batches_tracked')]
    # 12 blocks of 12, two embeddings, a projection of 4; 5 of the stem, 2 modules of 14 + 9 in two iterations.
    assert (len(converted), len(lacking)) == (150, 51)


def test_the_report_on_pretrained_weights_accepts_the_start_and_names_what_is_missing():
    _, report = loaded(deit())
    check_report(report, 'the file', 'backbone', strict=False)
    assert not report.unexpected
    assert not report.mismatched
    assert {name.split('.')[0] for name in report.missing} == {'stem', 'sca'}


def test_the_source_is_left_as_it_was():
    state = deit()
    copies = {name: tensor.clone() for name, tensor in state.items()}
    for tensor in convert(state, 'deit').values():
        tensor.add_(0)  # a view of the source would be written together with all of it
    converted = convert(state, 'deit')['backbone.pos_embeds.0']
    assert converted.untyped_storage().nbytes() == converted.numel() * 8
    assert state.keys() == copies.keys()
    assert all(torch.equal(state[name], copies[name]) for name in copies)


@pytest.mark.parametrize(
    'missing', ['cls_token', 'pos_embed', 'blocks.0.attn.qkv.bias', 'blocks.3.norm2.weight', 'blocks.4.mlp.fc2.bias']
)
def test_a_key_that_is_missing_is_named(missing):
    with pytest.raises(ValueError, match=f'missing {missing}'):
        convert({key: value for key, value in deit().items() if key != missing}, 'deit')


@pytest.mark.parametrize('foreign', ['blocks.0.ls1.gamma', 'blocks.0.gamma_1', 'fc_norm.weight', 'layers.0.ln1.weight'])
def test_a_key_of_a_relative_is_refused_by_name(foreign):
    with pytest.raises(ValueError, match=f'unknown keys {foreign}'):
        convert({**deit(), foreign: torch.zeros(1)}, 'deit')


def test_a_position_embedding_without_a_square_grid_is_refused():
    state = deit()
    state['pos_embed'] = state['pos_embed'][:, :-1]
    with pytest.raises(ValueError, match='pos_embed has 24 tokens, which is no square number'):
        convert(state, 'deit')


def test_the_description_tells_distilled_files_and_sizes_that_spformer_does_not_have():
    assert describe(deit(192, 12, device='meta', distilled=True), 'deit').startswith('distilled DeiT-Tiny as a start')
    assert 'DeiT with width 192 and 11 blocks, which is none of' in describe(deit(192, 11, device='meta'), 'deit')


def test_the_plain_vit_takes_the_same_file_by_the_other_method_and_names_a_distilled_one():
    """What the baseline of SPFormer begins with."""
    model = ViT({'embed_dims': 12, 'num_layers': 5, 'num_heads': HEADS}, img_size=80, patch_bias=True)
    assert load_weights(model, convert(deit(), 'vit')).exact
    with pytest.raises(ValueError, match='dist_token'):
        convert(deit(distilled=True), 'vit')
