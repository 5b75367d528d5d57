"""All checks of a config against its types, files and datasets, before anything is built or written."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from mmvit_ext.checkpoints.reading import check_checkpoint_file
from mmvit_ext.files import is_remote

from .datasets import check_datasets
from .types import check_num_classes, check_types

__all__ = ['check_before_run']


def _iter_pretrained(node: Any, key: str) -> Iterable[tuple[str, str]]:
    if isinstance(node, Mapping):
        if node.get('type') == 'Pretrained' and isinstance(node.get('checkpoint'), str):
            yield f'{key}.checkpoint', node['checkpoint']
        elif isinstance(node.get('pretrained'), str):
            yield f'{key}.pretrained', node['pretrained']
        for name, entry in node.items():
            yield from _iter_pretrained(entry, f'{key}.{name}')
    elif isinstance(node, list | tuple):
        for index, entry in enumerate(node):
            yield from _iter_pretrained(entry, f'{key}.{index}')


def _check_files(cfg: Config) -> None:
    for key, path in _iter_pretrained(cfg.get('model'), 'model'):
        if not is_remote(path):
            section = key.rpartition('.')[0] if key.endswith('init_cfg.checkpoint') else key
            check_checkpoint_file(
                path,
                f'pretrained checkpoint ({key})',
                f'put it there, or start from random weights with --cfg-options {section}=None',
            )
    if cfg.get('load_from'):
        check_checkpoint_file(cfg.load_from, 'checkpoint')


def check_before_run(cfg: Config, scope: str, splits: Sequence[str]) -> list[str]:
    """Check a config's types, checkpoint files, datasets and class counts.

    Args:
        cfg: The config.
        scope: Its default scope, imported by :func:`mmvit_ext.config.adjust.prepare_scope`.
        splits: Whose datasets are checked: of 'train', 'val' and 'test'.

    Returns:
        A line per dataset, worth logging.

    Raises:
        UserError: Something is wrong; names the key or file and the remedy.
    """
    check_types(cfg, scope)
    _check_files(cfg)
    summaries = check_datasets(cfg, splits)
    check_num_classes(cfg, scope, {summary.key: summary.classes for summary in summaries})
    return [str(summary) for summary in summaries]
