"""SegViT's Shrunk structure on timm's networks: TimmViT with fewer tokens from a block on, ShrunkATMHead behind it."""

import pytest
import torch
from mmengine.structures import PixelData

pytest.importorskip('timm')
pytest.importorskip('mmseg')

from mmengine.config import Config
from mmseg.structures import SegDataSample

from mmvit_ext.config.building import build_model
from tests.zoo import BACKBONES

FAMILIES = {
    'DeiT III': 'LayerScale',
    'DINOv2 with registers': 'LayerScale and registers',
    'DINOv3': 'LayerScale, registers and rotary positions',
    'EVA-02': 'rotary positions and SwiGLU',
}
SIZES = [(41, 67), (64, 48), (9, 90)]


def segmentor(family):
    torch.manual_seed(0)
    tiny = BACKBONES[family].tiny
    model = build_model(
        Config(
            {
                'default_scope': 'mmseg',
                'model': {
                    'type': 'EncoderDecoder',
                    'backbone': {'type': 'mmvit_ext.TimmViT', **tiny, 'shrink_index': 1, 'out_indices': (0, 2)},
                    'decode_head': {
                        'type': 'mmvit_ext.ShrunkATMHead',
                        'in_channels': [24, 24],
                        'channels': 12,
                        'num_classes': 5,
                        'img_size': (48, 64),
                        'query_stride': 8,
                        'num_heads': 3,
                        'num_layers': 1,
                    },
                    'train_cfg': {},
                    'test_cfg': {'mode': 'whole'},
                },
            }
        ),
        training=True,
    )
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.normal_(std=0.2)
    return model


def samples(size):
    labels = PixelData(data=torch.randint(0, 5, (1, *size)))
    shapes = {'img_shape': size, 'ori_shape': size, 'pad_shape': size}
    return [SegDataSample(metainfo=shapes, gt_sem_seg=labels) for _ in range(2)]


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('family', FAMILIES)
def test_a_step_of_training_changes_all_parts_and_predictions_have_the_full_grid(family, size):
    model = segmentor(family).train()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    losses = model.loss(torch.randn(2, 3, *size), samples(size))
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    optimizer.step()
    unchanged = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert not unchanged
    model.eval()
    with torch.no_grad():
        (sample, _) = model.predict(torch.randn(2, 3, *size), samples(size))
    assert sample.pred_sem_seg.shape == size
    assert sample.seg_logits.data.isfinite().all()


@pytest.mark.parametrize('family', FAMILIES)
@torch.no_grad()
def test_the_head_brings_the_masks_back_to_the_full_grid(family):
    """The masks have the grid of the tokens in front of the shrinking block, and differ within its 2x2 places."""
    model = segmentor(family).eval()
    for size in SIZES:
        maps = model.extract_feat(torch.randn(2, 3, *size))
        h, w = -(-size[0] // 8), -(-size[1] // 8)
        assert [tuple(out.shape[2:]) for out in maps] == [(h, w), ((h + 1) // 2, (w + 1) // 2)]
        for stage in model.decode_head.decode(maps):
            assert stage.masks.shape == (2, 5, h, w)
            assert (stage.masks[..., : h // 2 * 2 : 2, :] != stage.masks[..., 1::2, :]).any()
            assert (stage.masks[..., : w // 2 * 2 : 2] != stage.masks[..., 1::2]).any()
