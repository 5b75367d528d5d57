"""Names of models: each builds and runs, the shipped configs say the same, unknown ones are answered."""

import copy
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
pytest.importorskip('timm')

import mmvit_ext
from mmvit_ext.config.building import build_model
from mmvit_ext.config.zoo import LIBRARIES, entry_of, list_models, model_config, task_config
from mmvit_ext.config.zoo.backbones import BACKBONES
from mmvit_ext.config.zoo.counting import count_model
from mmvit_ext.config.zoo.heads import HEADS
from mmvit_ext.errors import UserError
from tests.config_tools import CONFIGS, load

FEW = ['vit-t', 'tnt-t', 'nest-t', 'p2t-t', 'spformer-t', 'eva02-t', 'siglip2-b']
"""One backbone of each kind, with which every head is built."""

SHORT = {'-ti16': '-t', '-ti': '-t', '-t16': '-t', '-s16': '-s', '-b16': '-b', '-l16': '-l'}
"""How the names of the configs say sizes."""


def name_of(path):
    """The name that the zoo has for a config, None where it has none."""
    stem = re.sub(r'(_fpn)?_(\d+xb\d+|1x).*', '', path.stem)
    end = next((end for end in SHORT if stem.endswith(end)), '')
    name = stem.removesuffix(end) + SHORT.get(end, '')
    return name if name in list_models() else None


OTHERS = ('384x384', '-ti16_1xb8', '-mini', '_1xb4-', 'coco128', 'setr-naive_vit-b16', 'eomt-instance')
"""Recipes with another network: fine-tuned, of the demo, for photographs, without a class token, padded to a square."""

SHIPPED = {path: name for path in CONFIGS if (name := name_of(path)) and not any(part in path.name for part in OTHERS)}


def comparable(model):
    """A model without what belongs to a recipe: weights to begin with, sizes of images, drop path, windows."""
    model = ConfigDict(copy.deepcopy(model))
    model.data_preprocessor.pop('size', None)
    for name in ('init_cfg', 'checkpoint', 'img_size', 'drop_path_rate', 'patch_size'):  # the last is 16 in all
        model.backbone.pop(name, None)
    if 'decode_head' in model:
        model.test_cfg = {}
        model.pop('train_cfg', None)
        model.decode_head.pop('img_size', None)
    if model.type == 'FasterRCNN':  # the pyramid has the form of the published count of parameters, the mean no masks
        model.data_preprocessor.pop('pad_mask', None)
        model.neck[0].pop('form', None)
    indices = model.backbone.get('out_indices', -1)
    depth = {'ViT': 12, 'ShrunkViT': 12, 'TNT': 12, 'SPFormer': 12, 'NesT': 3, 'P2T': 4}
    depth = depth.get(model.backbone.type.rpartition('.')[2], 12) * (2 if model.backbone.get('arch') == 'large' else 1)
    if model.backbone.type == 'mmvit_ext.P2T' and 'out_indices' not in model.backbone:
        indices = (0, 1, 2, 3)
    given = (indices,) if isinstance(indices, int) else tuple(indices)
    model.backbone.out_indices = [index % depth if index < 0 else index for index in given]
    for node in [model.get('decode_head'), *([neck] if isinstance(neck := model.get('neck'), dict) else neck or [])]:
        if node and node.get('norm_cfg', {}).get('type') == 'SyncBN':
            node.norm_cfg.type = 'BN'
    return model.to_dict()


def test_names_of_shipped_configs_are_compared_with_the_zoo():
    assert len(SHIPPED) > 50
    assert {entry_of(name).head for name in SHIPPED.values()} >= set(HEADS) - {'upernet', 'linear', 'eomt-instance'}


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_has_the_model_of_its_name(path):
    cfg, name = load(path), SHIPPED[path]
    model = cfg.model
    if 'head' in model:
        classes = model.head.num_classes
    else:
        head = model.get('decode_head') or model.get('bbox_head') or model.roi_head.bbox_head
        classes = head.num_classes
        if 'roi_head' in model:
            for part in ('mask_roi_extractor', 'mask_head'):
                if model.roi_head.get(part, 0) is None:
                    model.roi_head.pop(part)
    ours = comparable(model_config(name, classes))
    assert ours == comparable(model)


def run_on_meta(name, **options):
    """Build a model and run it up to its head's outputs on an image whose sides are no multiples of anything."""
    entry = entry_of(name)
    cfg = Config(dict(model=model_config(name, 5, **options), default_scope=LIBRARIES[entry.task]))
    model = build_model(cfg, device='meta').eval()
    size = (96, 128) if entry.task == 'cls' else (90, 135)
    img = torch.empty(2, options.get('channels', 3), *size, device='meta')
    if entry.task == 'seg':
        assert model.encode_decode(img, [{'img_shape': size}] * 2).shape == (2, 5, *size)
    elif entry.task == 'cls':
        assert model.head(model.extract_feat(img)).shape == (2, 5)
    elif entry.head == 'eomt-instance':
        assert model.extract_feat(img).size == size
    else:
        maps = model.extract_feat(torch.empty(2, 3, 128, 192, device='meta'))
        strides = (8, 16, 32) if entry.head == 'retinanet' else (4, 8, 16, 32)
        assert [192 // found.shape[-1] for found in maps[: len(strides)]] == list(strides)
        assert all(found.shape[1] == 256 for found in maps)


@pytest.mark.parametrize('name', [name for kind in FEW for name in list_models(f'*{kind}') if name.endswith(kind)])
def test_every_head_goes_with_every_kind_of_backbone_that_it_names(name):
    run_on_meta(name, img_size=(96, 96))


@pytest.mark.parametrize('name', BACKBONES)
def test_every_backbone_is_as_wide_and_deep_as_its_row_says(name):
    row = BACKBONES[name]
    config = row.config(channels=3, img_size=None)
    if not row.plain:
        config.update(out_indices=(0, 1, 2, 3), **(dict(extra_dims=row.widths[-1]) if row.type == 'NesT' else {}))
    with torch.device('meta'):
        backbone = MODELS.build(config)
    assert backbone.out_channels == row.widths
    assert len(backbone.block_names) == row.depth
    assert backbone.out_strides == ((row.patch,) if row.plain else (4, 8, 16, 32))
    tokens = getattr(backbone, 'num_prefix_tokens', 1)
    assert row.type in ('NesT', 'P2T', 'SPFormer') or bool(tokens) == row.token


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('name', ['segvit_vit-t', 'sem-fpn_p2t-t', 'nest-t', 'linear_dinov2-s'])
def test_images_of_other_channels(name, channels):
    run_on_meta(name, channels=channels)


@pytest.mark.parametrize('name', [name for name, row in BACKBONES.items() if row.weights == 'timm'])
def test_rows_of_timm_say_what_timm_says(name):
    import timm

    row = BACKBONES[name]
    known = timm.models.get_pretrained_cfg(row.arch)
    assert [255 * value for value in (*known.mean, *known.std)] == pytest.approx(
        [*row.pixels[0], *row.pixels[1]], abs=1e-3
    )
    licence = {'apache-2.0': 'Apache-2.0', 'mit': 'MIT', 'cc-by-nc-4.0': 'CC BY-NC 4.0'}
    assert row.licence == licence.get(known.license, 'DINOv3 licence')
    assert row.patch == (14 if 'patch14' in row.arch else 16)


def test_unknown_names_are_answered_with_close_ones():
    with pytest.raises(UserError, match='did you mean segvit_vit-s'):
        entry_of('segvit_vit-small')
    with pytest.raises(UserError, match='setr-naive does not go with p2t-s'):
        entry_of('setr-naive_p2t-s')
    with pytest.raises(UserError, match='`mmvit models` lists'):
        entry_of('0')


@pytest.mark.parametrize(
    ('name', 'classes', 'parameters', 'operations'),
    [('nest-t', 1000, 17057608, 5.81), ('mask-rcnn_p2t-b', 80, 55720816, 385.9), ('segvit_vit-b', 150, None, 120.6)],
)
def test_counts_are_those_of_the_ledger(name, classes, parameters, operations):
    counted = count_model(name, classes)
    assert parameters in (None, counted[0])
    assert counted[1] / 1e9 == pytest.approx(operations, abs=0.05)


def test_patterns():
    assert list_models('segvit_vit-?') == ['segvit_vit-t', 'segvit_vit-s', 'segvit_vit-b', 'segvit_vit-l']
    assert 'mask-rcnn_p2t-t' in list_models('p2t-t')
    assert not list_models('nothing')


@pytest.mark.parametrize('name', ['linear_dinov2-s', 'retinanet_p2t-t', 'mask-rcnn_p2t-t', 'tnt-t'])
def test_a_name_is_a_config_that_predicts(name):
    cfg = task_config(name, 3, 64)
    assert cfg['test_dataloader']['dataset']['pipeline'][0]['type'] == 'LoadImageFromFile'
    assert cfg['default_scope'] == LIBRARIES[entry_of(name).task]
    with pytest.warns(UserWarning, match='random weights'):
        model = mmvit_ext.load(name, num_classes=3, size=64, device='cpu')
    result = model.predict(np.zeros((50, 70, 3), np.uint8))
    assert result.classes == ('class 0', 'class 1', 'class 2')
    assert result.image.shape == (50, 70, 3)
    assert set(result.labels.ravel()) <= {0, 1, 2}
    assert result.labels.shape == (50, 70) if name.startswith('linear') else len(result.scores) == len(result.labels)
