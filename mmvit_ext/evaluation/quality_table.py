"""The table of superpixel quality: the model's superpixels, head by head, beside plain patches and SLIC."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmvit_ext.config.building import resolve_device
from mmvit_ext.config.labels import follow_labels
from mmvit_ext.config.loading import load_config
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.evaluation.loop import build_test_loader, evaluate, markdown_table
from mmvit_ext.inference.predictor import Predictor

__all__ = ['extractor_config', 'quality_rows', 'quality_table', 'superpixel_quality']

Row = tuple[str, float, float]  # kind of regions, best mIoU in per cent, mean number of regions of an image


def extractor_config(cfg: Config, source: str | Path) -> Config:
    """A config that measures the superpixels of a segmentation config's backbone, and other regions, on its data."""
    cfg = copy.deepcopy(cfg)
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    if not str(backbone.get('type')).endswith('SPFormer'):
        found = f'{source} has the backbone {backbone.get("type")} and no superpixels to measure'
        raise UserError(f'{found}: expected a mmvit_ext.SPFormer, such as the configs in configs/spformer')
    if cfg.get('default_scope') != 'mmseg':
        remedy = 'use this checkpoint with a config such as configs/spformer/superpixel-quality_*.py'
        raise UserError(f'{source} is of scope {cfg.get("default_scope")}, its data has no label maps: {remedy}')
    follow_labels(cfg)
    if not str(cfg.model.get('type')).endswith('SuperpixelExtractor'):
        cfg.model = ConfigDict(
            type='mmvit_ext.SuperpixelExtractor',
            backbone=dict(backbone, init_cfg=None),
            data_preprocessor=cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor'),
        )
    evaluators = cfg.get('test_evaluator')
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    if not all(str((entry or {}).get('type')).endswith('SuperpixelQuality') for entry in evaluators):
        edge = backbone.get('cell_size', 4) * backbone.get('pixel_stride', 4)
        kinds = [{}, *({'regions': kind, 'patch_size': edge} for kind in ('patches', 'slic'))]
        cfg.test_evaluator = [ConfigDict(type='mmvit_ext.SuperpixelQuality', **kind) for kind in kinds]
    return cfg


def quality_rows(results: Mapping[str, float], evaluators: Any) -> list[Row]:
    """Results of ``SuperpixelQuality`` as rows in the order of the metrics; those of single heads behind their mean."""
    rows: list[Row] = []
    for entry in evaluators if isinstance(evaluators, list) else [evaluators]:
        kind = entry.get('regions', 'superpixels')
        prefix, edge = entry.get('prefix') or kind, entry.get('patch_size', 16)
        heads = [value for name, value in results.items() if name.startswith(f'{prefix}/mIoU_head')]
        named = {'superpixels': f'{prefix}, mean of {len(heads)} heads', 'patches': f'patches {edge}x{edge}'}
        values = {named.get(kind, 'SLIC'): results[f'{prefix}/mIoU']}
        values |= {f'{prefix}, head {index}': value for index, value in enumerate(heads, 1)}
        if heads:
            values[f'{prefix}, heads merged'] = results[f'{prefix}/mIoU_merged']
        rows += [(name, value, results[f'{prefix}/regions']) for name, value in values.items()]
    return rows


def quality_table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    cells = [(name, f'{best:.2f}', f'{number:.1f}') for name, best, number in rows]
    return markdown_table(('regions', 'best mIoU', 'regions per image'), *cells)


def superpixel_quality(
    config: str | Path,
    checkpoint: str | Path,
    *,
    images: int | None = None,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    allow_partial: bool = False,
    trust: bool = False,
) -> list[Row]:
    """Measure the superpixels of a model against label maps; the arguments are those of ``mmvit superpixels``."""
    if images is not None and images < 1:
        raise UserError(f'--images must be at least 1, got {images}')
    cfg = extractor_config(load_config(config, cfg_options), config)
    predictor = Predictor(cfg, checkpoint, resolve_device(device), allow_partial=allow_partial, trust=trust)
    loader = build_test_loader(cfg, images=images)
    results = evaluate(predictor, loader, cfg.test_evaluator, title='measuring superpixels')
    return quality_rows(results, cfg.test_evaluator)
