import re
from functools import cache
from importlib.util import find_spec

import pytest
import torch
import yaml

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS as DATASET_REGISTRY
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS

from mmvit_ext.checkpoints import convert
from mmvit_ext.datasets.mini import DATA_ROOTS, make_mini_dataset
from mmvit_ext.engine.config import load_config
from mmvit_ext.engine.errors import UserError
from mmvit_ext.models.backbones import ViT
from mmvit_ext.models.compute import count_flops
from tests.config_tools import (
    CONFIGS,
    EDGE,
    HEADS,
    ROOT,
    WIDTH,
    best_of,
    build_on_meta,
    first_stage_attention,
    multiply_adds,
    published_size,
    scope_of,
    small_config,
    write_cifar,
)

configs = pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
DATASETS = {
    'ADE20KDataset': 'ade20k',
    'COCOStuffDataset': 'coco_stuff10k',
    'PascalContextDataset': 'pascal_context',
    'PascalContextDataset59': 'pascal_context',
    'CocoDataset': 'coco',
    'ImageNet': 'imagenet',
}
#: Parameters of the released classification models, one by one.
CLASSIFIERS = {
    'p2t-ti': 11_590_840,
    'p2t-s': 24_079_848,
    'p2t-b': 36_066_408,
    'p2t-l': 54_477_096,
    'tnt-s': 23_768_584,
    'tnt-b': 65_428_680,
    'nest-t': 17_057_608,
    'nest-s': 38_351_176,
    'nest-b': 67_723_368,
}


@pytest.fixture(scope='session')
def mini_data(tmp_path_factory):
    root = tmp_path_factory.mktemp('mini') / 'data'
    make_mini_dataset(root, images=4, size=(60, 80), seed=0)
    return {dataset: root / DATA_ROOTS[layout] for dataset, layout in DATASETS.items()} | write_cifar(root)


@pytest.fixture(autouse=True)
def _cifar_without_checksums(monkeypatch):
    if find_spec('mmpretrain') is not None:
        monkeypatch.setattr('mmpretrain.datasets.cifar.check_md5', lambda *_: True)


@pytest.fixture(autouse=True)
def _plain_config_dumps(monkeypatch):
    """Leaves the layout of dumped configs as it is: making it pretty takes more than half of a tiny run's time."""
    for module in ('yapf.yapflib.yapf_api', 'mmengine.config.config'):  # where the two generations look it up
        monkeypatch.setattr(f'{module}.FormatCode', lambda text, **_: (text, True), raising=False)


def config_named(start):
    """The first config whose name begins so."""
    return next(path for path in CONFIGS if path.stem.startswith(start))


@configs
def test_full_size_model_builds_and_costs_what_was_published(path):
    """Operations and parameters within 2 % of the paper's.

    The papers count multiply-adds of one forward pass at the crop's size, attention and the product that mixes the
    masks at full resolution included, interpolation, normalisation and activations not. P2T's count leaves out the two
    products of attention in the first stage: with that, all its sixteen published figures are met.
    """
    cfg = Config.fromfile(path)
    model = build_on_meta(cfg).eval()
    noted = metadata(path)
    if cfg.default_scope == 'mmseg':
        assert model.decode_head.num_classes == model.out_channels
    if 'Parameters counted here' in noted:
        counted_part = getattr(model, 'generator', model)  # alone, without what it learns against
        parameters = sum(parameter.numel() for parameter in counted_part.parameters())
        assert parameters == noted['Parameters counted here']
        assert parameters / 1e6 == pytest.approx(noted.get('Parameters', parameters / 1e6), rel=0.02)
    if 'GFLOPs counted here' in noted:
        size = published_size(cfg)
        counted = multiply_adds(cfg, model, size)
        digit = 0.0051 if counted < 20 else 0.051
        assert counted == pytest.approx(noted['GFLOPs counted here'], abs=digit)
        comparable = counted
        if 'GFLOPs without stage 1 attention' in noted:
            comparable -= first_stage_attention(model.backbone, size)
            assert comparable == pytest.approx(noted['GFLOPs without stage 1 attention'], abs=digit)
        # 0.05 is half of the last digit that is published, which is more than 2 % of the smallest figure only.
        assert comparable == pytest.approx(noted.get('GFLOPs', comparable), rel=0.02, abs=0.05)
    else:
        assert 'GFLOPs' not in noted


@pytest.mark.parametrize('start', CLASSIFIERS)
def test_classifier_has_exactly_the_parameters_of_the_released_one(start):
    model = build_on_meta(Config.fromfile(config_named(f'{start}_')))
    assert sum(parameter.numel() for parameter in model.parameters()) == CLASSIFIERS[start]


def test_products_of_the_first_stage_are_what_the_counter_sees_of_them():
    """With ten blocks more in that stage and widths that are prime, so that no other term has the same size."""
    cfg = Config.fromfile(config_named('p2t-s_'))
    arch = dict(embed_dims=(7, 11, 13, 17), num_heads=(1, 1, 1, 1), mlp_ratios=(1, 1, 1, 1))
    size, counted, expected, linear = (152, 232), [], [], 38 * 58
    for depth in (1, 11):
        cfg.model.backbone.update(arch=dict(arch, depths=(depth, 1, 1, 1)))
        cfg.model.head.in_channels = 17
        model = build_on_meta(cfg).eval()
        counted.append(multiply_adds(cfg, model, size))
        expected.append(first_stage_attention(model.backbone, size))
    pooled = (3 * 5, 2 * 4, 2 * 3, 2 * 2)  # 38 and 58 over 12, 16, 20 and 24
    assert expected[0] == 2 * linear * sum(pooled) * 7 / 1e9
    # What a block has besides: query and output maps, keys and values, position encoding, the three layers of the FFN.
    rest = 2 * linear * 49 + sum(pooled) * (2 * 49 + 9 * 7) + linear * (2 * 49 + 9 * 7)
    assert counted[1] - counted[0] == pytest.approx(10 * (expected[0] + rest / 1e9), rel=1e-9)


def metadata(path):
    """The metafile's entry of a config."""
    index = yaml.safe_load((path.parent / 'metafile.yml').read_text())
    (model,) = [model for model in index['Models'] if model['Name'] == path.stem]
    return model['Metadata']


DECAYED = [path for path in CONFIGS if Config.fromfile(path).optim_wrapper.get('paramwise_cfg', {}).get('custom_keys')]


@pytest.mark.parametrize('path', DECAYED, ids=lambda path: path.stem)
def test_decay_rules_name_parameters_that_exist(path):
    cfg = Config.fromfile(path)
    model = build_on_meta(cfg)
    for key in cfg.optim_wrapper.paramwise_cfg.custom_keys:
        assert any(key in name for name, _ in model.named_parameters()), key


@configs
def test_config_trains_an_iteration_and_predicts_on_the_mini_data(path, mini_data, tmp_path):
    cfg = small_config(path, mini_data, tmp_path)
    runner = Runner.from_cfg(cfg)
    before = {name: p.detach().clone() for name, p in runner.model.named_parameters() if p.requires_grad}
    reached = set()
    for name, parameter in runner.model.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda _, name=name: reached.add(name))
    runner.train()
    # Several processes would otherwise need find_unused_parameters.
    assert reached == set(before), sorted(set(before) - reached)
    changed = [
        name for name, p in runner.model.named_parameters() if p.requires_grad and not torch.equal(p, before[name])
    ]
    assert len(changed) > len(before) // 2
    assert list(tmp_path.glob(f'{best_of(cfg)}_*_1.pth'))


@pytest.mark.parametrize(
    ('start', 'trained'),
    [
        ('faster-rcnn_tnt-s_', 'tnt-s_'),
        ('setr-mla_tnt-s_', 'tnt-s_'),
        ('sem-fpn_p2t-s_', 'p2t-s_'),
        ('retinanet_p2t-s_', 'p2t-s_'),
        ('mask-rcnn_p2t-s_', 'p2t-s_'),
        ('setr-superpixel_spformer-s16_', 'spformer-s16_'),
    ],
)
def test_a_backbone_trained_here_on_images_begins_a_segmentor_or_detector(
    start, trained, classifiers, mini_data, tmp_path
):
    """Everything of the backbone matches, says the report of the run, and everything is what the file holds."""
    classifier = classifiers(trained)
    cfg = pretrained_config(start, classifier, mini_data, tmp_path)
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.param_scheduler = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    loaded = dict(runner.model.backbone.named_parameters())
    counted = [name for name in runner.model.backbone.state_dict() if not name.endswith('num_batches_tracked')]
    (log,) = tmp_path.rglob('*.log')
    expected = (
        f'{classifier} -> backbone: {len(counted)} of {len(counted)} parameters matched, 0 missing, 0 unexpected, 0 of'
    )
    assert expected in log.read_text()
    stored = torch.load(classifier, map_location='cpu', weights_only=False)['state_dict']
    for name, value in loaded.items():
        assert torch.equal(value, stored[f'backbone.{name}']), name


def test_a_checkpoint_of_which_nothing_fits_is_refused(classifiers, mini_data, tmp_path):
    cfg = pretrained_config('sem-fpn_p2t-s_', classifiers('p2t-s_'), mini_data, tmp_path)
    del cfg.model.backbone.init_cfg.prefix
    with pytest.raises(UserError, match=r'0 of \d+ parameters matched'):
        Runner.from_cfg(cfg).train()


def pretrained_config(start, checkpoint, data, work_dir):
    """A small config that begins with the backbone of a checkpoint, as its full-size original does."""
    path = config_named(start)
    cfg = small_config(path, data, work_dir)
    cfg.model.backbone.init_cfg = dict(Config.fromfile(path).model.backbone.init_cfg, checkpoint=str(checkpoint))
    cfg.custom_hooks = [dict(type='mmvit_ext.WeightsReportHook')]
    return cfg


@pytest.fixture(scope='module')
def classifiers(mini_data, tmp_path_factory):
    """What a run of a classification config saves, by the beginning of its name."""

    @cache
    def train(start):
        work_dir = tmp_path_factory.mktemp('classifier')
        Runner.from_cfg(small_config(config_named(start), mini_data, work_dir)).train()
        return work_dir / 'epoch_1.pth'

    return train


@pytest.mark.parametrize(
    'name',
    [
        'segvit_vit-b16_8xb2-160k_ade',
        'segvit-shrunk_vit-l16_8xb2-80k_pascal-context-59',
        'sem-fpn_p2t-s_',
        'sem-fpn_p2t-mini_',
        'setr-superpixel_spformer-s16_8xb2-160k_ade20k',
        'setr-naive_deit-mini_',
    ],
)
def test_multi_scale_testing_averages_the_scores_of_twelve_views(name, mini_data, tmp_path, monkeypatch):
    (path,) = [path for path in CONFIGS if path.stem.startswith(name)]
    cfg = small_config(path, mini_data, tmp_path)
    views = []
    kind = MODELS.get(cfg.tta_model.type)
    merge = kind.merge_preds
    monkeypatch.setattr(kind, 'merge_preds', lambda self, x: views.extend(map(len, x)) or merge(self, x))
    cfg.model = dict(cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    metrics = Runner.from_cfg(cfg).test()
    assert views == [12, 12]
    assert 0 <= metrics['mIoU'] <= 100


@configs
def test_config_states_batch_command_and_where_its_figures_come_from(path):
    text, cfg = path.read_text(), Config.fromfile(path)
    record = ' '.join(text.split('"""')[1].split())
    processes, images = re.search(r'(\d+ GPUs|one process) x (\d+) images', record).groups()
    processes = 1 if processes == 'one process' else int(processes.split()[0])
    assert cfg.auto_scale_lr.base_batch_size == processes * int(images)
    assert cfg.train_dataloader.batch_size == int(images)
    named = re.search(r'_(\d+)xb(\d+)', path.stem)
    assert named is None or named.groups() == (str(processes), images)
    assert str(path.relative_to(ROOT)) in record
    assert len(text.splitlines()) <= 70
    assert 'Not trained here' in record or 'No row of a paper' in record


P2T = [path for path in CONFIGS if path.parent.name == 'p2t' and 'mini' not in path.stem]
P2T_DOWNSTREAM = [path for path in P2T if not path.stem.startswith('p2t')]
P2T_ABLATIONS = [path for path in P2T if path.stem.startswith('p2t-s-')]
ABBREVIATIONS = {'tiny': 'ti', 'small': 's', 'base': 'b', 'large': 'l'}
#: Learning rate, weight decay and schedules of arXiv 2106.12011; of classification those of the authors' log and DeiT.
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
            dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
            dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=300),
        ],
    ),
}


@pytest.mark.parametrize('path', P2T, ids=lambda path: path.stem)
def test_recipe_of_p2t_is_the_published_one(path):
    cfg = Config.fromfile(path)
    lr, weight_decay, schedulers = P2T_RECIPES[cfg.default_scope]
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', pytest.approx(lr), weight_decay)
    assert [dict(entry) for entry in cfg.param_scheduler] == [
        {name: pytest.approx(value) if isinstance(value, float) else value for name, value in entry.items()}
        for entry in schedulers
    ]
    clipped = dict(max_norm=10, norm_type=2) if path.stem.startswith('mask-rcnn_p2t-l_') else None
    assert cfg.optim_wrapper.get('clip_grad') == clipped
    assert 'paramwise_cfg' not in cfg.optim_wrapper
    arch = cfg.model.backbone.arch
    assert f'p2t-{ABBREVIATIONS[arch]}' in re.split('_fpn|_8xb', path.stem)[0]
    assert cfg.model.backbone.drop_path_rate == {'tiny': 0.1, 'small': 0.1, 'base': 0.3, 'large': 0.3}[arch]
    length = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
    assert length == {'mmseg': 80000, 'mmdet': 12, 'mmpretrain': 300}[cfg.default_scope]


@pytest.mark.parametrize('path', P2T_DOWNSTREAM, ids=lambda path: path.stem)
def test_a_downstream_config_begins_with_the_imagenet_weights_of_its_own_size(path):
    backbone = Config.fromfile(path).model.backbone
    assert backbone.init_cfg == dict(
        type='Pretrained', checkpoint=f'pretrain/p2t_{backbone.arch}.pth', prefix='backbone.'
    )


@pytest.mark.parametrize('path', P2T_ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_differs_from_the_full_network_in_its_switches_alone(path):
    full, ablated = (Config.fromfile(file).to_dict() for file in (config_named('p2t-s_'), path))
    switches = ablated['model']['backbone'].keys() - full['model']['backbone'].keys()
    assert switches
    assert switches <= {'pool_ratios', 'pool_type', 'with_rpe', 'ffn_type', 'overlapped', 'act_cfg'}
    for name in switches:
        del ablated['model']['backbone'][name]
    assert ablated == full


@pytest.mark.parametrize('path', P2T_ABLATIONS, ids=lambda path: path.stem)
def test_the_switches_of_an_ablation_can_be_set_in_a_segmentor(path):
    """As the model zoo page says, with the weights that the ablation trained."""
    backbone = Config.fromfile(path).model.backbone
    options = {
        f'model.backbone.{name}': value
        for name, value in backbone.items()
        if name not in Config.fromfile(config_named('p2t-s_')).model.backbone
    }
    cfg = load_config(
        config_named('sem-fpn_p2t-s_'), {**options, 'model.backbone.init_cfg.checkpoint': 'epoch_300.pth'}
    )
    segmentor, classifier = build_on_meta(cfg), build_on_meta(Config.fromfile(path))
    shapes = [{k: v.shape for k, v in model.backbone.state_dict().items()} for model in (segmentor, classifier)]
    assert shapes[0] == shapes[1]


SPFORMER = [path for path in CONFIGS if path.parent.name == 'spformer' and 'mini' not in path.stem]
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
    cfg = Config.fromfile(path)
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
    ours = Config.fromfile(path).to_dict()
    baseline = Config.fromfile(
        path.with_name(path.name.replace('setr-superpixel_spformer', 'setr-naive_deit'))
    ).to_dict()
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
    ours, baseline = (Config.fromfile(path).to_dict() for path in paths)
    networks = [build_on_meta(Config.fromfile(path)).backbone for path in paths]
    assert len({(len(network.layers), network.embed_dims, network.out_strides) for network in networks}) == 1
    for cfg in (ours, baseline):
        del cfg['model']['backbone'], cfg['model']['decode_head']
    assert ours == baseline


@pytest.mark.parametrize('name', SPFORMER_ABLATIONS)
def test_an_ablation_of_spformer_differs_from_the_full_network_in_its_switch_alone(name):
    full, ablated = (Config.fromfile(config_named(f'spformer-s32{end}_')) for end in ('', f'-{name}'))
    ablated, full = ablated.to_dict(), full.to_dict()
    for switch, value in SPFORMER_ABLATIONS[name].items():
        assert switch not in full['model']['backbone']
        assert ablated['model']['backbone'].pop(switch) == value
    assert ablated == full


def test_training_from_scratch_differs_in_the_start_alone():
    for path in SUPERPIXEL_SETR:
        if 'scratch' not in path.stem:
            scratch = Config.fromfile(path.with_name(re.sub('16_', '16-scratch_', path.name))).to_dict()
            assert scratch['model']['backbone'].pop('init_cfg') is None
            pretrained = Config.fromfile(path).to_dict()
            assert pretrained['model']['backbone'].pop('init_cfg')['prefix'] == 'backbone.'
            assert scratch == pretrained


def test_spformer_s32_needs_fewer_operations_than_deit_tiny():
    """Which the paper states, and which decides that pixels are not projected inside SCA."""
    cfg = Config.fromfile(config_named('spformer-s32_8xb128-300e_imagenet-224'))
    with torch.device('meta'):
        deit = ViT('tiny', patch_bias=True).eval()
    counted = count_flops(lambda: deit(torch.empty(1, 3, 224, 224, device='meta'))) / 2e9
    assert multiply_adds(cfg, build_on_meta(cfg).eval(), (224, 224)) < counted == pytest.approx(1.25, abs=0.01)
    cfg.model.backbone.pixel_qkv = 'shared'
    assert multiply_adds(cfg, build_on_meta(cfg).eval(), (224, 224)) > counted


def test_deit_begins_spformer(mini_data, tmp_path):
    """A converted file takes the place of a checkpoint of the classification config."""
    cfg = small_config(config_named('setr-superpixel_spformer-s16_'), mini_data, tmp_path)
    deit = ViT('small', embed_dims=WIDTH, num_heads=HEADS, mlp_ratio=2, img_size=EDGE * 2, patch_bias=True)
    deit.init_weights()
    names = [
        ('attn.attn.in_proj_', 'attn.qkv.'),
        ('attn.attn.out_proj', 'attn.proj'),
        ('ffn.layers.0.0', 'mlp.fc1'),
        ('ffn.layers.1', 'mlp.fc2'),
        ('layers', 'blocks'),
        ('ln', 'norm'),
        ('patch_embed.projection', 'patch_embed.proj'),
    ]
    theirs = {}
    for key, value in deit.state_dict().items():
        for ours, name in names:
            key = key.replace(ours, name)
        theirs[key] = value
    file = tmp_path / 'deit.pth'
    torch.save({'state_dict': convert(theirs, 'deit')}, file)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(file), prefix='backbone.')
    cfg.custom_hooks = [dict(type='mmvit_ext.WeightsReportHook')]
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.param_scheduler = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    (log,) = tmp_path.rglob('*.log')
    assert f'{file} -> backbone: 150 of 201 parameters matched' in log.read_text()
    last = dict(runner.model.backbone.named_parameters())['layers.11.ffn.layers.1.weight']
    assert torch.equal(last, deit.layers[11].ffn.layers[1].weight)


TNT_ABLATIONS = {
    'inner-heads1': dict(num_heads_inner=1),
    'inner-heads2': dict(num_heads_inner=2),
    'inner-heads6': dict(num_heads_inner=6),
    'inner-heads8': dict(num_heads_inner=8),
    'words64': dict(inner_stride=2),
    'words4': dict(inner_stride=8),
    'no-positions': dict(with_patch_pos=False, with_word_pos=False),
    'patch-positions': dict(with_word_pos=False),
    'word-positions': dict(with_patch_pos=False),
    'se': dict(with_se=True),
    'blocks1-4-8-12': dict(tnt_block_indices=(0, 3, 7, 11)),
    'block1': dict(tnt_block_indices=(0,)),
}
TNT_DOWNSTREAM = [path for path in CONFIGS if re.match(r'(?!tnt)\S+_tnt-s_', path.stem)]
NEST_DOWNSTREAM = [path for path in CONFIGS if re.match(r'(?!nest)\S+_nest-t_', path.stem)]


def test_every_ablation_of_tnt_is_listed_here():
    assert {path.stem.split('_')[0] for path in CONFIGS if path.stem.startswith('tnt-s-')} == {
        f'tnt-s-{name}' for name in TNT_ABLATIONS
    }


@pytest.mark.parametrize('name', TNT_ABLATIONS)
def test_an_ablation_of_tnt_differs_from_the_full_network_in_its_switches_alone(name):
    full, ablated = (Config.fromfile(config_named(f'tnt-s{end}_')).to_dict() for end in ('', f'-{name}'))
    for switch, value in TNT_ABLATIONS[name].items():
        assert switch not in full['model']['backbone']
        assert ablated['model']['backbone'].pop(switch) == value
    if name == 'no-positions':
        assert full['optim_wrapper']['paramwise_cfg']['custom_keys'].pop('_pos') == dict(decay_mult=0.0)
    assert ablated == full


@pytest.mark.parametrize('start', ['tnt-ti_', 'tnt-s_', 'tnt-b_'])
def test_recipe_of_tnt_is_the_published_one(start):
    """Epochs, optimiser, batch and drop path of arXiv 2103.00112; what has no direction does not decay."""
    cfg = Config.fromfile(config_named(start))
    assert dict(cfg.optim_wrapper.optimizer, betas=None) == dict(type='AdamW', lr=1e-3, betas=None, weight_decay=0.05)
    assert (cfg.train_cfg.max_epochs, cfg.auto_scale_lr.base_batch_size) == (300, 1024)
    assert (cfg.model.backbone.drop_path_rate, cfg.model.backbone.out_type) == (0.1, 'cls_token')
    model = build_on_meta(cfg)
    with torch.device('meta'):
        groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(group['params'][0])]: group['weight_decay'] == 0.05 for group in groups}
    expected = {name: p.ndim > 1 and not re.search('_pos|cls_token', name) for name, p in model.named_parameters()}
    assert decayed == expected
    assert sum(not value for value in expected.values()) > 3


@pytest.mark.parametrize(
    ('start', 'warmup', 'batch', 'drop_path'),
    [
        ('nest-t_', 20, 1024, 0.2),
        ('nest-s_', 20, 1024, 0.3),
        ('nest-b_', 20, 1024, 0.5),
        *(
            (f'nest-cifar-{size}_1xb256-300e_cifar{classes}-', 5, 256, rate)
            for size, rate in (('t', 0.2), ('s', 0.3), ('b', 0.5))
            for classes in (10, 100)
        ),
    ],
)
def test_recipe_of_nest_is_the_published_one(start, warmup, batch, drop_path):
    """That of arXiv 2105.12723: rates by batch, decay of all but the position embeddings, augmentation."""
    cfg = Config.fromfile(config_named(start))
    optimizer, (first, then) = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 2.5e-4 * batch / 256, 0.05)
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
    assert [steps['ColorJitter'][name] for name in ('brightness', 'contrast', 'saturation')] == [0.3] * 3
    assert (steps['RandAugment']['num_policies'], steps['RandAugment']['magnitude_level']) == (2, 9)
    assert (steps['RandAugment']['magnitude_std'], steps['RandomErasing']['erase_prob']) == (0.5, 0.25)
    assert cfg.train_dataloader.sampler.type == 'DefaultSampler'
    assert [(mix.type, mix.alpha) for mix in cfg.model.train_cfg.augments] == [('Mixup', 0.8), ('CutMix', 0.8)]
    assert cfg.model.head.loss.label_smooth_val == 0.1


@pytest.mark.parametrize('path', [*TNT_DOWNSTREAM, *NEST_DOWNSTREAM], ids=lambda path: path.stem)
def test_a_segmentor_or_detector_begins_with_weights_of_its_backbone(path):
    kind = re.search(r'_(tnt|nest)-', path.stem).group(1)
    backbone = Config.fromfile(path).model.backbone
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
    cfg = Config.fromfile(config_named(start))
    assert cfg.model.backbone.out_indices == (2, 5, 8, 11)[first:]
    model = build_on_meta(cfg)
    maps = model.neck[0](model.backbone(torch.empty(1, 3, 64, 96, device='meta')))
    assert [tuple(level.shape[2:]) for level in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)][first:]


@pytest.mark.parametrize('starts', [('setr-naive_tnt-mini', 'setr-naive_vit-mini'), ('nest-mini', 'vit-mini')])
def test_a_baseline_on_the_mini_data_has_the_same_budget_and_size(starts):
    """Data, schedule and all else but the learning rate, chosen for each; parameters of the networks within 2 %."""
    paths = [config_named(start) for start in starts]
    ours, baseline = (Config.fromfile(path).to_dict() for path in paths)
    sizes = [
        sum(parameter.numel() for parameter in build_on_meta(Config.fromfile(path)).backbone.parameters())
        for path in paths
    ]
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
    ours, other = (Config.fromfile(path).to_dict() for path in paths)
    sizes = [
        sum(parameter.numel() for parameter in build_on_meta(Config.fromfile(path)).generator.parameters())
        for path in paths
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    for cfg in (ours, other):
        cfg.pop('arch', None)
        assert cfg['model'].pop('generator')['type'].startswith('mmvit_ext.')
    assert ours == other


def test_nest_generator_of_64_pixels_has_the_published_five_levels():
    cfg = Config.fromfile(config_named('nest-generator_'))
    generator = build_on_meta(cfg).generator
    assert (len(generator.levels), generator.img_size, cfg.img_size) == (5, 64, 64)
    assert cfg.train_cfg.max_iters == 1000 * (1281167 // 256 + 1)
    assert cfg.auto_scale_lr.base_batch_size == 256


def test_training_images_of_the_mini_classifiers_can_be_cut_with_one_option(mini_data):
    for start in ('nest-mini', 'vit-mini'):
        options = {'data_root': str(mini_data['ImageNet']), 'train_dataloader.dataset.indices': 3}
        cfg = load_config(config_named(start), options)
        init_default_scope(scope_of(cfg))
        assert len(DATASET_REGISTRY.build(cfg.train_dataloader.dataset)) == 3
        assert len(DATASET_REGISTRY.build(cfg.val_dataloader.dataset)) == 4


PRETRAINED = [
    path
    for path in CONFIGS
    if (Config.fromfile(path).model.get('backbone', {}).get('init_cfg') or {}).get('type') == 'Pretrained'
]


@pytest.mark.parametrize('path', PRETRAINED, ids=lambda path: path.stem)
def test_pretrained_weights_can_be_left_out_with_one_option(path):
    cfg = load_config(path, {'model.backbone.init_cfg': None})
    assert cfg.model.backbone.init_cfg is None


def test_names_of_configs_are_unique():
    names = [path.name for path in CONFIGS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize('folder', sorted({path.parent for path in CONFIGS}), ids=lambda folder: folder.name)
def test_metafile_names_every_config_and_only_those(folder):
    index = yaml.safe_load((folder / 'metafile.yml').read_text())
    named = [ROOT / model['Config'] for model in index['Models']]
    assert sorted(named) == sorted(path for path in CONFIGS if path.parent == folder)
    for model in index['Models']:
        assert model['Name'] == (ROOT / model['Config']).stem
    assert str((folder / 'metafile.yml').relative_to(ROOT)) in (ROOT / 'model-index.yml').read_text()
