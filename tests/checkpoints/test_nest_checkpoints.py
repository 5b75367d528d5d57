"""NesT classifiers in timm's names: ``nest_{tiny,small,base}.goog_in1k``."""

from pathlib import Path

import pytest
import torch

from mmvit_ext.checkpoints.convert import convert, describe
from mmvit_ext.checkpoints.convert.nest import nest_arguments
from mmvit_ext.models.backbones import NesT

FILE = torch.load(Path(__file__).parents[1] / 'data' / 'nest_64.pt', weights_only=True)['state_dict']


def published(arch):
    """timm's classifier of a published size, without values."""
    with torch.device('meta'):
        model = NesT(arch, out_indices=-1)
        theirs = {}
        for name, tensor in model.named_parameters():
            name = name.replace('projection', 'proj').replace('aggregation', 'pool')
            if name.endswith('pos_embed'):
                tensor = torch.empty(1, tensor.shape[1] // 196, 196, tensor.shape[2])
            theirs[name.replace('.layers.', '.transformer_encoder.')] = tensor
        return {**theirs, 'head.weight': torch.empty(1000, model.embed_dims[-1]), 'head.bias': torch.empty(1000)}


def test_every_weight_is_carried_over_once_and_the_argument_left_alone():
    before = dict(FILE)
    converted = convert(FILE, 'nest')
    assert converted.pop('backbone.layout_version') == 1  # no shape states the number of heads: the network moves them
    assert {key: id(value) for key, value in FILE.items()} == {key: id(value) for key, value in before.items()}
    kept = [id(value) for key, value in FILE.items() if not key.endswith('pos_embed')]
    assert sorted(kept) == sorted(id(value) for key, value in converted.items() if not key.endswith('pos_embed'))
    assert len(converted) == len(FILE)
    assert sum(value.numel() for value in converted.values()) == sum(value.numel() for value in FILE.values())


def test_position_embeddings_are_laid_out_as_worked_out_by_hand():
    # The second level: 2 x 2 blocks of 2 x 2 tokens, numbered block after block.
    blocks = torch.arange(16.0).reshape(1, 4, 4, 1).expand(-1, -1, -1, 32).contiguous()
    others = {'levels.0.pos_embed': torch.zeros(1, 16, 4, 16), 'levels.2.pos_embed': torch.zeros(1, 1, 4, 64)}
    plane = convert({**FILE, **others, 'levels.1.pos_embed': blocks}, 'nest')['backbone.levels.1.pos_embed']
    assert plane.shape == (1, 16, 32)
    assert plane[0, :, 5].tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


def test_position_embeddings_of_different_image_sizes_are_refused():
    with pytest.raises(ValueError, match=r'1 of another shape \(backbone.levels.1.pos_embed 1x16x32 for 1x64x32'):
        convert({**FILE, 'levels.1.pos_embed': torch.zeros(1, 1, 16, 32)}, 'nest')


@pytest.mark.parametrize('extra', ['levels.0.pool.conv2.weight', 'cls_token', 'levels.1.transformer_encoder.0.gamma'])
def test_a_key_that_is_left_over_is_named(extra):
    with pytest.raises(ValueError, match=f'unknown keys {extra}'):
        convert({**FILE, extra: torch.zeros(1)}, 'nest')


@pytest.mark.parametrize(
    ('missing', 'named'),
    [
        ('head.bias', 'head.bias'),
        ('norm.weight', 'backbone.norm.weight'),
        ('patch_embed.proj.bias', 'backbone.patch_embed.projection.bias'),
        ('levels.1.pos_embed', 'levels.1.pos_embed'),
        ('levels.2.pool.norm.bias', 'backbone.levels.2.aggregation.norm.bias'),
        ('levels.2.transformer_encoder.0.attn.qkv.bias', 'backbone.levels.2.layers.0.attn.qkv.bias'),
        ('levels.0.transformer_encoder.0.mlp.fc2.weight', 'backbone.levels.0.layers.0.mlp.fc2.weight'),
    ],
)
def test_a_key_that_is_missing_is_named(missing, named):
    with pytest.raises(ValueError, match=f'missing {named}'):
        convert({key: value for key, value in FILE.items() if key != missing}, 'nest')


@pytest.mark.parametrize('shape', [(1, 3, 16, 16), (1, 16, 15, 16), (1, 256, 16)], ids=str)
def test_position_embeddings_without_square_blocks_are_refused(shape):
    with pytest.raises(ValueError, match=r'levels.0.pos_embed must have the shape .* square numbers'):
        convert({**FILE, 'levels.0.pos_embed': torch.zeros(shape)}, 'nest')


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base'])
def test_the_three_published_sizes_are_recognised(arch):
    theirs = published(arch)
    told = describe(theirs, 'nest')
    assert told == f'NesT-{arch.capitalize()} classifier: arch={arch!r}, img_size=224, patch_size=4, block_size=14'
    with torch.device('meta'):
        ours = NesT(arch, out_indices=-1).state_dict()
    converted = {key.removeprefix('backbone.'): v for key, v in convert(theirs, 'nest').items() if 'head' not in key}
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in ours.items()}


def test_another_size_is_described_by_the_arguments_that_fit_it():
    arguments = nest_arguments(FILE)
    assert arguments == {
        'arch': {'embed_dims': (16, 32, 64), 'depths': (1, 1, 2)},
        'img_size': 64,
        'patch_size': 4,
        'block_size': 4,
    }
    assert 'none of the published sizes: embed_dims=(16, 32, 64)' in describe(FILE, 'nest')


def test_something_else_is_refused_with_what_would_be_taken():
    with pytest.raises(ValueError, match=r'no NesT classifier .* but layer1.0.conv1.weight'):
        convert({'layer1.0.conv1.weight': torch.zeros(1)}, 'nest')
