"""Position embeddings of files whose grid has another shape, told or not, through each way into a model."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmvit_ext.checkpoints.reading import extract_state_dict, read_checkpoint
from mmvit_ext.checkpoints.report import load_weights
from mmvit_ext.checkpoints.safe_loading import safe_loading
from mmvit_ext.models import TNT, NesT, SPFormer, ViT
from mmvit_ext.models.decode_heads import ShrunkATMHead
from mmvit_ext.models.superpixels.attention import LearnedPosition

WIDE, SQUARE = (96, 384), (192, 192)  # with patches of 16: 6 x 24 and 12 x 12, 144 both


def nest(size: tuple[int, int]) -> nn.Module:
    arch = {'embed_dims': (8,), 'depths': (1,), 'num_heads': (1,)}
    return NesT(arch, img_size=size, patch_size=16, block_size=6, out_indices=0)


def shrunk(size: tuple[int, int]) -> nn.Module:
    return ShrunkATMHead([8, 8], 8, num_classes=2, img_size=size, num_heads=1, num_layers=1)


NETWORKS: dict[str, tuple[Any, str]] = {
    'ViT': (lambda size: ViT(embed_dims=8, num_layers=1, num_heads=1, img_size=size, out_indices=0), 'pos_embed'),
    'TNT': (lambda size: TNT('tiny', img_size=size), 'patch_pos'),
    'SPFormer': (lambda size: SPFormer('tiny', img_size=size), 'pos_embeds.1'),
    'NesT': (nest, 'levels.0.pos_embed'),
    'SCA': (lambda size: LearnedPosition(8, (size[0] // 16, size[1] // 16)), 'pos_embed'),
    'Shrunk': (shrunk, 'position_queries.weight'),
}


def plane(tokens: Tensor, h: int, w: int) -> Tensor:
    """The last h*w tokens as a map."""
    return tokens.detach().reshape(-1, tokens.shape[-1])[-h * w :].reshape(h, w, -1)


def filled(network: str) -> tuple[dict[str, Tensor], str, Tensor]:
    """A state dict of a square network, the name of its embedding, and what it has to become in a wide one."""
    make, name = NETWORKS[network]
    torch.manual_seed(0)
    state = make(SQUARE).state_dict()
    state[name].normal_()
    ours = plane(state[name], 12, 12).permute(2, 0, 1)[None]
    wide = F.interpolate(ours, size=(6, 24), mode='bicubic', align_corners=False)[0].permute(1, 2, 0)
    return state, name, wide


@pytest.mark.parametrize('network', NETWORKS)
def test_a_told_grid_is_resized_where_the_counts_are_equal(network: str, tmp_path: Path) -> None:
    state, name, wide = filled(network)
    make, _ = NETWORKS[network]
    torch.save({'state_dict': state}, tmp_path / 'a.pth')
    by_file = extract_state_dict(read_checkpoint(tmp_path / 'a.pth'), 'a.pth')
    for weights in (state, by_file):
        model = make(WIDE)
        assert load_weights(model, weights).exact
        torch.testing.assert_close(plane(model.state_dict()[name], 6, 24), wide)
    back = make(SQUARE)
    back.load_state_dict(make(WIDE).state_dict() | {}, strict=True)  # a dict of the same tensors, without metadata


class Holder(BaseModule):
    """A backbone under another name, as segmentors have it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


def test_the_grid_is_told_through_a_prefix_and_a_wide_file_goes_into_a_square_model(tmp_path: Path) -> None:
    make, _ = NETWORKS['ViT']
    holder = Holder(make(WIDE))
    nn.init.normal_(holder.backbone.pos_embed)
    torch.save({'state_dict': holder.state_dict()}, tmp_path / 'a.pth')
    init = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'a.pth'), 'prefix': 'backbone.'}
    model = ViT(embed_dims=8, num_layers=1, num_heads=1, img_size=SQUARE, out_indices=0, init_cfg=init)
    with safe_loading():
        model.init_weights()
    wide = plane(holder.backbone.pos_embed, 6, 24).permute(2, 0, 1)[None]
    expected = F.interpolate(wide, size=(12, 12), mode='bicubic', align_corners=False)[0].permute(1, 2, 0)
    torch.testing.assert_close(plane(model.pos_embed, 12, 12), expected)


def test_a_grid_that_is_not_told_is_guessed_square_and_said(caplog: pytest.LogCaptureFixture) -> None:
    state, name, wide = filled('ViT')
    make, _ = NETWORKS['ViT']
    logger = MMLogger.get_instance('positions')
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING):
        model = make(WIDE)
        model.load_state_dict(dict(state))
    torch.testing.assert_close(plane(model.pos_embed, 6, 24), wide)
    assert 'does not tell the grid of its 144 tokens, which is taken to be 12x12; this model has 6x24' in caplog.text
    caplog.clear()
    make(SQUARE).load_state_dict(dict(state))
    assert 'does not tell' not in caplog.text
    strip = {**state, name: torch.zeros(1, 1 + 6, 8)}
    make((32, 48)).load_state_dict(strip)
    assert 'taken to be 2x3' in caplog.text


@pytest.mark.parametrize('told', [(0, 144), (12, 13), 'xy', (144,), 7, None])
def test_a_grid_that_cannot_be_is_not_believed(told: Any) -> None:
    state, name, wide = filled('ViT')
    make, _ = NETWORKS['ViT']
    state._metadata['']['grids'] = {name: told}  # type: ignore[attr-defined]
    model = make(WIDE)
    model.load_state_dict(state)
    torch.testing.assert_close(plane(model.pos_embed, 6, 24), wide)


def test_numbers_that_cannot_be_resized_are_left_to_the_report() -> None:
    state, name, _ = filled('ViT')
    report = load_weights(NETWORKS['ViT'][0](WIDE), {**state, name: torch.zeros(1, 145, 8, dtype=torch.int8)})
    assert report.failed == (f'{name}: whole numbers for floating',)
    half = load_weights(NETWORKS['ViT'][0](WIDE), {**state, name: state[name].half()})
    assert half.exact


def test_a_layout_of_a_later_version_is_refused() -> None:
    model = nest(SQUARE)
    with pytest.raises(ValueError, match=r'newer version of mmvit_ext .layout 9 .*update mmvit_ext'):
        model.load_state_dict({**model.state_dict(), 'layout_version': torch.tensor(9)})


def test_the_grid_is_told_to_a_network_that_leaves_out_the_class_token(tmp_path: Path) -> None:
    holder = Holder(TNT('tiny', img_size=WIDE))
    nn.init.normal_(holder.backbone.patch_pos)
    torch.save({'state_dict': holder.state_dict()}, tmp_path / 'a.pth')
    init = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'a.pth'), 'prefix': 'backbone.'}
    model = TNT('tiny', img_size=SQUARE, with_cls_token=False, out_type='featmap', init_cfg=init)
    with safe_loading():
        model.init_weights()
    wide = plane(holder.backbone.patch_pos, 6, 24).permute(2, 0, 1)[None]
    expected = F.interpolate(wide, size=(12, 12), mode='bicubic', align_corners=False)[0].permute(1, 2, 0)
    torch.testing.assert_close(plane(model.patch_pos, 12, 12), expected)
