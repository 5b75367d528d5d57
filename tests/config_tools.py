"""Full-size configs made small enough to run in seconds, by the same changes for all of them, and counted on meta."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmvit_ext.evaluation import count_flops

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    path
    for path in (ROOT / 'configs').glob('*/*.py')
    # What measures superpixels trains nothing; tests/tools/test_superpixel_commands.py looks after it.
    if path.parent.name != '_base_' and not path.stem.startswith('superpixel-quality')
)
EDGE = 64
"""Edge of crops and sliding windows in pixels."""
WIDTH, HEADS = 24, 3
PYRAMID = {'embed_dims': (8, 16, 24, 32), 'num_heads': (1, 2, 3, 4), 'depths': (1, 1, 1, 1), 'mlp_ratios': (2, 2, 2, 2)}
"""Stages of a small backbone with four maps."""
DETECTION_SIZE = (800, 1280)
"""Height and width in pixels at which detectors are counted."""
BOX_PROPOSALS, MASK_PROPOSALS = 1000, 100
"""Proposals for which the heads of a two-stage detector are counted: all of the first stage, and a tenth of them."""
LEAST_BATCH = 2
"""Images of a training step."""
BEST = {'mmseg': 'best_mIoU_iter_1', 'mmdet': 'best_coco_bbox_mAP_epoch_1', 'mmpretrain': 'best_accuracy_top1_epoch_1'}
"""The best checkpoint after one iteration, by scope."""


def walk(node: Any) -> Any:
    """Every dict inside a config."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for part in node:
            yield from walk(part)


def scope_of(cfg: Config) -> str:
    """The scope of a config, whose library has to be there."""
    pytest.importorskip(cfg.default_scope)
    return cfg.default_scope


def build_on_meta(cfg: Config) -> nn.Module:
    """The full-size model without its memory."""
    init_default_scope(scope_of(cfg))
    if cfg.model.backbone.type == 'SwinTransformer':  # computes with tensors while it is built
        return MODELS.build(cfg.model).to('meta')
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def published_size(cfg: Config) -> tuple[int, int]:
    """Height and width in pixels at which papers count, by the library that a config belongs to."""
    if cfg.default_scope == 'mmdet':
        return DETECTION_SIZE
    return cfg.crop_size if cfg.default_scope == 'mmseg' else (cfg.img_size, cfg.img_size)


def multiply_adds(cfg: Config, model: nn.Module, size: tuple[int, int]) -> float:
    """Multiply-adds of one image in units of 1e9: matrix products and convolutions, those of attention included.

    A two-stage detector is counted with 1000 proposals in its box head and 100 in its mask head, because the number of
    proposals is known only when there is an image, and with the pooling of their features left out.
    """
    img = torch.empty(1, 3, *size, device='meta')

    def step() -> None:
        if cfg.default_scope == 'mmseg':
            model.encode_decode(img, [{'img_shape': size}])
        elif 'roi_head' in cfg.model:
            _two_stages(model, img)
        else:
            model(img, mode='tensor')

    return count_flops(step) / 2e9


def _two_stages(model: nn.Module, img: Tensor) -> None:
    model.rpn_head(model.extract_feat(img))
    heads = model.roi_head
    for extractor, head, proposals in (
        (heads.bbox_roi_extractor, heads.bbox_head, BOX_PROPOSALS),
        (heads.mask_roi_extractor, heads.mask_head, MASK_PROPOSALS),
    ):
        edges = extractor.roi_layers[0].output_size
        head(torch.empty(proposals, extractor.out_channels, *edges, device='meta'))


def first_stage_attention(backbone: Any, size: tuple[int, int]) -> float:
    """Multiply-adds of the two products of attention in the first stage of a P2T, in units of 1e9: ``2 N M C``.

    Args:
        backbone: The P2T.
        size: Height and width of the image in pixels, multiples of 4.
    """
    stage, width = backbone.stages[0], backbone.embed_dims[0]
    height, width_px = size[0] // 4, size[1] // 4
    pooled = sum(
        max(1, round(height / ratio)) * max(1, round(width_px / ratio)) for ratio in stage.blocks[0].attn.pool_ratios
    )
    return 2 * height * width_px * pooled * width * len(stage.blocks) / 1e9


def shrink_transforms(cfg: Config) -> None:
    """Small pictures: resizing and cropping to :data:`EDGE`."""
    for node in walk(cfg._cfg_dict):
        kind = node.get('type')
        if kind in ('RandomResize', 'Resize'):
            node['scale'] = (4 * EDGE, EDGE)
        elif kind in ('ResizeShortestEdge', 'ResizeEdge', 'RandomResizedCrop'):
            node['scale'] = EDGE
        elif kind in ('RandomCrop', 'CenterCrop'):
            node['crop_size'] = (EDGE, EDGE)


def shrink_model(model: dict) -> None:
    """Few and narrow layers; indices, stages and everything else stay as published."""
    model['backbone']['init_cfg'] = None
    if 'decode_head' in model:
        model['data_preprocessor']['size'] = (EDGE, EDGE)
        if 'norm_cfg' in model['decode_head']:
            model['decode_head']['norm_cfg'] = dict(type='BN')  # the synchronised one needs a GPU
    if model['backbone']['type'] == 'mmvit_ext.P2T':
        model['backbone']['arch'] = dict(PYRAMID)
        shrink_pyramid_heads(model)
    elif model['backbone']['type'] == 'mmvit_ext.SPFormer':
        shrink_superpixel_model(model)
    else:
        shrink_plain_segmentor(model)


def shrink_pyramid_heads(model: dict) -> None:
    """What follows a backbone with four maps, of any of the three libraries."""
    if model['neck']['type'] == 'FPN':
        model['neck'].update(in_channels=list(PYRAMID['embed_dims']), out_channels=WIDTH)
    else:
        model['head']['in_channels'] = PYRAMID['embed_dims'][3]
    if 'decode_head' in model:
        model['decode_head'].update(in_channels=[WIDTH] * 4, channels=WIDTH // 2)
    for name in ('bbox_head', 'rpn_head'):
        if name in model:
            model[name].update(in_channels=WIDTH, feat_channels=WIDTH)
    if 'bbox_head' in model:
        model['bbox_head']['stacked_convs'] = 1
        model['test_cfg'].update(nms_pre=50, score_thr=0.0)
    if 'roi_head' in model:
        parts = model['roi_head']
        for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
            parts[name]['out_channels'] = WIDTH
        parts['bbox_head'].update(in_channels=WIDTH, fc_out_channels=WIDTH)
        parts['mask_head'].update(in_channels=WIDTH, conv_out_channels=WIDTH, num_convs=1)
        model['train_cfg']['rpn_proposal'].update(nms_pre=50, max_per_img=20)
        model['test_cfg']['rpn'].update(nms_pre=50, max_per_img=20)
        model['test_cfg']['rcnn'].update(score_thr=0.0, max_per_img=10)


def shrink_superpixel_model(model: dict) -> None:
    """SPFormer with a classifier or with what classifies superpixels."""
    model['backbone'].update(img_size=EDGE, embed_dims=WIDTH, num_heads=HEADS, mlp_ratio=2)
    model['decode_head' if 'decode_head' in model else 'head']['in_channels'] = WIDTH
    shrink_sliding_windows(model)


def shrink_sliding_windows(model: dict) -> None:
    """Windows of :data:`EDGE` pixels with an overlap, where inference slides."""
    test_cfg = model.get('test_cfg') or {}
    if test_cfg.get('mode') == 'slide':
        test_cfg.update(crop_size=(EDGE, EDGE), stride=(EDGE * 3 // 4,) * 2)


def shrink_plain_segmentor(model: dict) -> None:
    """A plain or windowed backbone with a decoder of tokens."""
    backbone, head = model['backbone'], model['decode_head']
    if backbone['type'] == 'SwinTransformer':
        factor = backbone['embed_dims'] // WIDTH
        backbone.update(embed_dims=WIDTH, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
    else:
        factor = {'tiny': 192, 'small': 384, 'base': 768, 'large': 1024}[backbone['arch']] / WIDTH
        backbone.update(img_size=EDGE, embed_dims=WIDTH, num_heads=HEADS, mlp_ratio=2)
    widths = head['in_channels']
    head['in_channels'] = [round(w / factor) for w in widths] if isinstance(widths, list) else round(widths / factor)
    head['channels'] = WIDTH // 2
    if 'num_heads' in head:
        head['num_heads'] = HEADS
    if 'img_size' in head:
        head['img_size'] = EDGE
    shrink_sliding_windows(model)


def small_config(path: Path, data: dict[str, Path], work_dir: Path) -> Config:
    """A config that trains one iteration on two mini images and evaluates two."""
    cfg = Config.fromfile(path)
    scope_of(cfg)
    shrink_transforms(cfg)
    shrink_model(cfg.model)
    root = str(data[cfg.train_dataloader.dataset.type])
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False, batch_size=min(loader.batch_size, LEAST_BATCH))
        loader.dataset.update(data_root=root, indices=2)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        if 'ann_file' in evaluator:
            evaluator.ann_file = f'{root}/{cfg.val_dataloader.dataset.ann_file}'
    cfg.train_dataloader.batch_size = LEAST_BATCH
    cfg.train_cfg.update({'max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters': 1}, val_interval=1)
    cfg.default_hooks.checkpoint.update(interval=1)
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(seed=0)
    cfg.experiment_name = path.stem.replace('.', '_') + f'_{id(cfg)}'
    return cfg
