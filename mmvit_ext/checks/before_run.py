"""All checks of a config against its types, files and datasets, before anything is built or written."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from mmvit_ext.checkpoints.reading import check_checkpoint_file
from mmvit_ext.config.walking import is_pretrained, label_steps, loads_by_itself, walk
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import is_remote

from .datasets import VisitedDataset, check_samples, visit_datasets
from .strides import check_strides
from .types import check_num_classes, check_types

__all__ = ['check_before_run', 'check_datasets']

# Reading a larger annotation file twice would cost more time than an early message is worth.
_MAX_ANNOTATION_BYTES = 64 * 2**20


def check_before_run(cfg: Config, scope: str, splits: Sequence[str]) -> list[str]:
    """Check a config's types, checkpoint files, class counts and the datasets of some of 'train', 'val' and 'test'.

    The scope has to be prepared. Returns a line per dataset, worth logging.
    """
    check_types(cfg, scope)
    for key, node in [('model', cfg.get('model')), *walk(cfg.get('model'), 'model.')]:
        _check_pretrained(key, node)
    if cfg.get('load_from'):
        check_checkpoint_file(cfg.load_from, 'checkpoint')
    datasets = check_datasets(cfg, splits)
    check_num_classes(cfg, scope, {dataset.key: dataset.classes for dataset in datasets})
    for dataset in datasets:
        _check_label_steps(dataset)
    notes = check_strides(cfg) if scope == 'mmdet' else []
    return [*map(str, datasets), *notes]


def _check_pretrained(key: str, node: Any) -> None:
    """Look for the checkpoint file that a part of the model names, if it does."""
    entry = 'checkpoint' if is_pretrained(node) or loads_by_itself(node) else 'pretrained'
    path = node.get(entry) if isinstance(node, Mapping) else None
    if isinstance(path, str) and path != 'timm' and not is_remote(path):
        section = key if key.endswith('init_cfg') else f'{key}.{entry}'
        remedy = f'put it there, or start from random weights with --cfg-options {section}=None'
        check_checkpoint_file(path, f'pretrained checkpoint ({key}.{entry})', remedy)


def _check_label_steps(dataset: VisitedDataset) -> None:
    """Refuse a label loader that says something else than its dataset, which it follows where it says nothing."""
    said = {
        'reduce_zero_label': getattr(dataset.built, 'reduce_zero_label', None),
        'num_classes': len(dataset.classes) if dataset.classes else None,
    }
    steps = dataset.config.get('pipeline') or []
    for step in label_steps(steps):
        for name, expected in said.items():
            if None not in (expected, step.get(name)) and step[name] != expected:
                place = f'{dataset.key}.pipeline.{steps.index(step)}.{name}'
                fault = f'{place} is {step[name]} but the dataset {dataset.key} has {expected}'
                raise UserError(f'{fault}: leave {name} out of the pipeline, it follows the dataset')


def check_datasets(cfg: Config, splits: Sequence[str]) -> list[VisitedDataset]:
    """Check the datasets of the given splits as far as that is quick; ``UserError`` names path and key to change."""
    datasets = list(visit_datasets(cfg, splits))
    for dataset in datasets:
        if dataset.built is not None and dataset.local:
            file = dataset.ann_file
            small = os.path.isfile(file) and os.path.getsize(file) <= _MAX_ANNOTATION_BYTES
            if small or 'seg_map_path' in dataset.folders:
                check_samples(dataset)
    return datasets
