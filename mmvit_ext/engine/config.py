"""Reading a config, and finding what is wrong with it before anything is built.

mmengine reports a wrong type name when it builds the object, which may be minutes into a run, and silently accepts an
override of a key that nothing reads. Both are found here, at the start.
"""

import copy
import importlib
import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import root as root_registries
from mmengine.registry.registry import Registry
from mmengine.runner import Runner

from .errors import UserError
from .type_names import find_type, missing_library, nearest, root_registry, unknown_type_message

__all__ = [
    'apply_cfg_options',
    'check_num_classes',
    'check_types',
    'iter_dataset_cfgs',
    'load_config',
    'prepare_scope',
    'set_tta_pipeline',
]

# Top-level keys that something reads although Runner's signature does not list them.
_CONSUMED = {
    'activation_checkpointing',
    'backend_args',
    'compile',
    'custom_imports',
    'detect_anomalous_params',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'gpu_ids',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'test_pipeline',
    'tta_model',
    'tta_pipeline',
} | set(inspect.signature(Runner.__init__).parameters)

_OPTIM_WRAPPER_KEYS = {'accumulative_counts', 'clip_grad', 'constructor', 'dtype', 'loss_scale', 'optimizer'} | {
    'paramwise_cfg'
}
_MODEL_PARTS = re.compile(r'^(backbone|neck|data_preprocessor|loss\w*|\w*head)$')
_HEAD_PATHS = {
    'mmseg': ('decode_head', 'auxiliary_head'),
    'mmdet': ('bbox_head', 'mask_head', 'roi_head.bbox_head', 'roi_head.mask_head'),
    'mmpretrain': ('head',),
}


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file and apply overrides to it.

    Args:
        path: The config file, ``.py``, ``.yaml`` or ``.json``.
        options: Overrides by dotted key, as ``--cfg-options`` gives them.

    Returns:
        The config.

    Raises:
        UserError: There is no such file, it does not run, or an override changes nothing.
    """
    path = Path(path)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        similar = nearest(path.name, [entry.name for entry in folder.glob('*') if entry.suffix == path.suffix])
        hint = f'; similar files there: {", ".join(similar)}' if similar else '; check the path'
        raise UserError(f'there is no config file {path}{hint}')
    if path.suffix not in ('.py', '.yaml', '.yml', '.json'):
        raise UserError(f'{path} is not a config: expected a .py, .yaml, .yml or .json file, got {path.suffix!r}')
    try:
        cfg = Config.fromfile(str(path))
    except UserError:
        raise
    except Exception as error:
        line = getattr(error, 'lineno', None)
        where = f' (line {line})' if line else ''
        reason = ' '.join(str(error.args[0] if error.args else error).split())
        raise UserError(
            f'the config {path} cannot be read{where}: {type(error).__name__}: {reason}; '
            'repair it or the file it inherits from'
        ) from error
    if options:
        apply_cfg_options(cfg, options, str(path))
    return cfg


def prepare_scope(cfg: Config) -> str:
    """Import the library that the config's ``default_scope`` names, so that its types are registered.

    Args:
        cfg: The config.

    Returns:
        The scope: 'mmseg', 'mmdet', 'mmpretrain' or another package's name.

    Raises:
        UserError: The config names no scope, or its package cannot be imported.
    """
    scope = cfg.get('default_scope')
    if not scope:
        raise UserError(
            "the config has no default_scope: add default_scope='mmseg' ('mmdet', 'mmpretrain'), "
            'where type names are looked up'
        )
    _import_scope(scope, f"default_scope='{scope}'")
    return str(scope)


def _import_scope(scope: str, wanted_by: str) -> None:
    try:
        importlib.import_module(f'{scope}.registry')
    except ModuleNotFoundError as error:
        if error.name in (scope, f'{scope}.registry'):
            raise UserError(missing_library(scope, wanted_by)) from error
        raise
    except (ImportError, AssertionError) as error:
        # The libraries assert the versions of each other while they are imported.
        raise UserError(
            f'{scope} (needed for {wanted_by}) is installed but cannot be imported: {error}; '
            '`python -m mmvit_ext.doctor` lists the versions that belong together'
        ) from error


# Types


def _iter_types(cfg: Config) -> Iterator[tuple[str, Any, str, str | None]]:
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
    yield from _iter_list_types(cfg.get('custom_hooks'), 'custom_hooks', 'hook')
    yield from _iter_list_types(cfg.get('param_scheduler'), 'param_scheduler', 'parameter scheduler')
    yield from _iter_list_types(cfg.get('visualizer'), 'visualizer', 'visualizer')
    wrapper = cfg.get('optim_wrapper')
    yield from _iter_list_types(wrapper, 'optim_wrapper', 'optim_wrapper')
    if isinstance(wrapper, Mapping):
        yield from _iter_list_types(wrapper.get('optimizer'), 'optim_wrapper.optimizer', 'optimizer')


def _iter_list_types(node: Any, key: str, registry: str) -> Iterator[tuple[str, Any, str, str | None]]:
    if isinstance(node, Sequence) and not isinstance(node, str):
        for index, entry in enumerate(node):
            yield from _iter_list_types(entry, f'{key}.{index}', registry)
    elif isinstance(node, Mapping):
        if 'type' in node:
            yield f'{key}.type', node['type'], registry, node.get('_scope_')
        if registry == 'transform':
            yield from _iter_list_types(node.get('transforms'), f'{key}.transforms', registry)


def _iter_model_types(node: Any, key: str, always: bool = False) -> Iterator[tuple[str, Any, str, str | None]]:
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
    """Find type names that no registry knows, before anything is built.

    Args:
        cfg: The config.
        scope: Its default scope, imported by :func:`prepare_scope`.

    Raises:
        UserError: A type is unknown; names the key, the type and the nearest registered names or the missing library.
    """
    for key, name, registry_name, own_scope in _iter_types(cfg):
        root = root_registry(registry_name)
        if not isinstance(name, str) or root is None:
            continue
        if find_type(name, root, own_scope or scope) is None:
            raise UserError(unknown_type_message(name, registry_name, own_scope or scope, where=key))


# Datasets and classes


def iter_dataset_cfgs(node: Any, key: str, leaves: bool = True) -> Iterator[tuple[str, Any]]:
    """The dataset configs in a dataloader's ``dataset``, through wrappers such as RepeatDataset and ConcatDataset.

    Args:
        node: The ``dataset`` entry of a dataloader config.
        key: Its dotted key.
        leaves: Whether to leave out the wrappers.

    Returns:
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


def set_tta_pipeline(cfg: Config) -> None:
    """Let the test dataset make the views of ``tta_pipeline``, in place.

    Args:
        cfg: A config with a ``test_dataloader``.

    Raises:
        UserError: It has no test-time augmentation.
    """
    absent = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if absent:
        raise UserError(
            f'--tta: {cfg.filename} has no {" and no ".join(absent)}: add them to the config, they say which views are '
            'merged and how'
        )
    for _, dataset in iter_dataset_cfgs((cfg.get('test_dataloader') or {}).get('dataset'), 'test'):
        dataset['pipeline'] = copy.deepcopy(cfg.tta_pipeline)


def _get(node: Any, dotted: str) -> Any:
    for part in dotted.split('.'):
        if not isinstance(node, Mapping):
            return None
        node = node.get(part)
    return node


def _iter_heads(cfg: Config, scope: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for dotted in _HEAD_PATHS.get(scope, ()):
        heads = _get(cfg.get('model'), dotted)
        many = isinstance(heads, list | tuple)
        for index, head in enumerate(heads if many else [heads]):
            if isinstance(head, Mapping):
                yield f'model.{dotted}' + (f'.{index}' if many else ''), head


def check_num_classes(cfg: Config, scope: str, classes: Mapping[str, Sequence[str] | None]) -> None:
    """Compare every head's ``num_classes`` with the classes of every dataset.

    Args:
        cfg: The config.
        scope: Its default scope; says where the heads are.
        classes: Class names by the dataset's dotted key, ``None`` where a dataset does not tell them.

    Raises:
        UserError: A head has another number of classes than a dataset.
    """
    for head_key, head in _iter_heads(cfg, scope):
        count = head.get('num_classes')
        if not isinstance(count, int):
            continue
        for dataset_key, names in classes.items():
            if names is not None and len(names) != count:
                raise UserError(
                    f'{head_key}.num_classes is {count} but {dataset_key} has {len(names)} classes '
                    f'({_shorten(names)}): set num_classes={len(names)} or use the dataset with {count} classes'
                )


def _shorten(names: Sequence[str], count: int = 3) -> str:
    shown = ', '.join(str(name) for name in names[:count])
    return shown + (', ...' if len(names) > count else '')


# Overrides


def apply_cfg_options(cfg: Config, options: Mapping[str, Any], path: str = 'the config') -> None:
    """Apply ``--cfg-options`` to a config, in place, refusing those that would change nothing.

    ``data_root`` is a variable of the config file, already copied into the datasets when the file has been read. It is
    set in every dataset that had the old value, because that is what everybody means by it.

    Args:
        cfg: The config.
        options: Values by dotted key.
        path: The config's file name, for messages.

    Raises:
        UserError: A key does not exist and nothing reads it; names the nearest key or the keys to set instead.
    """
    remaining = dict(options)
    if 'data_root' in remaining and isinstance(cfg.get('data_root'), str):
        _replace_dataroot_registry(cfg, str(remaining.pop('data_root')), path)
    for key, value in remaining.items():
        _check_option(cfg, key, path)
        _check_kind(cfg, key, value, path)
    try:
        cfg.merge_from_dict(remaining)
    except Exception as error:  # mmengine walks into whatever is there
        raise UserError(
            f'--cfg-options {" ".join(remaining)} cannot be applied to {path}: {error.args[0] if error.args else error}'
        ) from error


def _replace_dataroot_registry(cfg: Config, value: str, path: str) -> None:
    old, changed = cfg.data_root, 0
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader') or {}
        for _, dataset in iter_dataset_cfgs(loader.get('dataset'), split):
            if dataset.get('data_root') == old:
                dataset['data_root'] = value
                changed += 1
        # mmdet's metrics have the path of the annotation file, put together while the config was read.
        evaluators = cfg.get(f'{split}_evaluator') or []
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            ann_file = evaluator.get('ann_file')
            if isinstance(ann_file, str) and ann_file.startswith(old):
                evaluator['ann_file'] = os.path.join(value, ann_file.removeprefix(old).lstrip('/'))
    if not changed:
        raise UserError(
            f'--cfg-options data_root={value} changes nothing in {path}: no dataset has data_root={old!r}; '
            'set train_dataloader.dataset.data_root and its siblings'
        )
    cfg.data_root = value


def _check_option(cfg: Config, key: str, path: str) -> None:
    parts = key.split('.')
    if len(parts) == 1 and key in cfg and key not in _CONSUMED:
        raise UserError(_variable_message(cfg, key, path))
    node: Any = cfg
    for depth, part in enumerate(parts):
        if isinstance(node, list | tuple):
            if not part.isdigit() or int(part) >= len(node):
                shown = '.'.join(parts[:depth])
                raise UserError(
                    f"--cfg-options {key}: {shown} of {path} is a list of {len(node)}, '{part}' is none of its indices"
                )
            node = node[int(part)]
            continue
        if not isinstance(node, Mapping | Config):
            shown = '.'.join(parts[:depth])
            raise UserError(f'--cfg-options {key}: {shown} of {path} is the value {node!r}, not a section with keys')
        if part in node:
            node = node[part]
            continue
        known = sorted(_CONSUMED - {'self', 'cfg'}) if depth == 0 else _accepted_keys(cfg, node, parts[:depth])
        if known is not None and part in known:
            return
        similar = nearest(part, sorted({*map(str, node), *(known or ())}))
        if known is not None or similar:
            prefix = '.'.join([*parts[:depth], ''])
            remedy = (
                f'did you mean {" or ".join(prefix + name for name in similar)}?' if similar else 'nothing reads it'
            )
            raise UserError(f'--cfg-options {key}: {path} has no key {prefix}{part}; {remedy}')
        return


def _check_kind(cfg: Config, key: str, value: Any, path: str) -> None:
    """Refuse a plain value in place of a section with keys: what reads it would fail without naming either."""
    node: Any = cfg
    for part in key.split('.'):
        if isinstance(node, list | tuple):
            node = node[int(part)]
        else:
            node = node.get(part) if isinstance(node, Mapping | Config) else None
    # None leaves a section out; sections without a type may have a plain value as well, as compile has.
    if isinstance(node, Mapping) and 'type' in node and not isinstance(value, Mapping) and value is not None:
        raise UserError(
            f'--cfg-options {key}={value}: {key} of {path} is a section that begins with type={node["type"]!r}, not a '
            f'plain value; set keys of it, for example {key}.type'
        )


def _accepted_keys(cfg: Config, node: Any, parents: Sequence[str]) -> list[str] | None:
    """The arguments of the class that a section builds, ``None`` when that cannot be told."""
    if parents == ['optim_wrapper']:
        return sorted(_OPTIM_WRAPPER_KEYS | {'type'})
    name = node.get('type')
    if not isinstance(name, str):
        return None
    for registry in vars(root_registries).values():
        if isinstance(registry, Registry):
            cls = find_type(name, registry, cfg.get('default_scope') or 'mmengine')
            if inspect.isclass(cls):
                return _init_parameters(cls)
    return None


def _init_parameters(cls: type) -> list[str] | None:
    names: set[str] = {'type', '_scope_', '_delete_'}
    for base in cls.__mro__:
        if '__init__' not in vars(base) or base is object:
            continue
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        names |= {entry.name for entry in parameters if entry.kind not in (entry.VAR_KEYWORD, entry.VAR_POSITIONAL)}
        if not any(entry.kind is entry.VAR_KEYWORD for entry in parameters):
            return sorted(names - {'self'})
    return None if len(names) <= 3 else sorted(names - {'self'})


def _variable_message(cfg: Config, key: str, path: str) -> str:
    """The sentence for an override of a variable that the config file has already used up."""
    value = cfg[key]
    uses = []
    if not isinstance(value, bool) and value is not None:
        uses = [dotted for dotted, entry in _walk(cfg) if entry == value and dotted.split('.')[0] in _CONSUMED]
    where = f'set {", ".join(uses[:4])} instead' if uses else 'edit the config file or inherit from it'
    return (
        f'--cfg-options {key}: in {path} {key} is a variable that was used while the file was read, so changing it now '
        f'has no effect; {where}'
    )


def _walk(node: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
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
        if isinstance(entry, ConfigDict | Mapping | list | tuple):
            yield from _walk(entry, f'{dotted}.')
