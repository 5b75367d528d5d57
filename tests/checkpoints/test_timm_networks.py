"""Converted weights of timm's own networks, where timm is installed; it is not among this package's dependencies."""

from typing import Any

import pytest
import torch
from mmpretrain.registry import MODELS

from mmvit_ext.checkpoints.convert import METHODS

timm = pytest.importorskip('timm')
HEAD = {'type': 'LinearClsHead', 'num_classes': 1000, 'in_channels': 384}


@pytest.mark.parametrize(
    ('name', 'backbone'),
    [
        ('tnt_s_patch16_224', {}),
        ('tnt_s_legacy_patch16_224', {'word_padding': 'image', 'word_norm': 'word'}),
        ('nest_tiny_jx', {}),
    ],
)
def test_logits_are_those_of_timm(name: str, backbone: dict[str, str]) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False).eval()
    for parameter in theirs.parameters():
        if parameter.dim() < 2:
            torch.nn.init.normal_(parameter, std=0.05)
    cfg: dict[str, Any] = {'type': 'mmpretrain.ImageClassifier', 'head': HEAD}
    if name.startswith('tnt'):
        convert = METHODS['tnt']
        backbone = {'type': 'mmvit_ext.TNT', 'arch': 'small', 'out_type': 'cls_token', **backbone}
    else:
        convert, cfg['neck'] = METHODS['nest'], {'type': 'GlobalAveragePooling'}
        backbone = {'type': 'mmvit_ext.NesT', 'arch': 'tiny', **backbone}
    ours = MODELS.build({**cfg, 'backbone': {**backbone, 'out_indices': -1}}).eval()
    ours.load_state_dict(convert(theirs.state_dict()), strict=True)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours.head(ours.extract_feat(images)), theirs(images), rtol=1e-4, atol=1e-6)
