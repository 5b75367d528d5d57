"""The recipes of the papers, and what a config that is compared with another one differs in."""

import re

import pytest
import torch
import yaml

pytest.importorskip('mmseg')

from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS

from mmvit_ext.config.loading import load_config
from mmvit_ext.models.backbones import ViT
from tests.config_tools import CONFIGS, build_on_meta, built, config_named, count_flops, load, multiply_adds

P2T = [path for path in CONFIGS if path.parent.name == 'p2t' and 'mini' not in path.stem and '_1xb' not in path.stem]
P2T_DOWNSTREAM = [path for path in P2T if not path.stem.startswith('p2t')]
P2T_ABLATIONS = [path for path in P2T if path.stem.startswith('p2t-s-')]
ABBREVIATIONS = {'tiny': 'ti', 'small': 's', 'base': 'b', 'large': 'l'}
#: Greatest norm of gradients, where the authors clip them.
P2T_CLIPPED = {'sem-fpn_p2t-b': 35, 'sem-fpn_p2t-l': 35, 'mask-rcnn_p2t-b': 10, 'mask-rcnn_p2t-l': 10}
#: Learning rate, weight decay and schedules of arXiv 2106.12011; of classification those of the authors' script.
P2T_RECIPES = {
    'mmseg': (1e-4, 1e-4, [dict(type='PolyLR', power=0.9, eta_min=1e-6, by_epoch=False, begin=0, end=80000)]),
    'mmdet': (
        1e-4,
        1e-4,
        [
            dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
            dict(type='MultiStepLR', milestones=[8, 11], gamma=0.1, by_epoch=True, begin=0, end=12),
        ],
    ),
    'mmpretrain': (
        1e-3,
        0.05,
        [
            dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
            dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0, end=300),
        ],
    ),
}


def decays(cfg, model):
    """Whether each parameter of a model decays, by name."""
    with torch.device('meta'):
        groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(group['params'][0])]: group['weight_decay'] > 0 for group in groups}


@pytest.mark.parametrize('path', P2T, ids=lambda path: path.stem)
def test_recipe_of_p2t_is_the_published_one(path):
    cfg = load(path)
    lr, weight_decay, schedulers = P2T_RECIPES[cfg.default_scope]
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', pytest.approx(lr), weight_decay)
    assert [dict(entry) for entry in cfg.param_scheduler] == [
        {name: pytest.approx(value) if isinstance(value, float) else value for name, value in entry.items()}
        for entry in schedulers
    ]
    norm = P2T_CLIPPED.get('_'.join(path.stem.split('_')[:2]))
    assert cfg.optim_wrapper.get('clip_grad') == (None if norm is None else dict(max_norm=norm, norm_type=2))
    if cfg.default_scope == 'mmpretrain':
        decayed = decays(cfg, built(path))
        assert decayed == {name: p.ndim > 1 for name, p in built(path).named_parameters()}
    else:
        assert 'paramwise_cfg' not in cfg.optim_wrapper
    arch = cfg.model.backbone.arch
    assert f'p2t-{ABBREVIATIONS[arch]}' in re.split('_fpn|_8xb', path.stem)[0]
    assert cfg.model.backbone.drop_path_rate == {'tiny': 0.1, 'small': 0.1, 'base': 0.3, 'large': 0.3}[arch]
    length = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
    assert length == {'mmseg': 80000, 'mmdet': 12, 'mmpretrain': 300}[cfg.default_scope]


@pytest.mark.parametrize('path', P2T_DOWNSTREAM, ids=lambda path: path.stem)
def test_a_downstream_config_begins_with_the_imagenet_weights_of_its_own_size(path):
    backbone = load(path).model.backbone
    assert backbone.init_cfg == dict(
        type='Pretrained', checkpoint=f'pretrain/p2t_{backbone.arch}.pth', prefix='backbone.'
    )


@pytest.mark.parametrize('path', P2T_ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_differs_from_the_full_network_in_its_switches_alone(path):
    full, ablated = (load(file).to_dict() for file in (config_named('p2t-s_'), path))
    switches = ablated['model']['backbone'].keys() - full['model']['backbone'].keys()
    assert switches
    assert switches <= {'pool_ratios', 'pool_type', 'with_rpe', 'ffn_type', 'overlapped', 'act_cfg'}
    for name in switches:
        del ablated['model']['backbone'][name]
    assert ablated == full


@pytest.mark.parametrize('path', P2T_ABLATIONS, ids=lambda path: path.stem)
def test_the_switches_of_an_ablation_can_be_set_in_a_segmentor(path):
    """As the model zoo page says, with the weights that the ablation trained."""
    backbone = load(path).model.backbone
    options = {
        f'model.backbone.{name}': value
        for name, value in backbone.items()
        if name not in load(config_named('p2t-s_')).model.backbone
    }
    cfg = load_config(
        config_named('sem-fpn_p2t-s_'), {**options, 'model.backbone.init_cfg.checkpoint': 'epoch_300.pth'}
    )
    segmentor, classifier = build_on_meta(cfg), built(path)
    shapes = [{k: v.shape for k, v in model.backbone.state_dict().items()} for model in (segmentor, classifier)]
    assert shapes[0] == shapes[1]


SPFORMER = [path for path in CONFIGS if path.parent.name == 'spformer' and not re.search('mini|_1xb', path.stem)]
SUPERPIXEL_SETR = [path for path in SPFORMER if path.stem.startswith('setr-superpixel')]
SPFORMER_ABLATIONS = {
    'one-iteration': dict(sca_iterations=1),
    'sca-at-start': dict(depths=(12,)),
    'one-head': dict(sca_heads=1),
    'learnable-positions': dict(positions='learnable'),
    'conv-stem': dict(stem='conv'),
}


@pytest.mark.parametrize('path', SPFORMER, ids=lambda path: path.stem)
def test_network_and_recipe_of_spformer_are_what_the_name_says(path):
    cfg = load(path)
    backbone = cfg.model.backbone
    kind, size, stride = re.search(r'(spformer|deit)-([tsb])(16|32)', path.stem).groups()
    assert backbone.type == {'spformer': 'mmvit_ext.SPFormer', 'deit': 'mmvit_ext.ViT'}[kind]
    assert backbone.arch == {'t': 'tiny', 's': 'small', 'b': 'base'}[size]
    superpixel = backbone.get('pixel_stride', 4) * 4 if kind == 'spformer' else backbone.patch_size
    assert superpixel == int(stride)
    edge = int(re.search(r'-(\d+)x\1$', path.stem).group(1))
    assert backbone.img_size in (edge, (edge, edge))
    optimizer = cfg.optim_wrapper.optimizer
    if cfg.default_scope == 'mmpretrain':
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-3, 0.05)
        assert cfg.train_cfg.max_epochs == 300
        assert backbone.drop_path_rate == {'tiny': 0.1, 'small': 0.1, 'base': 0.6}[backbone.arch]
        train, test = cfg.train_dataloader.dataset.pipeline, cfg.test_dataloader.dataset.pipeline
        assert (train[1].scale, test[1].scale, test[2].crop_size) == (edge, round(edge / 0.875), edge)
    else:
        assert dict(optimizer) == dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0)
        iterations = {'ade20k': 160000, 'pascal-context': 80000}[re.search(r'k_(.*)-\d', path.stem).group(1)]
        assert cfg.train_cfg.max_iters == cfg.param_scheduler[0].end == iterations
        assert cfg.model.test_cfg == dict(mode='slide', crop_size=(edge, edge), stride=(edge * 2 // 3,) * 2)
        assert backbone.drop_path_rate == 0.1
        checkpoint = None if 'scratch' in path.stem else f'pretrain/{kind}_{backbone.arch}.pth'
        assert (backbone.init_cfg or {}).get('checkpoint') == checkpoint


@pytest.mark.parametrize('path', SUPERPIXEL_SETR, ids=lambda path: path.stem)
def test_the_baseline_of_spformer_differs_from_it_in_backbone_and_head_alone(path):
    ours = load(path).to_dict()
    baseline = load(path.with_name(path.name.replace('setr-superpixel_spformer', 'setr-naive_deit'))).to_dict()
    assert ours['model']['decode_head'].pop('num_classes') == baseline['model']['decode_head'].pop('num_classes')
    assert ours['model']['decode_head'].pop('loss_decode') == baseline['model']['decode_head'].pop('loss_decode')
    for name in ('img_size', 'drop_path_rate', 'norm_cfg', 'arch'):
        assert ours['model']['backbone'].pop(name) == baseline['model']['backbone'].pop(name)
    for cfg in (ours, baseline):
        del cfg['model']['backbone'], cfg['model']['decode_head']
    assert ours == baseline


def test_the_baseline_on_the_mini_data_has_the_same_budget():
    """And as many blocks of the same width."""
    paths = [config_named(f'setr-{kind}-mini') for kind in ('superpixel_spformer', 'naive_deit')]
    ours, baseline = (load(path).to_dict() for path in paths)
    networks = [built(path).backbone for path in paths]
    assert len({(len(network.layers), network.embed_dims, network.out_strides) for network in networks}) == 1
    for cfg in (ours, baseline):
        del cfg['model']['backbone'], cfg['model']['decode_head']
    assert ours == baseline


@pytest.mark.parametrize('name', SPFORMER_ABLATIONS)
def test_an_ablation_of_spformer_differs_from_the_full_network_in_its_switch_alone(name):
    full, ablated = (load(config_named(f'spformer-s32{end}_')) for end in ('', f'-{name}'))
    ablated, full = ablated.to_dict(), full.to_dict()
    for switch, value in SPFORMER_ABLATIONS[name].items():
        assert switch not in full['model']['backbone']
        assert ablated['model']['backbone'].pop(switch) == value
    assert ablated == full


def test_training_from_scratch_differs_in_the_start_alone():
    for path in SUPERPIXEL_SETR:
        if 'scratch' not in path.stem:
            scratch = load(path.with_name(re.sub('16_', '16-scratch_', path.name))).to_dict()
            assert scratch['model']['backbone'].pop('init_cfg') is None
            pretrained = load(path).to_dict()
            assert pretrained['model']['backbone'].pop('init_cfg')['prefix'] == 'backbone.'
            assert scratch == pretrained


def test_spformer_s32_needs_fewer_operations_than_deit_tiny():
    """Which the paper states, and which decides that pixels are not projected inside SCA."""
    path = config_named('spformer-s32_8xb128-300e_imagenet-224')
    cfg = load(path)
    with torch.device('meta'):
        deit = ViT('tiny', patch_bias=True).eval()
    counted = count_flops(lambda: deit(torch.empty(1, 3, 224, 224, device='meta'))) / 2e9
    assert multiply_adds(cfg, built(path), (224, 224)) < counted == pytest.approx(1.25, abs=0.01)
    cfg.model.backbone.pixel_qkv = 'shared'
    assert multiply_adds(cfg, build_on_meta(cfg).eval(), (224, 224)) > counted


TNT_ABLATIONS = {
    'inner-heads1': dict(num_heads_inner=1),
    'inner-heads2': dict(num_heads_inner=2),
    'inner-heads6': dict(num_heads_inner=6),
    'inner-heads8': dict(num_heads_inner=8),
    'words64': dict(inner_stride=2, embed_dims_inner=6, num_heads_inner=3),
    'words4': dict(inner_stride=8, embed_dims_inner=96),
    'no-positions': dict(with_patch_pos=False, with_word_pos=False),
    'patch-positions': dict(with_word_pos=False),
    'word-positions': dict(with_patch_pos=False),
    'se': dict(with_se=True),
    'blocks1-4-8-12': dict(tnt_block_indices=(0, 3, 7, 11)),
    'blocks1-6-12': dict(tnt_block_indices=(0, 5, 11)),
    'blocks1-6': dict(tnt_block_indices=(0, 5)),
    'block1': dict(tnt_block_indices=(0,)),
}
TNT_TRANSFER = [path for path in CONFIGS if path.stem.startswith('tnt') and '384x384' in path.stem]
TNT_DOWNSTREAM = [path for path in CONFIGS if re.match(r'(?!tnt)\S+_tnt-s_', path.stem)]
NEST_DOWNSTREAM = [path for path in CONFIGS if re.match(r'(?!nest)\S+_nest-t_', path.stem)]


def test_every_ablation_of_tnt_is_listed_here():
    assert {path.stem.split('_')[0] for path in CONFIGS if path.stem.startswith('tnt-s-')} == {
        f'tnt-s-{name}' for name in TNT_ABLATIONS
    }


@pytest.mark.parametrize('name', TNT_ABLATIONS)
def test_an_ablation_of_tnt_differs_from_the_full_network_in_its_switches_alone(name):
    full, ablated = (load(config_named(f'tnt-s{end}_')).to_dict() for end in ('', f'-{name}'))
    for switch, value in TNT_ABLATIONS[name].items():
        assert switch not in full['model']['backbone']
        assert ablated['model']['backbone'].pop(switch) == value
    if name == 'no-positions':
        assert full['optim_wrapper']['paramwise_cfg']['custom_keys'].pop('_pos') == dict(decay_mult=0.0)
    assert ablated == full


@pytest.mark.parametrize('start', ['tnt-ti_', 'tnt-s_', 'tnt-b_'])
def test_recipe_of_tnt_is_the_published_one(start):
    """Epochs, optimiser, batch and drop path of arXiv 2103.00112; what has no direction does not decay.

    The last ten epochs, the average and the interpolations are those of the authors' command.
    """
    cfg = load(config_named(start))
    assert dict(cfg.optim_wrapper.optimizer, betas=None) == dict(type='AdamW', lr=1e-3, betas=None, weight_decay=0.05)
    assert (cfg.train_cfg.max_epochs, cfg.auto_scale_lr.base_batch_size) == (310, 1024)
    assert (cfg.param_scheduler[0].end, cfg.param_scheduler[1].begin, cfg.param_scheduler[1].end) == (5, 0, 300)
    assert [(hook.type, hook.momentum) for hook in cfg.custom_hooks] == [('EMAHook', pytest.approx(1 - 0.99996))]
    branches = cfg.train_dataloader.dataset.pipeline[1].transforms
    assert [{crop.interpolation, augment.hparams.interpolation} for crop, _, augment in branches] == [
        {'bilinear'},
        {'bicubic'},
    ]
    assert (cfg.model.backbone.drop_path_rate, cfg.model.backbone.out_type) == (0.1, 'cls_token')
    model = built(config_named(start))
    decayed = decays(cfg, model)
    expected = {name: p.ndim > 1 and not re.search('_pos|cls_token', name) for name, p in model.named_parameters()}
    assert decayed == expected
    assert sum(not value for value in expected.values()) > 3


@pytest.mark.parametrize(
    ('start', 'warmup', 'batch', 'drop_path'),
    [
        ('nest-t_', 20, 1024, 0.2),
        ('nest-s_', 20, 1024, 0.3),
        ('nest-b_8xb128-300e_', 20, 1024, 0.5),
        *(
            (f'nest-cifar-{size}_{named}-300e_cifar{classes}-', 5, batch, 0.1)
            for size, named, batch in (('t', '1xb192', 192), ('s', '2xb64', 128), ('b', '2xb32', 64))
            for classes in (10, 100)
        ),
    ],
)
def test_recipe_of_nest_is_the_published_one(start, warmup, batch, drop_path):
    """That of arXiv 2105.12723: rates by batch, decay of all but the position embeddings, augmentation."""
    cfg = load(config_named(start))
    optimizer, (first, then) = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 2.5e-4 * batch / 256, 0.05)
    assert (first.start_factor, then.eta_min) == (1e-6, 0.0)
    assert cfg.optim_wrapper.paramwise_cfg == dict(custom_keys=dict(pos_embed=dict(decay_mult=0.0)))
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert (first.type, first.end, then.type, then.begin, then.end) == (
        'LinearLR',
        warmup,
        'CosineAnnealingLR',
        warmup,
        300,
    )
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.model.backbone.drop_path_rate == drop_path
    size = {'t': 'tiny', 's': 'small', 'b': 'base'}[re.search(r'-([tsb])_', start).group(1)]
    assert cfg.model.backbone.arch == (f'cifar-{size}' if 'cifar' in start else size)
    steps = {step['type']: step for step in cfg.train_dataloader.dataset.pipeline}
    if 'cifar' in start:
        assert (steps['RandomCrop']['padding'], 'ColorJitter' in str(steps)) == (2, False)
    else:
        assert list(steps)[3:7] == ['RandAugment', 'RandomApply', 'RandomGrayscale', 'RandomErasing']
        (jitter,), grey = steps['RandomApply']['transforms'], steps['RandomGrayscale']
        assert jitter == dict(type='ColorJitter', brightness=0.24, contrast=0.24, saturation=0.24, hue=0.06)
        assert (steps['RandomApply']['prob'], grey['prob'], grey['keep_channels']) == (0.8, 0.2, True)
    assert (steps['RandAugment']['num_policies'], steps['RandAugment']['magnitude_level']) == (2, 9)
    assert (steps['RandAugment']['magnitude_std'], steps['RandomErasing']['erase_prob']) == (0.5, 0.25)
    assert cfg.train_dataloader.sampler.type == 'DefaultSampler'
    assert [(mix.type, mix.alpha) for mix in cfg.model.train_cfg.augments] == [('Mixup', 0.8), ('CutMix', 1.0)]
    assert cfg.model.head.loss.label_smooth_val == 0.1


@pytest.mark.parametrize('path', [*TNT_DOWNSTREAM, *NEST_DOWNSTREAM], ids=lambda path: path.stem)
def test_a_segmentor_or_detector_begins_with_weights_of_its_backbone(path):
    kind = re.search(r'_(tnt|nest)-', path.stem).group(1)
    backbone = load(path).model.backbone
    arch = {'tnt': 'small', 'nest': 'tiny'}[kind]
    assert backbone.arch == arch
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=f'pretrain/{kind}_{arch}.pth', prefix='backbone.')


def test_every_head_that_was_asked_for_has_a_config():
    assert {path.stem.split('_tnt')[0] for path in TNT_DOWNSTREAM} == {
        *('setr-naive', 'setr-pup', 'setr-mla', 'sem-fpn', 'sem-fpn-simple', 'segvit'),
        *('retinanet', 'mask-rcnn', 'faster-rcnn'),
    }
    assert {path.stem.split('_nest')[0] for path in NEST_DOWNSTREAM} == {'sem-fpn', 'segvit', 'retinanet', 'mask-rcnn'}


@pytest.mark.parametrize(
    ('start', 'first'),
    [('sem-fpn_tnt-s_', 0), ('retinanet_tnt-s_', 1), ('mask-rcnn_tnt-s_', 0), ('faster-rcnn_tnt-s_', 0)],
)
def test_blocks_3_6_9_and_12_of_tnt_come_to_strides_4_to_32(start, first):
    """RetinaNet has no use for the first of them."""
    cfg = load(config_named(start))
    assert cfg.model.backbone.out_indices == (2, 5, 8, 11)[first:]
    model = built(config_named(start))
    maps = model.neck[0](model.backbone(torch.empty(1, 3, 64, 96, device='meta')))
    assert [tuple(level.shape[2:]) for level in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)][first:]


@pytest.mark.parametrize('starts', [('setr-naive_tnt-mini', 'setr-naive_vit-mini'), ('nest-mini', 'vit-mini')])
def test_a_baseline_on_the_mini_data_has_the_same_budget_and_size(starts):
    """Data, schedule and all else but the learning rate, chosen for each; parameters of the networks within 2 %."""
    paths = [config_named(start) for start in starts]
    ours, baseline = (load(path).to_dict() for path in paths)
    sizes = [sum(parameter.numel() for parameter in built(path).backbone.parameters()) for path in paths]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    for cfg in (ours, baseline):
        del cfg['model']['backbone']
        cfg['model'].get('head', {}).pop('in_channels', None)
        del cfg['optim_wrapper']['optimizer']['lr']
    assert ours == baseline


@pytest.mark.parametrize('kind', ['mini', ''])
def test_the_generator_to_compare_nest_with_has_the_same_budget_and_size(kind):
    """Data, discriminator, schedule and all else; parameters of the generators within 2 %."""
    paths = [config_named(f'{name}-generator{"-" if kind else ""}{kind}_') for name in ('nest', 'conv')]
    ours, other = (load(path).to_dict() for path in paths)
    sizes = [sum(parameter.numel() for parameter in built(path).generator.parameters()) for path in paths]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    for cfg in (ours, other):
        cfg.pop('arch', None)
        assert cfg['model'].pop('generator')['type'].startswith('mmvit_ext.')
    assert ours == other


def test_nest_generator_of_64_pixels_has_the_published_five_levels():
    cfg = load(config_named('nest-generator_'))
    generator = built(config_named('nest-generator_')).generator
    assert (len(generator.levels), generator.img_size, cfg.img_size) == (5, 64, 64)
    assert cfg.train_cfg.max_iters == 1000 * (1281167 // 256 + 1)
    assert cfg.auto_scale_lr.base_batch_size == 256


def test_rates_fall_as_in_the_log_of_p2t():
    """Which has 0.00049982 in epoch 152 of 300, half a cosine without a shift; warm-up ends at what is left of 1e-3."""
    cfg = load(config_named('p2t-ti_'))
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=cfg.optim_wrapper.optimizer.lr)
    warmup, cosine = (dict(entry) for entry in cfg.param_scheduler)
    assert warmup.pop('convert_to_iter_based')
    schedulers = [PARAM_SCHEDULERS.build(dict(entry, optimizer=optimizer)) for entry in (warmup, cosine)]
    rates = []
    for _ in range(302):
        rates.append(optimizer.param_groups[0]['lr'])
        for scheduler in schedulers:
            scheduler.step()
    assert rates[151] == pytest.approx(0.00049982, rel=2e-4)
    assert rates[0] == pytest.approx(1e-6)
    assert rates[20] == pytest.approx(9.89e-4, rel=1e-3)
    assert rates[300] == rates[301] == pytest.approx(1e-5, rel=0.01)


@pytest.mark.parametrize('path', TNT_TRANSFER, ids=lambda path: path.stem)
def test_tnt_is_tuned_for_larger_images_as_it_was_trained(path):
    """Settings of the training, from its weights, for 64 epochs, or 300 of fine-grained classes."""
    size, epochs, name = re.match('tnt-([sb])_8xb128-([0-9]+)e_(.*)-384', path.stem).groups()
    cfg, trained = load(path), load(config_named(f'tnt-{size}_8xb128-300e_imagenet'))
    assert epochs == ('64' if name in ('imagenet', 'cifar10', 'cifar100') else '300')
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[1].end) == (int(epochs), int(epochs))
    assert (cfg.optim_wrapper, cfg.custom_hooks) == (trained.optim_wrapper, trained.custom_hooks)
    assert cfg.model.backbone.arch == {'s': 'small', 'b': 'base'}[size]
    assert cfg.model.backbone.init_cfg.checkpoint == f'pretrain/tnt_{cfg.model.backbone.arch}.pth'
    classes = dict(imagenet=1000, cifar10=10, cifar100=100, flowers102=102, pets=37, inat2019=1010)[name]
    assert (cfg.model.head.num_classes, cfg.model.data_preprocessor.num_classes) == (classes, classes)
    assert cfg.model.head.in_channels == trained.model.head.in_channels
    assert cfg.model.data_preprocessor.to_rgb == (not name.startswith('cifar'))
    ours, theirs = (
        [
            branch[0]
            for step in config.train_dataloader.dataset.pipeline
            if step.type == 'RandomChoice'
            for branch in step.transforms
        ]
        for config in (cfg, trained)
    )
    assert [dict(crop, scale=224) for crop in ours] == theirs
    assert {crop.scale for crop in ours} == {cfg.img_size} == {384}


def test_the_windows_of_segvit_move_as_published():
    """By 341 pixels at 512, 608 at 640 and 320 at 480; the poly decay runs over all iterations."""
    for path in CONFIGS:
        cfg = load(path)
        if path.stem.startswith('segvit') and 'mini' not in path.stem and '_1xb' not in path.stem:
            crop = cfg.crop_size[0]
            assert cfg.model.test_cfg.stride == ({512: 341, 640: 608, 480: 320}[crop],) * 2, path.stem
            warmup, poly = cfg.param_scheduler
            assert (warmup.end, poly.begin, poly.end) == (1500, 0, cfg.train_cfg.max_iters)
            assert poly.power == (2.0 if 'coco-stuff' in path.stem else 1.0)


def test_no_view_of_coco_stuff_is_smaller_than_the_window():
    cfg = load(config_named('segvit_vit-l16_8xb2-80k_coco-stuff'))
    (views, *_), single = cfg.tta_pipeline[1].transforms, cfg.test_pipeline[1]
    assert [view.scale for view in views] == [512, 512, 512, 640, 768, 896]
    assert (single.type, single.scale) == ('ResizeShortestEdge', 512)


def test_the_two_readings_of_what_segvit_began_with_are_one_option_apart():
    for start, other in (('segvit_vit-b16_8xb2-160k_ade', 'vit_base_p16_384_original'),):
        cfg = load_config(config_named(start), {'model.backbone.init_cfg.checkpoint': f'pretrain/{other}.pth'})
        assert cfg.model.backbone.init_cfg.checkpoint == f'pretrain/{other}.pth'
    augreg, original = (
        load(config_named(f'segvit{kind}_vit-l16_8xb2-160k_ade')).to_dict() for kind in ('', '-original')
    )
    assert augreg['model']['backbone'].pop('init_cfg') != original['model']['backbone'].pop('init_cfg')
    assert augreg == original


def test_100_epochs_of_nest_b_differ_from_300_in_their_number_alone():
    long, short = (load(config_named(f'nest-b_8xb128-{epochs}e')).to_dict() for epochs in (300, 100))
    for cfg, epochs in ((long, 300), (short, 100)):
        assert cfg.pop('max_epochs') == cfg['train_cfg'].pop('max_epochs') == epochs
        assert cfg['param_scheduler'][1].pop('end') == epochs
    assert long == short


TIMM = [path for path in CONFIGS if re.search('_(dinov[23]|eva02|beitv2)-', path.stem)]
TIMM_RATES = {'dinov2': (1e-4, 0.8), 'eva02': (4e-5, 0.9), 'beitv2': (3e-5, 0.9)}


@pytest.mark.parametrize('path', TIMM, ids=lambda path: path.stem)
def test_a_network_of_timm_gets_the_images_and_the_rates_that_its_weights_are_made_for(path):
    cfg, backbone = load(path), built(path).backbone
    family, registers, size = re.search(r'_(dinov[23]|eva02|beitv2)(-reg)?-([sbl])16_', path.stem).groups()
    name = {'s': 'small', 'b': 'base', 'l': 'large'}[size]
    form = f'patch1[46]_{"reg4_" if registers else ""}{family}'
    assert re.match(f'({family}_{name}|vit_{name}_{form})', cfg.model.backbone.model)
    images = cfg.model.data_preprocessor
    assert tuple(images.mean) == pytest.approx(backbone.mean, abs=1e-3)
    assert tuple(images.std) == pytest.approx(backbone.std, abs=1e-3)
    assert images.bgr_to_rgb
    assert {edge % backbone.net.patch_embed.patch_size[0] for edge in cfg.model.backbone.img_size} == {0}
    wrapper = cfg.optim_wrapper
    if cfg.default_scope == 'mmdet' and path.parent.name != 'eomt':
        rates = (1e-4, 0.7)
        assert wrapper.optimizer.weight_decay == 0.1
    else:
        rates = TIMM_RATES.get(family)
        assert wrapper.optimizer.weight_decay == 0.05
    if rates:
        assert wrapper.constructor == 'mmvit_ext.LayerDecayConstructor'
        assert (wrapper.optimizer.lr, wrapper.paramwise_cfg) == (rates[0], {'decay_rate': rates[1]})
    else:
        assert wrapper.optimizer.lr * wrapper.paramwise_cfg.custom_keys.head.lr_mult == pytest.approx(2e-4)


@pytest.mark.parametrize('path', [path for path in TIMM if 'shrunk' in path.stem], ids=lambda path: path.stem)
def test_shrunk_on_a_network_of_timm_differs_from_the_whole_network_in_the_structure_alone(path):
    whole_path = path.with_name(path.name.replace('segvit-shrunk', 'segvit'))
    whole, shrunk = load(whole_path).to_dict(), load(path).to_dict()
    index = shrunk['model']['backbone'].pop('shrink_index')
    assert shrunk['model']['backbone'].pop('out_indices') == (index - 1, whole['model']['backbone']['out_indices'][-1])
    del whole['model']['backbone']['out_indices'], whole['model']['decode_head'], shrunk['model']['decode_head']
    assert whole == shrunk
    rows = yaml.safe_load((path.parent / 'metafile.yml').read_text())['Models']
    counts = {row['Name']: row['Metadata'].get('GFLOPs counted here') for row in rows}
    assert counts[path.stem] < (0.6 if '-l16' in path.stem else 0.85) * counts[whole_path.stem]
