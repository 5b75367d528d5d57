from pathlib import Path

import pytest
import torch

from mmvit_ext.checkpoints.convert import METHODS, convert

HEAD = torch.load(Path(__file__).parents[1] / 'data' / 'segvit_atm.pt', weights_only=True)['state_dict']
SHRUNK = torch.load(Path(__file__).parents[1] / 'data' / 'segvit_shrunk.pt', weights_only=True)['state_dict']
BACKBONE = {
    'backbone.cls_token': torch.zeros(1),
    'backbone.pos_embed': torch.zeros(2),
    'backbone.patch_embed.projection.weight': torch.zeros(3),
    'backbone.layers.11.ln1.weight': torch.zeros(4),
    'backbone.layers.11.attn.attn.in_proj_weight': torch.zeros(5),
    'backbone.layers.11.attn.attn.out_proj.bias': torch.zeros(6),
    'backbone.layers.11.ffn.layers.0.0.weight': torch.zeros(7),
    'backbone.layers.11.ffn.layers.1.bias': torch.zeros(8),
}
SEGMENTOR = BACKBONE | {f'decode_head.{key}': value for key, value in HEAD.items()}


def test_every_weight_of_a_segmentor_is_carried_over_once():
    converted = convert(SEGMENTOR, 'segvit')
    weights = {key: value for key, value in SEGMENTOR.items() if not key.endswith('empty_weight')}
    assert sorted(map(id, converted.values())) == sorted(map(id, weights.values()))
    assert all(converted[key] is BACKBONE[key] for key in BACKBONE)
    assert all(key.startswith(('backbone.', 'decode_head.')) for key in converted)


def test_a_bare_head_gets_the_same_names_without_the_prefix():
    whole, bare = convert(SEGMENTOR, 'segvit'), convert(HEAD, 'segvit')
    assert {f'decode_head.{key}' for key in bare} == {key for key in whole if key.startswith('decode_head.')}


@pytest.mark.parametrize('key', ['decode_head.conv_seg.weight', 'backbone.norm.weight', 'auxiliary_head.q.weight'])
def test_a_key_that_is_left_over_is_named(key):
    with pytest.raises(ValueError, match=f'unknown keys {key}'):
        convert({**SEGMENTOR, key: torch.zeros(1)}, 'segvit')


@pytest.mark.parametrize(
    'key', ['decode_head.q.weight', 'decode_head.decoder_2.layers.1.norm2.bias', 'decode_head.proj_norm_3.weight']
)
def test_a_key_that_is_missing_is_named(key):
    with pytest.raises(ValueError, match=f'missing {key}'):
        convert({name: value for name, value in SEGMENTOR.items() if name != key}, 'segvit')


def test_a_missing_stage_is_named():
    partial = {key: value for key, value in HEAD.items() if '_2.' not in key}
    with pytest.raises(ValueError, match=r'missing input_proj_2\.weight'):
        convert(partial, 'segvit')


def test_every_weight_of_a_shrunk_head_is_carried_over_once():
    weights = {key: value for key, value in SHRUNK.items() if not key.endswith('empty_weight')}
    assert sorted(map(id, convert(SHRUNK, 'segvit').values())) == sorted(map(id, weights.values()))


@pytest.mark.parametrize('key', ['q.weight', 'atm.q.weight', 'decoder_2.layers.0.multihead_attn.in_proj_bias'])
def test_a_key_that_a_shrunk_head_misses_is_named(key):
    with pytest.raises(ValueError, match=f'missing {key}'):
        convert({name: value for name, value in SHRUNK.items() if name != key}, 'segvit')


def test_a_key_that_a_shrunk_head_has_too_many_is_named():
    with pytest.raises(ValueError, match=r'unknown keys atm\.extra'):
        convert({**SHRUNK, 'atm.extra': torch.zeros(1)}, 'segvit')


def test_converting_leaves_the_argument_as_it_was():
    before = dict(SEGMENTOR)
    convert(SEGMENTOR, 'segvit')
    assert list(SEGMENTOR) == list(before)


def test_a_whole_file_and_an_unknown_method_are_refused():
    with pytest.raises(TypeError, match='state_dict'):
        convert({'state_dict': SEGMENTOR, 'meta': {}}, 'segvit')
    with pytest.raises(ValueError, match=str(sorted(METHODS)).replace('[', r'\[').replace(']', r'\]')):
        convert(SEGMENTOR, 'sgvit')
    with pytest.raises(ValueError, match=r'missing q\.weight'):
        convert({}, 'segvit')
