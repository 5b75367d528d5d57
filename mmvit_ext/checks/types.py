"""Find wrong type names and class counts in a config before anything is built.

mmengine reports a wrong type name when it builds the object, which may be minutes into a run.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from mmvit_ext.config.walking import iter_dataset_cfgs, iter_heads
from mmvit_ext.errors.type_names import find_type, root_registry, unknown_type_message
from mmvit_ext.errors.user_error import UserError

__all__ = ['check_num_classes', 'check_types']

_MODEL_PARTS = re.compile(r'^(backbone|neck|data_preprocessor|loss\w*|\w*head)$')
TypeEntry = tuple[str, Any, str, str | None]


def _iter_types(cfg: Config) -> Iterator[TypeEntry]:
    """(dotted key, type, registry name, scope) of the places whose registry is known for certain."""
    yield from _iter_model_types(cfg.get('model'), 'model', always=True)
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if isinstance(loader, Mapping):
            for key, dataset in iter_dataset_cfgs(loader.get('dataset'), f'{split}_dataloader.dataset', leaves=False):
                yield f'{key}.type', dataset.get('type'), 'dataset', dataset.get('_scope_')
                yield from _iter_list_types(dataset.get('pipeline'), f'{key}.pipeline', 'transform')
            yield from _iter_list_types(loader.get('sampler'), f'{split}_dataloader.sampler', 'data sampler')
        if split != 'train':
            yield from _iter_list_types(cfg.get(f'{split}_evaluator'), f'{split}_evaluator', 'metric')
        yield from _iter_list_types(cfg.get(f'{split}_cfg'), f'{split}_cfg', 'loop')
    for name, hook in (cfg.get('default_hooks') or {}).items():
        yield from _iter_list_types(hook, f'default_hooks.{name}', 'hook')
    registries = {'custom_hooks': 'hook', 'param_scheduler': 'parameter scheduler'}
    for key in ('custom_hooks', 'param_scheduler', 'visualizer', 'optim_wrapper'):
        yield from _iter_list_types(cfg.get(key), key, registries.get(key, key))
    if isinstance(cfg.get('optim_wrapper'), Mapping):
        yield from _iter_list_types(cfg.optim_wrapper.get('optimizer'), 'optim_wrapper.optimizer', 'optimizer')


def _iter_list_types(node: Any, key: str, registry: str) -> Iterator[TypeEntry]:
    if isinstance(node, Sequence) and not isinstance(node, str):
        for index, entry in enumerate(node):
            yield from _iter_list_types(entry, f'{key}.{index}', registry)
    elif isinstance(node, Mapping):
        if 'type' in node:
            yield f'{key}.type', node['type'], registry, node.get('_scope_')
        if registry == 'transform':
            yield from _iter_list_types(node.get('transforms'), f'{key}.transforms', registry)


def _iter_model_types(node: Any, key: str, always: bool = False) -> Iterator[TypeEntry]:
    # Only the parts that every library builds from MODELS: nested entries such as nms=dict(type='nms') or
    # roi_layer=dict(type='RoIAlign') are looked up elsewhere and must not be reported.
    if isinstance(node, list | tuple):
        for index, entry in enumerate(node):
            yield from _iter_model_types(entry, f'{key}.{index}', always)
    elif isinstance(node, Mapping):
        if always and 'type' in node:
            yield f'{key}.type', node['type'], 'model', node.get('_scope_')
        for name, entry in node.items():
            if isinstance(entry, Mapping | list | tuple):
                yield from _iter_model_types(entry, f'{key}.{name}', bool(_MODEL_PARTS.match(str(name))))


def check_types(cfg: Config, scope: str) -> None:
    """Find type names that no registry knows; the error names key, type and the nearest names or missing library."""
    for key, name, registry_name, own_scope in _iter_types(cfg):
        root = root_registry(registry_name)
        if isinstance(name, str) and root is not None and find_type(name, root, own_scope or scope) is None:
            raise UserError(unknown_type_message(name, registry_name, own_scope or scope, where=key))


def _check_binary(key: str, head: Mapping[str, Any], count: int) -> None:
    """Refuse what gives a constant: one class, of which each pixel is, and a softmax over one map."""
    losses = head.get('loss_decode') or [{}]
    losses = [losses] if isinstance(losses, Mapping) else losses
    softmax = any('CrossEntropyLoss' in str(loss.get('type', 'CrossEntropyLoss')) for loss in losses)
    softmax = softmax and not any(loss.get('use_sigmoid') for loss in losses)
    if count == 1 or (head.get('out_channels') == 1 and softmax):
        found = 'num_classes is 1' if count == 1 else 'out_channels is 1 with a softmax over it as loss'
        raise UserError(
            f'{key}.{found}, so that every pixel gets the same label: for one kind of object set num_classes=2 and the '
            "classes ('background', NAME); mmseg's heads may have out_channels=1 and loss_decode.use_sigmoid=True then"
        )


def check_num_classes(cfg: Config, scope: str, classes: Mapping[str, Sequence[str] | None]) -> None:
    """Compare every head's ``num_classes`` with the class names of every dataset, by its dotted key, where known."""
    for head_key, head in iter_heads(cfg, scope):
        count = head.get('num_classes')
        if not isinstance(count, int):
            continue
        if scope == 'mmseg':
            _check_binary(head_key, head, count)
        for dataset_key, names in classes.items():
            if names is not None and len(names) != count:
                shown = ', '.join(map(str, names[:3])) + (', ...' if len(names) > 3 else '')
                fault = f'{head_key}.num_classes is {count} but {dataset_key} has {len(names)} classes ({shown})'
                raise UserError(f'{fault}: set num_classes={len(names)} or use the dataset with {count} classes')
