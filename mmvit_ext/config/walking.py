"""Walk over the parts of a config: datasets, heads, nodes by dotted key."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

__all__ = ['iter_dataset_cfgs', 'iter_heads', 'walk']

_HEAD_PATHS = {
    'mmseg': ('decode_head', 'auxiliary_head'),
    'mmdet': ('bbox_head', 'mask_head', 'roi_head.bbox_head', 'roi_head.mask_head'),
    'mmpretrain': ('head',),
}


def iter_dataset_cfgs(node: Any, key: str, leaves: bool = True) -> Iterator[tuple[str, Any]]:
    """The dataset configs in a dataloader's ``dataset``, through wrappers such as RepeatDataset and ConcatDataset.

    Args:
        node: The ``dataset`` entry of a dataloader config.
        key: Its dotted key.
        leaves: Whether to leave out the wrappers.

    Yields:
        Pairs of dotted key and dataset config.
    """
    if isinstance(node, list | tuple):
        for index, entry in enumerate(node):
            yield from iter_dataset_cfgs(entry, f'{key}.{index}', leaves)
    elif isinstance(node, Mapping):
        inner = [name for name in ('dataset', 'datasets') if name in node]
        if not inner or not leaves:
            yield key, node
        for name in inner:
            yield from iter_dataset_cfgs(node[name], f'{key}.{name}', leaves)


def iter_heads(cfg: Config, scope: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The heads that predict classes, with their dotted keys."""
    for dotted in _HEAD_PATHS.get(scope, ()):
        heads: Any = cfg.get('model')
        for part in dotted.split('.'):
            heads = heads.get(part) if isinstance(heads, Mapping) else None
        many = isinstance(heads, list | tuple)
        for index, head in enumerate(heads if many else [heads]):
            if isinstance(head, Mapping):
                yield f'model.{dotted}' + (f'.{index}' if many else ''), head


def walk(node: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Every entry below a section or list, with its dotted key."""
    entries: Iterator[tuple[Any, Any]]
    if isinstance(node, Mapping | Config):
        entries = iter(node.items())
    elif isinstance(node, list | tuple):
        entries = iter(enumerate(node))
    else:
        return
    for name, entry in entries:
        dotted = f'{prefix}{name}'
        yield dotted, entry
        if isinstance(entry, Mapping | list | tuple):
            yield from walk(entry, f'{dotted}.')
