from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmvit_ext.models.backbones import SPFormer, ViT
from mmvit_ext.models.flops import count_flops
from mmvit_ext.models.layers.position_embedding import resize_position_embedding
from tests.models.superpixels.test_superpixel_grid import dense_similarity, to_neighbours

TINY = {
    'arch': {'embed_dims': 12, 'depths': (1, 2), 'num_heads': 3, 'sca_heads': 2},
    'img_size': (24, 40),
    'pixel_stride': 2,
    'out_indices': (0, 2),
    'out_association': True,
}
VARIANTS = [
    {},
    {'pixel_qkv': 'shared'},
    {'pixel_qkv': 'separate'},
    {'bridge_from': 'updated'},
    {'bridge_from': 'updated', 'pixel_qkv': 'separate', 'sca_iterations': 1},
    {'positions': 'learnable'},
    {'sca_iterations': 1},
    {'sca_iterations': 3, 'cell_size': 2},
    {'depths': (3,)},
    {'depths': (1, 1, 1), 'sca_heads': 3},
    {'stem': 'conv', 'pixel_stride': 4},
]
variants = pytest.mark.parametrize('variant', VARIANTS, ids=str)


def make(**replaced):
    torch.manual_seed(0)
    model = SPFormer(**{**TINY, **replaced})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def image(size=(27, 37), batch=2, dtype=torch.float32):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def slow_iteration(module, pixels, superpixels):
    """One SCA iteration as dense attention of all pixels and all superpixels with a mask."""
    heads, grid, size = module.num_heads, superpixels.shape[2:], pixels.shape[2:]
    cell = (size[0] // grid[0], size[1] // grid[1])

    def project(projection, x):
        x = F.linear(x.permute(0, 2, 3, 1), projection.linear.weight, projection.linear.bias)
        parts = x.split(x.shape[-1] // len(projection.norms), -1)
        return [norm(part).permute(0, 3, 1, 2) for norm, part in zip(projection.norms, parts, strict=True)]

    def split(x):
        return x.unflatten(1, (heads, -1))

    placed_pixels, placed_superpixels = module.pixel_position(pixels), module.superpixel_position(superpixels)
    parts = project(module.pixel_kvq, placed_pixels) if module.pixel_kvq else [placed_pixels]
    parts = parts * 3 if len(parts) == 1 else parts
    k_p, v_p = parts[:2]
    q_s, *kv_s = project(module.superpixel_qkv, placed_superpixels)
    dense = dense_similarity(split(k_p), split(q_s))
    pooled = (split(v_p).flatten(3) @ dense.softmax(2)).flatten(1, 2).unflatten(2, grid)
    new_superpixels = superpixels + module.superpixel_scale[:, None, None] * pooled
    if module.pixel_scale is not None:
        weights = dense_similarity(split(parts[2]), split(kv_s[0])).softmax(3)
        spread = (split(kv_s[1]).flatten(3) @ weights.transpose(2, 3)).flatten(1, 2).unflatten(2, size)
        pixels = pixels + module.pixel_scale[:, None, None] * spread
    return pixels, new_superpixels, dense, to_neighbours(dense, grid, cell)


def slow_network(model, img):
    """The network written out with dense attention."""
    stride, s, p = model.pixel_stride * model.cell_size, model.pixel_stride, model.cell_size
    H, W = img.shape[2:]
    grid = (-(-H // stride), -(-W // stride))
    padded = img.new_zeros(*img.shape[:2], grid[0] * stride, grid[1] * stride)
    padded[:, :, :H, :W] = img
    pixels = model.stem(padded)
    superpixels = pixels.unflatten(3, (grid[1], p)).unflatten(2, (grid[0], p)).mean((3, 5))
    outs, index = [], 0
    for stage, depth in enumerate(model.depths):
        entered = pixels
        for module in model.sca[stage].iterations:
            pixels, superpixels, dense, similarity = slow_iteration(module, pixels, superpixels)
        position = resize_position_embedding(model.pos_embeds[stage], model.grid, grid)
        tokens = superpixels.flatten(2).transpose(1, 2) + position
        for _ in range(depth):
            tokens = model.layers[index](tokens)
            if index in model.out_indices:
                outs.append(tokens.transpose(1, 2).unflatten(2, grid))
            index += 1
        if stage + 1 < len(model.depths):
            heads = model.sca[stage].iterations[0].num_heads
            features = tokens.transpose(1, 2).unflatten(1, (heads, -1))
            bridge = (features @ dense.softmax(3).transpose(2, 3)).flatten(1, 2).unflatten(2, pixels.shape[2:])
            pixels = (entered if model.bridge_from == 'input' else pixels) + bridge
            superpixels = model.projections[stage](tokens).transpose(1, 2).unflatten(2, grid)
    return *outs, similarity[..., : -(-H // s), : -(-W // s)]


@variants
def test_network_equals_dense_attention_with_a_mask_forward_and_backward(variant):
    model, img = make(**variant).double().train(), image(dtype=torch.float64)
    results = []
    for forward in (model, partial(slow_network, model)):
        outs = forward(img)
        model.zero_grad()
        sum(out.masked_fill(out == -torch.inf, 0).square().sum() for out in outs).backward()
        results.append((outs, {name: p.grad.clone() for name, p in model.named_parameters()}))
    (ours, our_grads), (slow, slow_grads) = results
    assert len(ours) == len(slow) == 3
    for a, b in zip(ours, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    for name, grad in our_grads.items():
        torch.testing.assert_close(grad, slow_grads[name], rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize('size', [(27, 37), (24, 40), (5, 3), (8, 61)], ids=str)
def test_association_has_the_images_pixel_features_and_no_neighbours_outside_the_grid(size):
    model = make().eval()
    *maps, similarity = model(image(size))
    grid = (-(-size[0] // 8), -(-size[1] // 8))
    assert all(out.shape == (2, 12, *grid) for out in maps)
    assert similarity.shape == (2, 2, 9, -(-size[0] // 2), -(-size[1] // 2))
    for n in range(9):
        row, column = torch.meshgrid(*(torch.arange(edge) // 4 for edge in similarity.shape[3:]), indexing='ij')
        row, column = row + n // 3 - 1, column + n % 3 - 1
        outside = (row < 0) | (row >= grid[0]) | (column < 0) | (column >= grid[1])
        assert torch.equal(similarity[0, 0, n] == -torch.inf, outside)


@pytest.mark.parametrize('scale', [0.0, 1e-5])
def test_a_fresh_network_is_a_patch_vit_on_averaged_cells_up_to_layer_scale(scale):
    torch.manual_seed(0)
    model = SPFormer(**TINY, layer_scale_init=scale, bridge_from='updated').eval()
    model.init_weights()
    for name, parameter in model.named_parameters():
        assert ('_scale' not in name) or (parameter == scale).all()
    img = image((24, 40))
    # The average of the 4x4 patch embeddings of a cell is one embedding of its 8x8 pixels.
    weight = model.stem[0].weight.repeat(1, 1, 4, 4) / 16
    x = model.stem[1](F.conv2d(img, weight, stride=8)).flatten(2).transpose(1, 2)
    first = model.layers[0](x + model.pos_embeds[0])
    x = model.projections[0](first) + model.pos_embeds[1]
    for layer in model.layers[1:]:
        x = layer(x)
    outs = model(img)
    tolerance = max(100 * scale, 1e-5)
    for out, expected in zip(outs, (first, x), strict=False):
        torch.testing.assert_close(out.flatten(2).transpose(1, 2), expected, atol=tolerance, rtol=0)
    if scale:  # the difference is there, and is LayerScale's
        assert (outs[1].flatten(2).transpose(1, 2) - x).abs().max() > 1e-7


def test_s32_needs_fewer_operations_than_deit_tiny_and_would_not_with_projected_pixels():
    def giga(build, **arguments):
        with torch.device('meta'):
            model = build(**arguments).eval()
        return count_flops(partial(model, torch.empty(1, 3, 224, 224, device='meta'))) / 2e9

    deit_tiny = giga(ViT, arch='tiny', patch_bias=True)
    assert deit_tiny == pytest.approx(1.3, abs=0.06)  # published
    small = partial(giga, SPFormer, arch='small', pixel_stride=8)
    assert small() < deit_tiny
    assert small(pixel_qkv='shared') - small() == pytest.approx(4 * 28**2 * 384**2 / 1e9)  # 4 iterations
    assert small(pixel_qkv='shared') > deit_tiny


@pytest.mark.parametrize(
    ('arch', 'widths', 'pixel_stride', 'edge', 'tokens'),
    [
        ('tiny', (192, 3, 2), 4, 224, 14),
        ('small', (384, 6, 2), 4, 224, 14),
        ('base', (768, 12, 3), 4, 224, 14),
        ('small', (384, 6, 2), 8, 224, 7),
        ('small', (384, 6, 2), 8, 448, 14),
    ],
)
def test_published_variants_have_their_widths_heads_and_tokens(arch, widths, pixel_stride, edge, tokens):
    with torch.device('meta'):
        model = SPFormer(arch, pixel_stride=pixel_stride, img_size=edge, out_association=True).eval()
        feature, similarity = model(torch.empty(1, 3, edge, edge))
    assert feature.shape == (1, widths[0], tokens, tokens)
    assert similarity.shape == (1, widths[2], 9, 4 * tokens, 4 * tokens)
    assert {layer.attn.attn.num_heads for layer in model.layers} == {widths[1]}
    assert len(model.layers) == 12
    assert [len(module.iterations) for module in model.sca] == [2, 2]
    assert model.out_strides == (4 * pixel_stride,)


@variants
def test_every_parameter_in_training_gets_a_gradient_in_every_variant(variant):
    for out_indices in ((0, 2), (0,)):
        model = make(**variant, out_indices=out_indices).train()
        sum(out.masked_fill(out == -torch.inf, 0).square().sum() for out in model(image())).backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name


def test_every_association_of_every_iteration_is_told():
    model = make(sca_iterations=3).eval()
    outs, history = model.run(image())
    assert [len(module) for module in history] == [3, 3]
    assert len(outs) == 2
    assert torch.equal(history[-1][-1], model(image())[-1])
    assert len({similarity.shape for module in history for similarity in module}) == 1


def test_weights_with_learned_positions_load_at_another_size():
    small, model = make(positions='learnable', img_size=32), SPFormer(**TINY, positions='learnable')
    model.load_state_dict(small.state_dict(), strict=True)
    embedding = small.sca[0].iterations[0].pixel_position.pos_embed
    expected = resize_position_embedding(embedding, (16, 16), (12, 20))
    assert torch.equal(model.sca[0].iterations[0].pixel_position.pos_embed, expected)
    assert torch.equal(model.pos_embeds[1], resize_position_embedding(small.pos_embeds[1], (4, 4), (3, 5)))


def test_blocks_have_the_names_of_a_plain_vit():
    vit = ViT({'embed_dims': 12, 'num_layers': 3, 'num_heads': 3}, img_size=32, patch_size=8)
    blocks = {name: tensor for name, tensor in vit.state_dict().items() if name.startswith('layers.')}
    result = make().load_state_dict(blocks, strict=False)
    assert not result.unexpected_keys
    assert not [name for name in result.missing_keys if name.startswith('layers.')]


def test_frozen_stages_neither_train_nor_update_statistics():
    model = make(frozen_stages=1).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(image())[1].sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert not any(name.startswith(('stem', 'sca.0', 'pos_embeds.0', 'layers.0')) for name in trained)
    assert {
        'sca.1.iterations.0.pixel_scale',
        'pos_embeds.1',
        'layers.1.ln1.weight',
        'projections.0.1.weight',
    } <= trained
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_average_output_is_the_normalised_mean_and_its_norm_is_left_out_elsewhere():
    classifier = make(out_type='avg_featmap', out_indices=-1, out_association=False).eval()
    (vector,) = classifier(image())
    dense = SPFormer(**{**TINY, 'out_indices': -1}).eval()
    dense.load_state_dict(classifier.state_dict(), strict=True)
    torch.testing.assert_close(vector, classifier.norm(dense(image())[0].mean((2, 3))))


def test_a_classifier_of_mmpretrain_takes_the_average_without_a_neck():
    pytest.importorskip('mmpretrain')
    from mmpretrain.registry import MODELS

    backbone = {**TINY, 'type': 'mmvit_ext.SPFormer', 'out_indices': -1, 'out_association': False}
    model = MODELS.build(
        {
            'type': 'mmpretrain.ImageClassifier',
            'data_preprocessor': {'type': 'mmpretrain.ClsDataPreprocessor'},
            'backbone': {**backbone, 'out_type': 'avg_featmap'},
            'head': {'type': 'mmpretrain.LinearClsHead', 'num_classes': 5, 'in_channels': 12},
        }
    ).eval()
    img = image()
    expected = model.head.fc(model.backbone(img)[-1])
    assert expected.shape == (2, 5)
    torch.testing.assert_close(model.head(model.extract_feat(img)), expected)


def test_compiled_network_equals_the_eager_one():
    torch._dynamo.reset()
    model = make(depths=(1, 1), out_indices=(0, 1), sca_iterations=1, bridge_from='updated').train()
    img = image()

    def step(img):
        *maps, similarity = model(img)
        return sum(out.square().mean() for out in maps) + similarity.softmax(2).square().mean()

    results = []
    for run in (step, torch.compile(step, backend='aot_eager')):
        model.zero_grad()
        loss = run(img)
        loss.backward()
        results.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
    (loss, grads), (compiled_loss, compiled_grads) = results
    torch.testing.assert_close(compiled_loss, loss)
    for a, b in zip(grads, compiled_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_checkpointing_gives_the_same_association_and_gradients():
    results = []
    for with_cp in (False, True):
        model = make(with_cp=with_cp).train()
        outs = model(image())
        (outs[-1].softmax(2).square().sum() + outs[1].square().sum()).backward()
        results.append((outs, [p.grad for p in model.parameters()]))
    for ours, theirs in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(ours, theirs)


@variants
def test_gradients_of_pixel_maps_have_channels_last_as_the_maps_do(variant):
    # Else whole maps are copied between the layouts, and batch norm takes its slow path on a CPU.
    model, layouts = make(**variant), []

    def follow(module, _, out):
        if out.shape[-2:] > (8, 8):
            assert out.is_contiguous(memory_format=torch.channels_last), module
            out.register_hook(lambda grad: layouts.append(grad.is_contiguous(memory_format=torch.channels_last)))

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(follow)
    sum(out.nan_to_num(neginf=0).square().sum() for out in model(image((24, 40)))).backward()
    assert layouts
    assert all(layouts)


def test_data_parallel_training_needs_no_search_for_unused_parameters(tmp_path):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1)
    try:
        model = DistributedDataParallel(make().train())
        for _ in range(2):  # the second step fails where the first left a parameter without a gradient
            *maps, similarity = model(image())
            (sum(out.sum() for out in maps) + similarity.softmax(2).square().sum()).backward()
        assert model.module.stem[0].weight.grad.abs().sum() > 0
    finally:
        dist.destroy_process_group()


def test_bfloat16_autocast_gives_an_association_close_to_the_exact_one():
    model, img = make().eval(), image()
    exact = model(img)[-1].softmax(2)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rough = model(img)[-1].float().softmax(2)
    assert torch.isfinite(rough).all()
    assert torch.norm(exact - rough) < 0.05 * torch.norm(exact)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'arch': 'huge'}, "one of .*'base'.*'huge'"),
        (
            {'arch': {'embed_dims': 8, 'layers': 3}},
            r"missing \['depths', 'num_heads', 'sca_heads'\], unknown \['layers'\]",
        ),
        ({'num_heads': 5}, 'num_heads=5 and embed_dims=12'),
        ({'sca_heads': 5}, 'sca_heads must divide embed_dims, got sca_heads=5 and embed_dims=12'),
        ({'drop_path_rate': 1.0}, 'drop_path_rate must be a probability from 0 to below 1, got 1.0'),
        ({'interpolate_mode': 'linear'}, "interpolate_mode must be one of .* got 'linear'"),
        ({'depths': 3}, 'depths must name at least one block for each stage, got 3'),
        ({'depths': (2, 0)}, r'at least one block for each stage, got \(2, 0\)'),
        ({'out_indices': (0, 3)}, r'distinct blocks of 3, got \(0, 3\)'),
        ({'out_indices': (1, -2)}, 'distinct blocks'),
        ({'img_size': (1, 2, 3)}, r'\(1, 2, 3\)'),
        ({'pixel_stride': 0}, 'pixel_stride must be at least 1, got 0'),
        ({'sca_iterations': 0}, 'sca_iterations must be at least 1, got 0'),
        ({'stem': 'conv', 'pixel_stride': 6}, 'power of 2 .* got pixel_stride=6'),
        ({'stem': 'pool'}, "stem must be one of .*'pool'"),
        ({'pixel_qkv': 'both'}, "pixel_qkv must be one of .*'both'"),
        ({'positions': 'none'}, "positions must be one of .*'none'"),
        ({'bridge_from': 'output'}, "bridge_from must be one of .*'output'"),
        ({'out_type': 'raw'}, "out_type must be one of .*'raw'"),
        ({'out_type': 'avg_featmap'}, 'out_association must be False'),
        ({'frozen_stages': 3}, 'frozen_stages must be -1 to 2, got 3'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SPFormer(**{**TINY, **arguments})
