"""Configs whose images are normalised in another way than those of the pretrained weights."""

from typing import Any

import pytest
from mmengine.config import Config

from mmvit_ext.checks.normalisation import check_normalisation

pytest.importorskip('timm')

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
FLAGS = {'mmseg': 'bgr_to_rgb', 'mmdet': 'bgr_to_rgb', 'mmpretrain': 'to_rgb'}


def config(scope: str, model: str = 'vit_small_patch14_dinov2', backbone: Any = None, **preprocessor: Any) -> Config:
    """A config as its library has it: mmpretrain's data preprocessor stands beside the model."""
    pytest.importorskip(scope)
    network = {'type': 'mmvit_ext.TimmViT', 'model': model, 'checkpoint': 'timm', **(backbone or {})}
    if scope == 'mmpretrain':
        return Config({'model': {'backbone': network}, 'data_preprocessor': preprocessor})
    return Config({'model': {'backbone': network, 'data_preprocessor': preprocessor}})


@pytest.mark.parametrize('scope', FLAGS)
def test_the_same_normalisation_is_no_matter(scope: str) -> None:
    agreeing = config(scope, mean=MEAN, std=STD, **{FLAGS[scope]: True})
    assert check_normalisation(agreeing, scope, 'train') == []
    rounded = config(scope, mean=[124, 116, 104], std=[58.4, 57.1, 57.4], **{FLAGS[scope]: True})
    assert check_normalisation(rounded, scope, 'test') == []


@pytest.mark.parametrize('scope', FLAGS)
def test_both_numbers_and_the_arguments_to_change_are_named(scope: str) -> None:
    key = 'data_preprocessor' if scope == 'mmpretrain' else 'model.data_preprocessor'
    (line,) = check_normalisation(config(scope, mean=[127.5] * 3, std=STD, **{FLAGS[scope]: True}), scope, 'train')
    assert line == (
        'the weights of vit_small_patch14_dinov2 expect RGB images with mean 123.675, 116.28, 103.53 and std 58.395, '
        '57.12, 57.375, the config gives RGB images with mean 127.5, 127.5, 127.5 and std 58.395, 57.12, 57.375: set '
        f'{key}.mean=[123.675, 116.28, 103.53]'
    )
    (line,) = check_normalisation(config(scope, mean=MEAN, std=STD), scope, 'train')
    assert 'gives BGR images' in line
    assert line.endswith(f': set {key}.{FLAGS[scope]}=True')
    (line,) = check_normalisation(config(scope), scope, 'train')
    assert 'gives BGR images with mean 0, 0, 0 and std 1, 1, 1: set' in line
    assert line.count(f'{key}.') == 3


def test_the_tag_of_the_name_decides() -> None:
    clip = {'mean': [122.771, 116.746, 104.094], 'std': [68.5, 66.632, 70.323], 'bgr_to_rgb': True}
    assert not check_normalisation(config('mmseg', 'vit_base_patch16_clip_224.openai', **clip), 'mmseg', 'train')
    half = {'mean': [127.5], 'std': [127.5], 'bgr_to_rgb': True}
    assert not check_normalisation(config('mmseg', 'vit_base_patch16_224.augreg_in21k', **half), 'mmseg', 'train')
    assert check_normalisation(config('mmseg', 'vit_base_patch16_224.mae', **half), 'mmseg', 'train')


@pytest.mark.parametrize(
    'backbone',
    [
        {'checkpoint': None},
        {'checkpoint': None, 'init_cfg': {'type': 'TruncNormal', 'layer': 'Linear'}},
        {'in_channels': 4},
        {'model': 'vit_small_patch14_dinov2.unknown_tag'},
        {'model': 'no_such_network'},
        {'type': 'VisionTransformer'},
    ],
    ids=str,
)
def test_nothing_is_said_without_published_weights(backbone: dict[str, Any]) -> None:
    assert check_normalisation(config('mmseg', backbone=backbone), 'mmseg', 'train') == []


@pytest.mark.parametrize('init_cfg', [{'type': 'Pretrained', 'checkpoint': 'x.pth'}, [{'type': 'PretrainedInit'}]])
def test_weights_of_an_init_cfg_count_as_well(init_cfg: Any) -> None:
    cfg = config('mmseg', backbone={'checkpoint': None, 'init_cfg': init_cfg})
    assert len(check_normalisation(cfg, 'mmseg', 'train')) == 1


def test_a_step_of_the_pipeline_counts_where_the_preprocessor_has_no_mean() -> None:
    cfg = config('mmseg', size=(64, 64))
    for split, step in (('train', {'mean': MEAN, 'std': STD}), ('test', {'mean': [0.0] * 3, 'std': STD})):
        steps = [{'type': 'LoadImageFromFile'}, {'type': 'Normalize', **step}]
        cfg[f'{split}_dataloader'] = {'dataset': {'type': 'RepeatDataset', 'dataset': {'type': 'A', 'pipeline': steps}}}
    assert check_normalisation(cfg, 'mmseg', 'train') == []
    (line,) = check_normalisation(cfg, 'mmseg', 'test')
    assert line.endswith(': set test_dataloader.dataset.dataset.pipeline.1.mean=[123.675, 116.28, 103.53]')
    cfg.model.data_preprocessor['bgr_to_rgb'] = True  # turned back by the preprocessor
    (line,) = check_normalisation(cfg, 'mmseg', 'train')
    assert 'the config gives BGR images' in line
