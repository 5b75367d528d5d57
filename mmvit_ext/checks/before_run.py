"""All checks of a config against its types, files and datasets, before anything is built or written."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from mmvit_ext.checkpoints.reading import check_checkpoint_file
from mmvit_ext.config.walking import is_pretrained, label_steps
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import is_remote

from .datasets import VisitedDataset, check_samples, visit_datasets
from .strides import check_strides
from .types import check_num_classes, check_types

__all__ = ['check_before_run', 'check_datasets']

# Reading a larger annotation file twice would cost more time than an early message is worth.
_MAX_ANNOTATION_BYTES = 64 * 2**20


def check_before_run(cfg: Config, scope: str, splits: Sequence[str]) -> list[str]:
    """Check a config's types, checkpoint files, datasets and class counts.

    Args:
        cfg: The config.
        scope: Its default scope, imported by :func:`mmvit_ext.config.loading.prepare_scope`.
        splits: Whose datasets are checked: of 'train', 'val' and 'test'.

    Returns:
        A line per dataset, worth logging.

    Raises:
        UserError: Something is wrong; names the key or file and the remedy.
    """
    check_types(cfg, scope)
    for key, path in _iter_pretrained(cfg.get('model'), 'model'):
        if not is_remote(path):
            section = key.rpartition('.')[0] if key.endswith('init_cfg.checkpoint') else key
            remedy = f'put it there, or start from random weights with --cfg-options {section}=None'
            check_checkpoint_file(path, f'pretrained checkpoint ({key})', remedy)
    if cfg.get('load_from'):
        check_checkpoint_file(cfg.load_from, 'checkpoint')
    datasets = check_datasets(cfg, splits)
    check_num_classes(cfg, scope, {dataset.key: dataset.classes for dataset in datasets})
    for dataset in datasets:
        _check_label_steps(dataset)
    notes = check_strides(cfg) if scope == 'mmdet' else []
    return [*map(str, datasets), *notes]


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
                raise UserError(
                    f'{dataset.key}.pipeline.{steps.index(step)}.{name} is {step[name]} but the dataset {dataset.key} '
                    f'has {expected}: leave {name} out of the pipeline, it follows the dataset'
                )


def _iter_pretrained(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        if is_pretrained(node) and isinstance(node.get('checkpoint'), str):
            yield f'{key}.checkpoint', node['checkpoint']
        elif isinstance(node.get('pretrained'), str):
            yield f'{key}.pretrained', node['pretrained']
        for name, entry in node.items():
            yield from _iter_pretrained(entry, f'{key}.{name}')
    elif isinstance(node, list | tuple):
        for index, entry in enumerate(node):
            yield from _iter_pretrained(entry, f'{key}.{index}')


def check_datasets(cfg: Config, splits: Sequence[str]) -> list[VisitedDataset]:
    """Check the datasets of the given splits as far as that is quick; ``UserError`` names path and key to change."""
    datasets = []
    for dataset in visit_datasets(cfg, splits):
        datasets.append(dataset)
        if dataset.built is not None and dataset.local:
            file = dataset.ann_file
            small = os.path.isfile(file) and os.path.getsize(file) <= _MAX_ANNOTATION_BYTES
            if small or 'seg_map_path' in dataset.folders:
                check_samples(dataset)
    return datasets
