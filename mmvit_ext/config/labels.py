"""The value of pixels without a label: said once, by a head or a dataset of a segmentation config; all else follows."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mmvit_ext.config.walking import iter_dataset_cfgs, iter_heads, walk
from mmvit_ext.errors.type_names import find_type, root_registry
from mmvit_ext.errors.user_error import UserError

__all__ = ['follow_labels', 'ignored_label']

ASSUMED = 255  # by mmseg's classes where nothing is said
PARTS = {
    **dict.fromkeys(('train_dataloader', 'val_dataloader', 'test_dataloader'), ('dataset', 'transform')),
    **dict.fromkeys(('train_pipeline', 'test_pipeline', 'tta_pipeline'), ('transform',)),
    **dict.fromkeys(('val_evaluator', 'test_evaluator'), ('metric',)),
    **dict.fromkeys(('default_hooks', 'custom_hooks'), ('hook',)),
    'model': ('model',),
}
"""Entries of a config whose parts look at labels, and the registries that these parts are in."""


def _said(cfg: Config) -> Iterator[tuple[str, int]]:
    """The entries that say the value of pixels without a label, heads first."""
    named = list(iter_heads(cfg, 'mmseg'))
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader') or {}
        named += iter_dataset_cfgs(loader.get('dataset'), f'{split}_dataloader.dataset')
    for key, node in named:
        if isinstance(node.get('ignore_index'), int):
            yield f'{key}.ignore_index', node['ignore_index']


def ignored_label(cfg: Config) -> int:
    """The value of pixels without a label: of the first head, else of the first dataset that says one, else 255."""
    return next(_said(cfg), ('', ASSUMED))[1]


def follow_labels(cfg: Config) -> None:
    """Let all parts of a segmentation config that assume 255 take what :func:`ignored_label` says, in place.

    These are the arguments ``ignore_index``, ``seg_pad_val`` and ``pad_val`` of transforms, datasets, metrics, heads,
    losses and hooks whose default is 255. ``LoadSegAnnotations`` also learns the number of classes from the head.
    """
    source, value = next(_said(cfg), ('model.decode_head.ignore_index', ASSUMED))
    if not 0 <= value <= 255:
        raise UserError(f'{source} is {value}: expected 0 to 255, label maps have 8 bits')
    count = next((head.get('num_classes') for _, head in iter_heads(cfg, 'mmseg')), None)
    count = count if isinstance(count, int) and 1 <= count <= 255 else None
    for part, registries in PARTS.items():
        for key, node in list(walk({part: cfg.get(part)})):
            if not isinstance(node, Mapping) or 'type' not in node:
                continue
            kind = _class_of(node, registries)
            selects = registries in (('model',), ('metric',))
            for name, said in _labels_in(node, kind):
                # A loss or metric may leave out a class on purpose.
                chosen = selects and name == 'ignore_index' and said in range(count or 0)
                if said is not None and said != value and not chosen:
                    clash = f'{key}.{name} is {said} but {source} is {value}, which is the label of pixels without one'
                    raise UserError(f'{clash}: leave {name} out there, it follows, or set both alike')
                if said is None and value != ASSUMED:
                    _say(node, name, value)
            if count is not None and getattr(kind, '__name__', '') == 'LoadSegAnnotations':
                node.setdefault('num_classes', count)  # type: ignore[attr-defined]


def _class_of(node: Mapping[str, Any], registries: tuple[str, ...]) -> Any:
    if not isinstance(node['type'], str):
        return node['type']
    roots = [root for name in registries if (root := root_registry(name)) is not None]
    found = (find_type(node['type'], root, node.get('_scope_') or 'mmseg') for root in roots)
    return next((kind for kind in found if kind is not None), None)


def _labels_in(node: Mapping[str, Any], kind: Any) -> Iterator[tuple[str, Any]]:
    """The arguments of a part whose default is 255, and what the config says there, ``None`` for nothing."""
    for name in ('ignore_index', 'seg_pad_val'):
        if _default(kind, name) == ASSUMED:
            yield name, node.get(name)
    default = _default(kind, 'pad_val')
    if isinstance(default, Mapping) and default.get('seg') == ASSUMED:
        given = node.get('pad_val')
        yield 'pad_val', given.get('seg') if isinstance(given, Mapping) else None


def _say(node: Any, name: str, value: int) -> None:
    if name != 'pad_val':
        node[name] = value
        return
    given = node.get('pad_val', 0)
    node['pad_val'] = {**(given if isinstance(given, Mapping) else {'img': given}), 'seg': value}


def _default(kind: Any, name: str) -> Any:
    """The default of an argument of a class, which may be one that is handed on to a base class."""
    for owner in getattr(kind, '__mro__', ()):
        if '__init__' in vars(owner):
            parameters = inspect.signature(owner.__init__).parameters
            if name in parameters:
                return parameters[name].default
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
                break
    return None
