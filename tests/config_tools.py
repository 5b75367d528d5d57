"""Full-size configs made small enough to run in seconds, by the same changes for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path for path in (ROOT / 'configs').glob('*/*.py') if path.parent.name != '_base_')
EDGE = 64
"""Edge of crops and sliding windows in pixels."""
WIDTH, HEADS = 24, 3


def walk(node: Any) -> Any:
    """Every dict inside a config."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for part in node:
            yield from walk(part)


def shrink_transforms(cfg: Config) -> None:
    """Small pictures: resizing and cropping to :data:`EDGE`."""
    for node in walk(cfg._cfg_dict):
        kind = node.get('type')
        if kind in ('RandomResize', 'Resize'):
            node['scale'] = (4 * EDGE, EDGE)
        elif kind == 'ResizeShortestEdge':
            node['scale'] = EDGE
        elif kind == 'RandomCrop':
            node['crop_size'] = (EDGE, EDGE)


def shrink_model(model: dict) -> None:
    """Few and narrow layers; indices, stages and everything else stay as published."""
    model['data_preprocessor']['size'] = (EDGE, EDGE)
    backbone, head = model['backbone'], model['decode_head']
    backbone['init_cfg'] = None
    if backbone['type'] == 'SwinTransformer':
        factor = backbone['embed_dims'] // WIDTH
        backbone.update(embed_dims=WIDTH, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
    else:
        factor = {'tiny': 192, 'base': 768, 'large': 1024}[backbone['arch']] / WIDTH
        backbone.update(img_size=EDGE, embed_dims=WIDTH, num_heads=HEADS, mlp_ratio=2)
    widths = head['in_channels']
    head['in_channels'] = [round(w / factor) for w in widths] if isinstance(widths, list) else round(widths / factor)
    head['channels'] = WIDTH // 2
    if 'num_heads' in head:
        head['num_heads'] = HEADS
    if 'img_size' in head:
        head['img_size'] = EDGE
    if 'norm_cfg' in head:
        head['norm_cfg'] = dict(type='BN')  # the synchronised one needs a GPU
    if model['test_cfg']['mode'] == 'slide':
        model['test_cfg'].update(crop_size=(EDGE, EDGE), stride=(EDGE * 3 // 4,) * 2)


def small_config(path: Path, data: dict[str, Path], work_dir: Path) -> Config:
    """A config that trains one iteration on two mini images and evaluates two."""
    cfg = Config.fromfile(path)
    shrink_transforms(cfg)
    shrink_model(cfg.model)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=str(data[loader.dataset.type]), indices=2)
    cfg.train_dataloader.batch_size = 2
    cfg.train_cfg.update(max_iters=1, val_interval=1)
    cfg.default_hooks.checkpoint.update(interval=1)
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(seed=0)
    cfg.experiment_name = path.stem.replace('.', '_') + f'_{id(cfg)}'
    return cfg
