"""Every family of timm's networks in every slot of the libraries, at full width and four blocks, on the meta device."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmvit_ext.config.building import build_model

pytest.importorskip('timm')
pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')

ROOT = Path(__file__).parents[2]
FAMILIES = {
    'AugReg': 'vit_base_patch16_224',
    'DeiT III': 'deit3_base_patch16_224',
    'MAE': 'vit_base_patch16_224.mae',
    'BEiT': 'beit_base_patch16_224',
    'BEiT v2': 'beitv2_base_patch16_224',
    'EVA-02': 'eva02_base_patch14_224',
    'DINOv2': 'vit_base_patch14_dinov2',
    'DINOv2 with registers': 'vit_base_patch14_reg4_dinov2',
    'DINOv3': 'vit_base_patch16_dinov3',
    'CLIP': 'vit_base_patch16_clip_224',
    'SigLIP 2': 'vit_base_patch16_siglip_256.v2_webli',
    'SAM': 'samvit_base_patch16',
}


def heads(width):
    """The decode heads that are mmseg's or ours, with necks where they need several strides."""
    four = {'in_channels': [width] * 4, 'in_index': [0, 1, 2, 3], 'num_classes': 19}
    one = {'in_channels': width, 'in_index': 3, 'num_classes': 19, 'channels': 64, 'norm_cfg': {'type': 'BN'}}
    pyramid = {'type': 'mmvit_ext.PlainPyramid', 'in_channels': [width] * 4}
    resized = {'type': 'MultiLevelNeck', 'in_channels': [width] * 4, 'out_channels': width, 'scales': [4, 2, 1, 0.5]}
    fused = {'type': 'FPN', 'in_channels': [width] * 4, 'out_channels': 64, 'num_outs': 4}
    return {
        'ATM': ({'type': 'mmvit_ext.ATMHead', **four, 'channels': 192, 'num_heads': 12, 'num_layers': 3}, None),
        'SETR-naive': ({'type': 'SETRUPHead', **one, 'num_convs': 1, 'up_scale': 4, 'kernel_size': 1}, None),
        'SETR-PUP': ({'type': 'SETRUPHead', **one, 'num_convs': 4, 'up_scale': 2, 'kernel_size': 3}, None),
        'SETR-MLA': (
            {
                'type': 'SETRMLAHead',
                **four,
                'in_channels': [64] * 4,
                'channels': 128,
                'mla_channels': 32,
                'norm_cfg': {'type': 'BN'},
            },
            {'type': 'MLANeck', 'in_channels': [width] * 4, 'out_channels': 64, 'norm_cfg': {'type': 'BN'}},
        ),
        'Semantic FPN': (
            {
                'type': 'FPNHead',
                **four,
                'in_channels': [64] * 4,
                'channels': 32,
                'feature_strides': [4, 8, 16, 32],
                'norm_cfg': {'type': 'BN'},
            },
            [pyramid, fused],
        ),
        'UPerNet': (
            {'type': 'UPerHead', **four, 'channels': 64, 'pool_scales': (1, 2, 3, 6), 'norm_cfg': {'type': 'BN'}},
            resized,
        ),
        'linear': ({'type': 'FCNHead', **one, 'channels': width, 'num_convs': 0, 'concat_input': False}, None),
    }


def build(model, scope):
    return build_model(Config({'model': model, 'default_scope': scope}), device='meta')


def backbone_of(family, **more):
    return {'type': 'mmvit_ext.TimmViT', 'model': FAMILIES[family], 'depth': 4, 'out_indices': (0, 1, 2, 3), **more}


@pytest.mark.parametrize('family', FAMILIES)
def test_every_decode_head(family):
    width = 256 if family == 'SAM' else 768
    for name, (head, neck) in heads(width).items():
        model = build(
            {
                'type': 'EncoderDecoder',
                'backbone': backbone_of(family),
                'neck': neck,
                'decode_head': copy.deepcopy(head),
                'train_cfg': {},
                'test_cfg': {'mode': 'whole'},
            },
            'mmseg',
        )
        img = torch.zeros(2, 3, 64, 96, device='meta')
        logits = model.eval().encode_decode(
            img, [{'ori_shape': (64, 96), 'img_shape': (64, 96), 'pad_shape': (64, 96)}]
        )
        assert logits.shape == (2, 19, 64, 96), name


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('file', ['retinanet_p2t', 'mask-rcnn_p2t', 'faster-rcnn'])
def test_every_detector(family, file):
    width = 256 if family == 'SAM' else 768
    base = 'mask-rcnn_p2t' if file == 'faster-rcnn' else file
    model = Config.fromfile(ROOT / f'configs/_base_/models/{base}.py').model
    if file == 'faster-rcnn':
        model.type = 'FasterRCNN'
        for name in ('mask_roi_extractor', 'mask_head'):
            model.roi_head.pop(name)
    scales = (2, 1, 0.5) if file == 'retinanet_p2t' else (4, 2, 1, 0.5)
    model.backbone = backbone_of(family, out_indices=-1)
    pyramid = {'type': 'mmvit_ext.PlainPyramid', 'in_channels': width, 'scales': scales}
    model.neck = {**pyramid, 'out_channels': 256, 'num_outs': 5}
    detector = build(model, 'mmdet').eval()
    maps = detector.extract_feat(torch.zeros(2, 3, 128, 192, device='meta'))
    assert [tuple(out.shape[1:2]) for out in maps] == [(256,)] * 5
    tokens = -(-192 // detector.backbone.out_strides[0])
    assert [out.shape[3] for out in maps[: len(scales)]] == [int(tokens * scale) for scale in scales]


@pytest.mark.parametrize('family', FAMILIES)
def test_classification(family):
    with_token = family not in ('SigLIP 2', 'SAM')
    classifier = build(
        {
            'type': 'ImageClassifier',
            'backbone': backbone_of(family, out_indices=-1, out_type='cls_token' if with_token else 'avg_featmap'),
            'head': {'type': 'LinearClsHead', 'num_classes': 10, 'in_channels': 256 if family == 'SAM' else 768},
        },
        'mmpretrain',
    )
    scores = classifier.head(classifier.eval().extract_feat(torch.zeros(2, 3, 64, 64, device='meta')))
    assert scores.shape == (2, 10)
