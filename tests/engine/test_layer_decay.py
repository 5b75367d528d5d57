"""Learning rates that fall with the depth, by our constructor and by mmpretrain's own."""

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmvit_ext.config.adjust import set_layer_decay
from mmvit_ext.engine import TwoStagePolyLR
from mmvit_ext.errors import UserError
from tests.zoo import BACKBONES

rows = pytest.mark.parametrize('row', BACKBONES.values(), ids=BACKBONES)
RATE = 0.5


class Model(nn.Module):
    """A backbone and a head, as segmentors and detectors have them."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.decode_head = backbone, nn.Linear(3, 3)


def build(model, constructor='mmvit_ext.LayerDecayConstructor', **paramwise):
    return build_optim_wrapper(
        model,
        {
            'type': 'OptimWrapper',
            'optimizer': {'type': 'AdamW', 'lr': 1.0, 'weight_decay': 0.1},
            'constructor': constructor,
            'paramwise_cfg': paramwise,
        },
    ).optimizer


def rates(model, optimizer):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group['lr'] for group in optimizer.param_groups for p in group['params']}


@rows
def test_every_trained_parameter_has_the_rate_of_its_depth(row):
    model = Model(row.make())
    optimizer = build(model, decay_rate=RATE)
    found = rates(model, optimizer)
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    blocks = model.backbone.block_names
    assert found['decode_head.weight'] == 1.0
    for name, rate in found.items():
        owner = next((i for i, block in enumerate(blocks) if name.startswith(f'backbone.{block}.')), None)
        if owner is not None:
            assert rate == RATE ** (len(blocks) - owner), name
    assert min(found.values()) == RATE ** (len(blocks) + 1), 'the embedding of the image'
    assert len(optimizer.param_groups) <= 2 * (len(blocks) + 2)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group['params']:
            decayed = names[id(parameter)].endswith('weight') and parameter.ndim > 1
            assert (group['weight_decay'] > 0) == decayed, names[id(parameter)]


def test_mmsegs_name_of_the_constructor_serves_as_well():
    model = Model(BACKBONES['ViT'].make())
    first, second = (
        build(model, f'mmvit_ext.{name}', decay_rate=RATE, num_layers=3, decay_type='layer_wise')
        for name in ('LayerDecayConstructor', 'LearningRateDecayOptimizerConstructor')
    )
    assert rates(model, first) == rates(model, second)


@rows
@pytest.mark.parametrize('library', ['mmseg', 'mmdet'])
def test_configs_with_the_constructor_of_mmseg_or_mmdet_get_the_same_rates(row, library):
    """Their own refuse our backbones, by the name of the class: training puts ours in their place."""
    optimizers = pytest.importorskip(f'{library}.engine.optimizers')
    paramwise = {'decay_rate': RATE, 'num_layers': len(row.make().block_names), 'decay_type': 'layer_wise'}
    model = Model(row.make())
    name = optimizers.LearningRateDecayOptimizerConstructor.__name__
    with pytest.raises(NotImplementedError):
        build(model, f'{library}.{name}', **paramwise)
    for written in (name, f'{library}.{name}', optimizers.LearningRateDecayOptimizerConstructor):
        wrapper = {'constructor': written, 'paramwise_cfg': paramwise}
        cfg = Config({'model': {'backbone': {'type': f'mmvit_ext.{row.build.__name__}'}}, 'optim_wrapper': wrapper})
        assert f'{name} knows ConvNeXt, BEiT and MAE' in set_layer_decay(cfg)[0]
        found = rates(model, build(model, cfg.optim_wrapper.constructor, **paramwise))
        assert found == rates(model, build(model, decay_rate=RATE))


@pytest.mark.parametrize(
    ('backbone', 'constructor', 'paramwise'),
    [
        ('mmseg.ConvNeXt', 'LearningRateDecayOptimizerConstructor', {}),
        ('mmvit_ext.ViT', 'mmvit_ext.LearningRateDecayOptimizerConstructor', {}),
        ('mmvit_ext.ViT', 'mmpretrain.LearningRateDecayOptimWrapperConstructor', {}),
        ('mmvit_ext.ViT', 'LearningRateDecayOptimizerConstructor', {'decay_type': 'stage_wise'}),
        ('mmvit_ext.ViT', None, {}),
    ],
)
def test_other_constructors_stay(backbone, constructor, paramwise):
    wrapper = {'constructor': constructor, 'paramwise_cfg': paramwise}
    cfg = Config({'model': {'backbone': {'type': backbone}}, 'optim_wrapper': wrapper})
    assert set_layer_decay(cfg) == []
    assert cfg.optim_wrapper.constructor == constructor


@rows
def test_mmpretrains_own_constructor_finds_the_same_rates(row):
    models = pytest.importorskip('mmpretrain.models')
    import mmpretrain.engine  # noqa: F401 (registers the constructor)

    backbone = row.make()
    classifier = models.ImageClassifier(backbone=nn.Identity())
    classifier.backbone = backbone
    optimizer = build(classifier, 'mmpretrain.LearningRateDecayOptimWrapperConstructor', layer_decay_rate=RATE)
    ours = rates(classifier, build(classifier, decay_rate=RATE))
    assert rates(classifier, optimizer) == ours


def test_names_of_custom_keys_decide_on_the_weight_decay():
    model = Model(BACKBONES['ViT'].make())
    optimizer = build(model, decay_rate=RATE, custom_keys={'pos_embed': {'decay_mult': 0.0}})
    (group,) = [g for g in optimizer.param_groups if any(p is model.backbone.pos_embed for p in g['params'])]
    assert group['weight_decay'] == 0


def test_names_of_custom_keys_decide_on_the_rate():
    model = Model(BACKBONES['ViT'].make())
    plain = rates(model, build(model, decay_rate=RATE))
    keys = {'decode_head': {'lr_mult': 10.0}, 'decode_head.bias': {'decay_mult': 1.0}, 'pos_embed': {'lr_mult': 0.5}}
    optimizer = build(model, decay_rate=RATE, custom_keys=keys)
    factors = {'decode_head.weight': 10.0, 'backbone.pos_embed': 0.5}
    assert rates(model, optimizer) == {name: rate * factors.get(name, 1.0) for name, rate in plain.items()}
    decays = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    assert (decays[id(model.decode_head.bias)], decays[id(model.backbone.pos_embed)]) == (0.1, 0.0)


def test_a_slow_head_is_not_taken_for_a_backbone():
    model = Model(BACKBONES['ViT'].make())
    optimizer = build(model, decay_rate=RATE, custom_keys={'decode_head': {'lr_mult': 0.1}})
    (head,) = (g for g in optimizer.param_groups if any(p is model.decode_head.weight for p in g['params']))
    TwoStagePolyLR(optimizer, end=20, warmup=(4, 6))
    assert head['lr'] > 0
    assert {g['lr'] for g in optimizer.param_groups if g['lr_scale'] < 1} == {0.0}


@pytest.mark.parametrize(
    ('model', 'paramwise', 'message'),
    [
        (lambda: Model(BACKBONES['ViT'].make()), {'num_layers': 3}, 'needs decay_rate'),
        (lambda: Model(BACKBONES['ViT'].make()), {}, 'needs decay_rate'),
        (lambda: Model(BACKBONES['ViT'].make()), {'decay_rate': RATE, 'num_layers': 12}, 'is 12, but .* 3 blocks'),
        (lambda: Model(nn.Linear(1, 1)), {'decay_rate': RATE}, 'get_layer_depth.*Linear'),
    ],
)
def test_what_cannot_work_is_refused_with_a_remedy(model, paramwise, message):
    with pytest.raises(UserError, match=message):
        build(model(), **paramwise)


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        ({'decay_type': 'stage_wise'}, r"decay_type='stage_wise' has no effect"),
        ({'norm_decay_mult': 1.0}, r'norm_decay_mult=1\.0 has no effect'),
        ({'custom_keys': {'decode_head': {'lr': 10}}}, r"custom_keys\['decode_head'\]\.lr has no effect"),
    ],
)
def test_settings_without_effect_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        build(Model(BACKBONES['ViT'].make()), decay_rate=RATE, **options)


def test_two_warm_ups_are_refused_where_there_is_nothing_for_the_second():
    optimizer = build(Model(BACKBONES['ViT'].make()), decay_rate=1.0)
    with pytest.raises(ValueError, match=r"constructor='mmvit_ext\.LayerDecayConstructor' and a decay_rate below 1"):
        TwoStagePolyLR(optimizer, end=20, warmup=(4, 6))


def test_settings_that_say_what_is_done_anyway_are_taken():
    model = Model(BACKBONES['ViT'].make())
    options = {'decay_type': 'layer_wise', 'norm_decay_mult': 0.0, 'bypass_duplicate': True}
    options |= {'custom_keys': {'decode_head': {'decay_mult': 0.5}, 'pos_embed': {}}}
    groups = build(model, decay_rate=RATE, **options).param_groups
    decays = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    assert decays[id(model.decode_head.bias)] == 0.05
    assert decays[id(model.backbone.pos_embed)] == 0
