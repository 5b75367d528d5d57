"""Detectors whose maps have other strides than their anchors, points or regions."""

from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmvit_ext.checks.before_run import check_strides
from mmvit_ext.errors import UserError

pytest.importorskip('mmdet')

VIT = {'type': 'mmvit_ext.ViT', 'embed_dims': 24, 'num_layers': 4, 'num_heads': 2, 'img_size': 64}
VIT |= {'out_indices': (0, 1, 2, 3), 'with_cls_token': False}
FPN = {'type': 'FPN', 'in_channels': [24] * 4, 'out_channels': 16, 'num_outs': 5}
PYRAMID = {'type': 'mmvit_ext.PlainPyramid', 'in_channels': [24] * 4}
LOSS = {'type': 'SmoothL1Loss'}
CODER = {'type': 'DeltaXYWHBBoxCoder'}


def anchors(*strides: float) -> dict[str, Any]:
    return {'type': 'AnchorGenerator', 'scales': [8], 'ratios': [1.0], 'strides': list(strides)}


def single(head: dict[str, Any]) -> dict[str, Any]:
    return {
        'type': 'SingleStageDetector',
        'bbox_head': {'num_classes': 2, 'in_channels': 16, 'feat_channels': 16, **head},
    }


RETINA = single({'type': 'RetinaHead', 'anchor_generator': anchors(4, 8, 16, 32, 64)})
FCOS = single({'type': 'FCOSHead', 'norm_cfg': None, 'strides': [4, 8, 16, 32, 64]})


def two_stage(regions: list[int]) -> dict[str, Any]:
    layer = {'type': 'RoIAlign', 'output_size': 7, 'sampling_ratio': 0}
    extractor = {'type': 'SingleRoIExtractor', 'roi_layer': layer, 'out_channels': 16, 'featmap_strides': regions}
    box = {'type': 'Shared2FCBBoxHead', 'in_channels': 16, 'fc_out_channels': 8, 'num_classes': 2}
    rpn = {'type': 'RPNHead', 'in_channels': 16, 'feat_channels': 16, 'anchor_generator': anchors(4, 8, 16, 32, 64)}
    roi = {'type': 'StandardRoIHead', 'bbox_roi_extractor': extractor, 'bbox_head': box}
    return {
        'type': 'FasterRCNN',
        'train_cfg': None,
        'test_cfg': {'rpn': {}, 'rcnn': {}},
        'rpn_head': rpn,
        'roi_head': roi,
    }


def config(detector: dict[str, Any], *neck: dict[str, Any], **backbone: Any) -> Config:
    init_default_scope('mmdet')
    model = {**detector, 'backbone': {**VIT, **backbone}, 'neck': list(neck)}
    model['data_preprocessor'] = {'type': 'DetDataPreprocessor'}
    return Config({'default_scope': 'mmdet', 'model': model})


@pytest.mark.parametrize('detector', [RETINA, FCOS, two_stage([4, 8, 16, 32])], ids=['anchors', 'points', 'regions'])
def test_maps_of_one_stride_are_refused_and_a_pyramid_is_not(detector: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r'strides 4, 8, 16, 32, 64, but .* 16, 16, 16, 16, 32, .*PlainPyramid'):
        check_strides(config(detector, FPN))
    assert check_strides(config(detector, PYRAMID, FPN)) == []


def test_regions_and_levels_that_no_map_is_left_for_are_compared_too() -> None:
    with pytest.raises(UserError, match=r'bbox_roi_extractor\.featmap_strides is made for .* 8, 16, 32, 64'):
        check_strides(config(two_stage([8, 16, 32, 64]), PYRAMID, FPN))
    with pytest.raises(UserError, match='strides 4, 8, 16, 32, 64, but its maps have the strides 4, 8, 16, 32,'):
        check_strides(config(RETINA, PYRAMID, {**FPN, 'num_outs': 4}))
    with pytest.raises(UserError, match='strides 3'):  # of a map that is not a multiple: patches of 14 pixels
        check_strides(config(single({'type': 'RetinaHead', 'anchor_generator': anchors(3)}), FPN, patch_size=14))


def test_what_cannot_be_measured_is_a_line_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmdet.models.necks import FPN as Neck

    def broken(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(Neck, 'forward', broken)
    assert 'not compared' in check_strides(config(RETINA, FPN))[0]


def test_strides_of_one_image_size_and_what_cannot_be_built_yet_are_left_to_the_run() -> None:
    assert check_strides(config(single({'type': 'RetinaHead', 'anchor_generator': anchors(7.97)}), FPN)) == []
    synced = config({**RETINA, 'bbox_head': {**RETINA['bbox_head'], 'norm_cfg': {'type': 'Unknown'}}}, FPN)
    assert 'not compared' in check_strides(synced)[0]
