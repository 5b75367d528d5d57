"""Every config: what it says of itself, what its full-size model costs, and that its parts train and predict."""

import re
from functools import cache
from importlib.util import find_spec

import pytest
import torch
import yaml

pytest.importorskip('mmseg')

from mmengine.registry import DATASETS as DATASET_REGISTRY
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.utils import digit_version
from mmseg import __version__ as MMSEG
from mmseg.registry import MODELS

from mmvit_ext.checkpoints.convert import convert
from mmvit_ext.config.loading import load_config
from mmvit_ext.datasets.mini import DATA_ROOTS, make_mini_dataset
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.models.backbones import ViT
from tests.config_tools import (
    CONFIGS,
    EDGE,
    HEADS,
    ROOT,
    WIDTH,
    best_of,
    build_on_meta,
    built,
    config_named,
    first_stage_attention,
    load,
    multiply_adds,
    parts_of,
    published_size,
    scope_of,
    small_config,
    write_cifar,
    write_fine_grained,
    write_photographs,
)

configs = pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
DATASETS = {
    'ADE20KDataset': 'ade20k',
    'COCOStuffDataset': 'coco_stuff10k',
    'PascalContextDataset': 'pascal_context',
    'PascalContextDataset59': 'pascal_context',
    'CocoDataset': 'coco',
    'CocoPanopticDataset': 'coco',
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
    ours = {dataset: root / DATA_ROOTS[layout] for dataset, layout in DATASETS.items()}
    return ours | write_cifar(root) | write_fine_grained(root) | write_photographs(root)


@pytest.fixture(autouse=True)
def _cifar_without_checksums(monkeypatch):
    if find_spec('mmpretrain') is not None:
        monkeypatch.setattr('mmpretrain.datasets.cifar.check_md5', lambda *_: True)


@configs
def test_full_size_model_builds_and_costs_what_was_published(path):
    """Operations and parameters within 2 % of the paper's; rules of the optimiser name parameters that exist.

    The papers count multiply-adds of one forward pass at the crop's size, attention and the product that mixes the
    masks at full resolution included, interpolation, normalisation and activations not. P2T's count leaves out the two
    products of attention in the first stage: with that, all its sixteen published figures are met.
    """
    cfg, model, noted = load(path), built(path), metadata(path)
    for key in cfg.optim_wrapper.get('paramwise_cfg', {}).get('custom_keys', ()):
        assert any(key in name for name, _ in model.named_parameters()), key
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
    model = built(config_named(f'{start}_'))
    assert sum(parameter.numel() for parameter in model.parameters()) == CLASSIFIERS[start]


def test_products_of_the_first_stage_are_what_the_counter_sees_of_them():
    """With ten blocks more in that stage and widths that are prime, so that no other term has the same size."""
    cfg = load(config_named('p2t-s_'))
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
    (model,) = [model for model in metafile(path.parent)['Models'] if model['Name'] == path.stem]
    return model['Metadata']


@cache
def metafile(folder):
    return yaml.safe_load((folder / 'metafile.yml').read_text())


#: Configs that together have every part of all configs; see the test behind.
TRAINED = [
    'conv-generator_8xb32-1000e_imagenet-64x64',
    'mask-rcnn_nest-t_fpn_1x_coco',
    'nest-cifar-t_1xb192-300e_cifar100-32x32',
    'nest-generator-mini_1xb16-400_mini-imagenet-32x32',
    'nest-mini_1xb8-450_mini-imagenet-96x96',
    'nest-t_8xb128-300e_imagenet-224x224',
    'nest-nano_1xb64-20e_imagenette-128x128',
    'vit-nano_1xb64-20e_imagenette-128x128',
    'retinanet_nest-t_fpn_1x_coco',
    'sem-fpn_nest-t_8xb2-80k_ade20k-512x512',
    'vit-mini_1xb8-450_mini-imagenet-96x96',
    'mask-rcnn_p2t-mini_fpn_1xb8-20e_mini-coco',
    'mask-rcnn_p2t-ti_fpn_1x_coco',
    'p2t-mini_1xb8-450_mini-imagenet-96x96',
    'p2t-s-gelu_8xb128-300e_imagenet-224x224',
    'p2t-s-ladder-single_8xb128-300e_imagenet-224x224',
    'p2t-s-max-pooling_8xb128-300e_imagenet-224x224',
    'retinanet_p2t-mini_fpn_1xb4-6e_mini-coco',
    'retinanet_p2t-ti_fpn_1x_coco',
    'sem-fpn_p2t-mini_1xb8-400_mini-ade20k-192x192',
    'sem-fpn_p2t-ti_8xb2-80k_ade20k-512x512',
    'mask-rcnn_p2t-ti_fpn_1xb4-10e_nuclei-256x256',
    'mask-rcnn_r18_fpn_1xb4-14e_nuclei-256x256',
    'mask-rcnn_p2t-ti_fpn_1xb2-80e_coco128-320x320',
    'retinanet_p2t-ti_fpn_1xb4-20e_bccd-240x320',
    'retinanet_r18_fpn_1xb4-30e_bccd-240x320',
    'sem-fpn_p2t-ti_1xb4-3000_chase-db1-256x256',
    'sem-fpn_p2t-ti_1xb4-1000_drive-256x256',
    'sem-fpn_p2t-ti_1xb4-1800_camvid-288x384',
    'linear_vit-s14_1xb4-400_camvid-280x378',
    'sem-fpn_vit-s14_1xb4-400_camvid-280x378',
    'setr-naive_deit-t16_1xb4-800_camvid-288x384',
    'setr-superpixel_spformer-t16_1xb4-800_camvid-288x384',
    'segvit_vit-s14_1xb4-1200_camvid-392x518',
    'segvit-shrunk_vit-s14_1xb4-400_camvid-280x378',
    'eomt_vit-mini_1xb8-300_mini-ade20k-192x192',
    'eomt-instance_vit-mini_1xb8-20e_mini-coco',
    'eomt-panoptic_vit-s14_1xb4-16e_coco128-322x518',
    'eomt_vit-s14_1xb4-400_coco128-322x518',
    'eomt_vit-s14_1xb4-400_camvid-280x378',
    'eomt-fixed_vit-s14_1xb4-400_camvid-280x378',
    'eomt_dinov2-reg-l16_8xb2-40k_ade20k-512x512',
    'eomt_dinov2-reg-l16_8xb2-20k_cityscapes-1024x1024',
    'eomt-instance_dinov2-reg-l16_8xb2-12e_coco-640x640',
    'eomt-panoptic_dinov2-reg-l16_8xb2-12e_coco-640x640',
    'eomt-panoptic_vit-mini_1xb8-20e_mini-coco',
    'mask-rcnn_dinov2-b16_1x_coco',
    'segvit-shrunk_dinov2-s16_8xb2-160k_ade20k-512x512',
    'segvit_dinov2-b16_8xb2-160k_ade20k-512x512',
    'segvit_dinov2-l16_8xb2-160k_ade20k-640x640',
    'segvit_dinov3-l16_8xb2-160k_ade20k-640x640',
    'segvit_eva02-l16_8xb2-80k_pascal-context-59-480x480',
    'segvit_beitv2-l16_8xb2-80k_coco-stuff10k-512x512',
    'segvit-ce-layer12_vit-b16_8xb2-160k_ade20k-512x512',
    'segvit-qd_vit-ti16_1xb8-400_mini-ade20k-192x192',
    'segvit-shrunk-qkv_vit-l16_8xb2-160k_ade20k-640x640',
    'segvit-shrunk_vit-b16_8xb2-160k_ade20k-512x512',
    'segvit-shrunk_vit-l16_8xb2-80k_pascal-context-59-480x480',
    'segvit-shrunk_vit-ti16_1xb8-400_mini-ade20k-192x192',
    'segvit_swin-t_8xb2-160k_ade20k-512x512',
    'segvit_vit-l16_8xb2-80k_coco-stuff10k-512x512',
    'setr-naive_deit-t16_8xb2-80k_pascal-context-480x480',
    'setr-superpixel_spformer-mini_1xb8-300_mini-ade20k-192x192',
    'setr-superpixel_spformer-t16_8xb2-80k_pascal-context-480x480',
    'spformer-mini_1xb8-450_mini-imagenet-96x96',
    'spformer-s32-conv-stem_8xb128-300e_imagenet-224x224',
    'spformer-s32-learnable-positions_8xb128-300e_imagenet-224x224',
    'spformer-s32-one-head_8xb128-300e_imagenet-224x224',
    'spformer-s32-one-iteration_8xb128-300e_imagenet-224x224',
    'faster-rcnn_tnt-s_fpn_1x_coco',
    'mask-rcnn_tnt-s_fpn_1x_coco',
    'retinanet_tnt-s_fpn_1x_coco',
    'segvit_tnt-s_8xb2-160k_ade20k-512x512',
    'sem-fpn-simple_tnt-s_8xb2-80k_ade20k-512x512',
    'setr-mla_tnt-s_8xb2-160k_ade20k-512x512',
    'setr-naive_tnt-mini_1xb8-300_mini-ade20k-192x192',
    'setr-naive_vit-mini_1xb8-300_mini-ade20k-192x192',
    'tnt-nano_1xb64-20e_imagenette-128x128',
    'tnt-s_8xb128-64e_cifar10-384x384',
    'tnt-s_8xb128-64e_imagenet-384x384',
    'tnt-s_8xb128-300e_flowers102-384x384',
    'tnt-s_8xb128-300e_pets-384x384',
    'tnt-s_8xb128-300e_inat2019-384x384',
    'tnt-s-blocks1-4-8-12_8xb128-300e_imagenet-224x224',
    'tnt-s-inner-heads8_8xb128-300e_imagenet-224x224',
    'tnt-s-no-positions_8xb128-300e_imagenet-224x224',
    'tnt-s-se_8xb128-300e_imagenet-224x224',
    'nest-b_8xb128-100e_imagenet-224x224',
    'tnt-s-words64_8xb128-300e_imagenet-224x224',
]


def test_every_part_of_a_config_is_in_one_that_is_trained():
    """Base files, types and options; another width, schedule or checkpoint alone makes no other program."""
    trained = set().union(*(parts_of(config_named(name)) for name in TRAINED))
    for path in CONFIGS:
        assert parts_of(path) <= trained, f'add {path.stem}, or another one with these, to TRAINED'


@pytest.mark.parametrize('start', TRAINED)
def test_config_trains_an_iteration_and_predicts_on_the_mini_data(start, mini_data, tmp_path):
    cfg = small_config(config_named(start), mini_data, tmp_path)
    if start.startswith('sem-fpn_p2t-ti_1xb4-1800_camvid') and digit_version(MMSEG) < digit_version('1.3'):
        pytest.skip('this mmsegmentation cannot average a weighted loss where labels are void')
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
    cfg.model.backbone.init_cfg = dict(load(path).model.backbone.init_cfg, checkpoint=str(checkpoint))
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
    cfg = small_config(config_named(name), mini_data, tmp_path)
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
    """And its pretrained weights, where it has some, can be left out with one option."""
    text, cfg = path.read_text(), load(path)
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
    if cfg.model.get('backbone', {}).get('init_cfg'):
        assert load_config(path, {'model.backbone.init_cfg': None}).model.backbone.init_cfg is None


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


def test_training_images_of_the_mini_classifiers_can_be_cut_with_one_option(mini_data):
    for start in ('nest-mini', 'vit-mini'):
        options = {'data_root': str(mini_data['ImageNet']), 'train_dataloader.dataset.indices': 3}
        cfg = load_config(config_named(start), options)
        init_default_scope(scope_of(cfg))
        assert len(DATASET_REGISTRY.build(cfg.train_dataloader.dataset)) == 3
        assert len(DATASET_REGISTRY.build(cfg.val_dataloader.dataset)) == 4


def test_names_of_configs_are_unique():
    names = [path.name for path in CONFIGS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize('folder', sorted({path.parent for path in CONFIGS}), ids=lambda folder: folder.name)
def test_metafile_names_every_config_and_only_those(folder):
    index = metafile(folder)
    named = [ROOT / model['Config'] for model in index['Models']]
    assert sorted(named) == sorted(path for path in CONFIGS if path.parent == folder)
    for model in index['Models']:
        assert model['Name'] == (ROOT / model['Config']).stem
    assert str((folder / 'metafile.yml').relative_to(ROOT)) in (ROOT / 'model-index.yml').read_text()
