"""TNT: blocks, arguments and outputs; the contract of every backbone is in test_backbone_contract.py."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks.plain_tnt import plain_tnt
from mmvit_ext.models.backbones.tnt import WordEmbedding
from tests.zoo import BACKBONES, PRIME_SIZE

ROW = BACKBONES['TNT']
TORCH = tuple(int(part) for part in torch.__version__.split('.')[:2])


def image(size=PRIME_SIZE, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    'arguments',
    [{}, {'with_cls_token': False}, {'tnt_block_indices': (1,)}, {'word_norm': 'word', 'with_se': True}],
    ids=str,
)
def test_network_and_gradients_equal_the_plain_formulation(arguments):
    model = ROW.make(**arguments).train()
    results = []
    for forward in (model, lambda img: plain_tnt(model, img)):
        outs = forward(image())
        sum((out**2).mean() for out in outs).backward()
        results.append(([out.detach() for out in outs], [p.grad.clone() for p in model.parameters()]))
        model.zero_grad()
    for ours, plain in zip(*results, strict=True):
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_an_image_is_filled_up_with_zeros_to_whole_patches():
    model = ROW.make().eval()
    img = image((41, 67))
    for ours, padded in zip(model(img), model(F.pad(img, (0, 5, 0, 7))), strict=True):
        assert ours.shape[2:] == (6, 9)
        assert torch.equal(ours, padded)


def test_words_inside_an_image_do_not_hear_of_what_is_padded_around_it():
    """Only the outer transformer looks beyond a patch: words are the same in an image that was padded for its batch."""
    model = ROW.make().eval()
    img = image((24, 40))
    maps = []
    for picture in (img, F.pad(img, (0, 16, 0, 8))):
        words, tokens, grid = model.embed(picture)
        for block in model.blocks:
            words, tokens = block(words, tokens)
        maps.append(model.words_as_map(words, grid))
    assert maps[0].shape == (2, 12, 12, 20)
    torch.testing.assert_close(maps[1][:, :, :12, :20], maps[0], atol=1e-6, rtol=1e-5)


def test_words_stand_in_their_map_where_they_stand_in_the_image():
    model = ROW.make()
    img = image((16, 24), batch=2)
    embed = WordEmbedding(3, 12, stride=2, patch_size=8, padding='patch')
    weight = torch.zeros(12, 3, 7, 7)
    weight[:, :, 3, 3] = 1  # the pixel that a word starts with
    embed.projection.load_state_dict({'weight': weight, 'bias': torch.zeros(12)})
    expected = F.conv2d(img, torch.ones(12, 3, 1, 1), stride=2)
    torch.testing.assert_close(model.words_as_map(embed(img), (2, 3)), expected)


def test_the_class_token_gets_no_words_but_through_attention():
    block = ROW.make().blocks[0]
    words, tokens = torch.randn(2 * 6, 16, 12), torch.randn(2, 7, 24)
    given = []
    block.outer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    new_words, _ = block(words, tokens)
    message = block.projection(new_words).view(2, 6, 24)
    assert torch.equal(given[0][:, 0], tokens[:, 0])
    torch.testing.assert_close(given[0][:, 1:], tokens[:, 1:] + message)


def test_blocks_that_are_not_chosen_leave_the_words_alone():
    model = ROW.make(tnt_block_indices=(0, -1)).eval()
    assert [block.inner is not None for block in model.blocks] == [True, False, True]
    words, tokens = torch.randn(6, 16, 12), torch.randn(1, 7, 24)
    after, plain = model.blocks[1](words, tokens)
    assert after is words
    torch.testing.assert_close(plain, model.blocks[1].outer(tokens))
    assert all(block.inner is None for block in ROW.make(tnt_block_indices=()).blocks)


@pytest.mark.parametrize(('stride', 'words'), [(1, 64), (2, 16), (4, 4), (8, 1)])
def test_inner_stride_decides_the_number_of_words(stride, words):
    model = ROW.make(inner_stride=stride)
    assert model.embed(image())[0].shape == (2 * 6 * 9, words, 12)
    assert model.word_pos.shape == (1, words, 12)


def test_vectors_are_the_class_token_and_the_mean_patch_of_the_normalised_tokens():
    model = ROW.make(out_indices=-1).eval()
    (feature,) = model(image())
    vectors = {}
    for out_type in ('cls_token', 'avg_featmap'):
        other = ROW.make(out_indices=-1, out_type=out_type).eval()
        other.load_state_dict(model.state_dict())
        (vectors[out_type],) = other(image())
    torch.testing.assert_close(vectors['avg_featmap'], feature.flatten(2).mean(2))
    words, tokens, _ = model.embed(image())
    for block in model.blocks:
        words, tokens = block(words, tokens)
    torch.testing.assert_close(vectors['cls_token'], model.norm(tokens)[:, 0])


def test_only_the_last_block_is_normalised():
    normalised, raw = ROW.make(), ROW.make(final_norm=False)
    raw.load_state_dict(normalised.state_dict())
    ours, plain = normalised.eval()(image()), raw.eval()(image())
    assert torch.equal(ours[0], plain[0])
    tokens = plain[1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours[1].flatten(2).transpose(1, 2), normalised.norm(tokens))


def test_maps_are_contiguous():
    assert all(out.is_contiguous() for out in ROW.make().eval()(image())), (
        'RoIAlign of mmcv reads other layouts wrongly'
    )


def test_weights_with_a_class_token_load_into_a_network_without():
    source = ROW.make()
    model = ROW.build(**ROW.tiny, with_cls_token=False)
    model.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(model.patch_pos, source.patch_pos[:, 1:])
    larger = ROW.build(**{**ROW.tiny, 'img_size': 64}, with_cls_token=False)
    square = ROW.make(img_size=(48, 48))
    larger.load_state_dict(square.state_dict(), strict=True)
    assert larger.patch_pos.shape == (1, 64, 24)


@pytest.mark.parametrize('img_size', [48, (48, 64)], ids=str)
def test_weights_without_a_class_token_are_refused_by_a_network_with_one(img_size):
    stored = ROW.make(with_cls_token=False, img_size=img_size).state_dict()
    with pytest.raises(
        ValueError, match='patch_pos has no place for a class token: build TNT with with_cls_token=False'
    ):
        ROW.make().load_state_dict(stored)


def test_a_resized_position_embedding_keeps_the_class_token_and_the_corners_order():
    model, source = ROW.build(**{**ROW.tiny, 'img_size': 64}), ROW.make(img_size=32)
    model.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(model.patch_pos[:, 0], source.patch_pos[:, 0])
    plane = source.patch_pos[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    expected = F.interpolate(plane, size=(8, 8), mode='bicubic', align_corners=False)
    torch.testing.assert_close(model.patch_pos[:, 1:], expected.flatten(2).transpose(1, 2))


def test_stochastic_depth_grows_linearly_in_both_transformers():
    model = ROW.make(drop_path_rate=0.4)
    for part in ('inner', 'outer'):
        rates = [getattr(block, part).drop_path.drop_prob for block in model.blocks]
        assert rates == pytest.approx([0.0, 0.2, 0.4])


@pytest.mark.parametrize('frozen', [-1, 0, 1, 3])
def test_frozen_parts_stay_as_they_are_in_training(frozen):
    model = ROW.make(frozen_stages=frozen, drop_path_rate=0.5).train()
    for index, block in enumerate(model.blocks):
        trains = index >= max(frozen, 0)
        assert all(p.requires_grad == trains for p in block.parameters())
        assert all(module.training == trains for module in block.modules())
    embeddings = [model.word_pos, model.patch_pos, model.cls_token, *model.word_embed.parameters()]
    assert all(p.requires_grad == (frozen < 0) for p in [*embeddings, *model.patch_embed.parameters()])
    assert all(p.requires_grad for p in model.norm.parameters())


def test_what_lies_behind_the_last_output_is_not_trained():
    model = ROW.make(out_indices=(0, 1)).train()
    assert model.norm is None
    outs = model(image())
    sum((out**2).mean() for out in outs).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert not any(p.requires_grad for p in model.blocks[2].parameters())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'arch': 'huge'}, "arch must be one of .* got 'huge'"),
        ({'arch': {'embed_dims_outer': 24}}, 'arch: missing .*num_layers'),
        ({'arch': {**ROW.tiny['arch'], 'depth': 3}}, "unknown .*'depth'"),
        ({'arch': {**ROW.tiny['arch'], 'num_layers': 0}}, 'num_layers must be at least 1, got 0'),
        ({'num_heads_inner': 5}, 'num_heads_inner must divide embed_dims_inner, got .*=5 and embed_dims_inner=12'),
        ({'num_heads_inner': 0}, 'num_heads_inner must divide embed_dims_inner, got num_heads_inner=0'),
        ({'embed_dims_inner': 0}, 'embed_dims_inner must be at least 1, got 0'),
        ({'arch': {**ROW.tiny['arch'], 'num_heads_outer': 5}}, 'num_heads_outer=5 and embed_dims_outer=24'),
        ({'patch_size': 0}, 'patch_size must be at least 1, got 0'),
        ({'attn_drop_rate': 1.0}, 'attn_drop_rate must be a probability from 0 to below 1, got 1.0'),
        ({'interpolate_mode': 'bicubc'}, "interpolate_mode must be one of .* got 'bicubc'"),
        ({'inner_stride': 3}, 'inner_stride must divide patch_size=8, got 3'),
        ({'img_size': (1, 2, 3)}, 'img_size must be an edge or'),
        ({'tnt_block_indices': (0, 3)}, r'tnt_block_indices must name distinct blocks of 3, got \(0, 3\)'),
        ({'out_indices': (2, -1)}, 'out_indices must name distinct blocks'),
        ({'out_indices': ()}, r'out_indices must name distinct blocks of 3, got \(\)'),
        ({'word_padding': 'zeros'}, "word_padding must be one of .* got 'zeros'"),
        ({'word_norm': 'none'}, "word_norm must be one of .* got 'none'"),
        ({'out_type': 'raw'}, "out_type must be one of .* got 'raw'"),
        ({'out_type': 'cls_token', 'with_cls_token': False}, "out_type='cls_token' needs with_cls_token=True"),
        ({'frozen_stages': 4}, 'frozen_stages must be -1 to 3, got 4'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ROW.build(**{**ROW.tiny, **arguments})


@pytest.mark.skipif(TORCH < (2, 5), reason='older dynamo does not trace the network whole')
def test_compiling_gives_the_same_numbers_without_graph_breaks():
    torch._dynamo.reset()
    model, img = ROW.make(arch={**ROW.tiny['arch'], 'num_layers': 1}, out_indices=0).train(), image()
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    for a, b in zip(compiled(img), model(img), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
