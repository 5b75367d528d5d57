"""Overrides of a config by dotted key, refused where nothing reads the key."""

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import root as root_registries
from mmengine.registry.registry import Registry
from mmengine.runner import Runner

from mmvit_ext.config.walking import iter_dataset_cfgs, walk
from mmvit_ext.errors import UserError
from mmvit_ext.errors.type_names import find_type, nearest

__all__ = ['apply_cfg_options']

_EXTRA_KEYS = """activation_checkpointing backend_args compile custom_imports detect_anomalous_params
    efficient_conv_bn_eval find_unused_parameters gpu_ids model_wrapper_cfg runner_type strategy sync_bn test_pipeline
    tta_model tta_pipeline"""
# Top-level keys that something reads: Runner's arguments, and what others take from the config.
_CONSUMED = {*_EXTRA_KEYS.split(), *inspect.signature(Runner.__init__).parameters} - {'self', 'cfg'}
_OPTIM_WRAPPER_KEYS = ['type', 'optimizer', 'constructor', 'paramwise_cfg']
_OPTIM_WRAPPER_KEYS += ['accumulative_counts', 'clip_grad', 'dtype', 'loss_scale']


def apply_cfg_options(cfg: Config, options: Mapping[str, Any], path: str = 'the config') -> None:
    """Apply ``--cfg-options`` to a config, in place, refusing those that would change nothing."""
    remaining = dict(options)
    if 'data_root' in remaining and isinstance(cfg.get('data_root'), str):
        _replace_data_root(cfg, str(remaining.pop('data_root')), path)
    for key, value in remaining.items():
        _check_option(cfg, key, value, path)
    try:
        cfg.merge_from_dict(remaining)
    except Exception as error:  # mmengine walks into whatever is there
        reason = error.args[0] if error.args else error
        raise UserError(f'--cfg-options {" ".join(remaining)} cannot be applied to {path}: {reason}') from error


def _replace_data_root(cfg: Config, value: str, path: str) -> None:
    """Set ``data_root``, which was copied when the file was read, wherever a dataset has its old value."""
    old, changed = cfg.data_root, 0
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader') or {}
        for _, dataset in iter_dataset_cfgs(loader.get('dataset'), split):
            if dataset.get('data_root') == old:
                dataset['data_root'] = value
                changed += 1
        # mmdet's metrics have paths of the annotations, put together while the config was read.
        evaluators = cfg.get(f'{split}_evaluator') or []
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            for entry in ('ann_file', 'seg_prefix'):
                place = evaluator.get(entry)
                if isinstance(place, str) and f'{place}/'.startswith(f'{old.rstrip("/")}/'):
                    evaluator[entry] = os.path.join(value, place.removeprefix(old).lstrip('/'))
    if not changed:
        reason = f'no dataset has data_root={old!r}; set train_dataloader.dataset.data_root and its siblings'
        raise UserError(f'--cfg-options data_root={value} changes nothing in {path}: {reason}')
    cfg.data_root = value


def _check_option(cfg: Config, key: str, value: Any, path: str) -> None:
    parts = key.split('.')
    if len(parts) == 1 and key in cfg and key not in _CONSUMED:
        raise UserError(_variable_message(cfg, key, path))
    node: Any = cfg
    for depth, part in enumerate(parts):
        parents = parts[:depth]
        shown = f'--cfg-options {key}: {".".join(parents)} of {path}'
        if isinstance(node, list | tuple):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(f"{shown} is a list of {len(node)}, '{part}' is none of its indices")
            node = node[int(part)]
        elif not isinstance(node, Mapping | Config):
            raise UserError(f'{shown} is the value {node!r}, not a section with keys')
        elif part in node:
            node = node[part]
        else:
            _check_new_key(cfg, node, parents, part, f'--cfg-options {key}: {path}')
            return
    # A plain value in place of a section with keys: what reads it would fail without naming either. None leaves a
    # section out; sections without a type may have a plain value as well, as compile has.
    if isinstance(node, Mapping) and 'type' in node and not isinstance(value, Mapping) and value is not None:
        reason = f'{key} of {path} is a section that begins with type={node["type"]!r}, not a plain value'
        raise UserError(f'--cfg-options {key}={value}: {reason}; set keys of it, for example {key}.type')


def _check_new_key(cfg: Config, node: Any, parents: Sequence[str], part: str, shown: str) -> None:
    known = _accepted_keys(cfg, node, parents) if parents else sorted(_CONSUMED)
    if known is not None and part in known:
        return
    similar = nearest(part, sorted({*map(str, node), *(known or ())}))
    if known is None and not similar:
        return
    prefix = '.'.join([*parents, ''])
    remedy = f'did you mean {" or ".join(prefix + name for name in similar)}?' if similar else 'nothing reads it'
    raise UserError(f'{shown} has no key {prefix}{part}; {remedy}')


def _accepted_keys(cfg: Config, node: Any, parents: Sequence[str]) -> list[str] | None:
    """The arguments of the class that a section builds, ``None`` when that cannot be told."""
    if parents == ['optim_wrapper']:
        return _OPTIM_WRAPPER_KEYS
    name = node.get('type')
    if not isinstance(name, str):
        return None
    scope = cfg.get('default_scope') or 'mmengine'
    registries = [registry for registry in vars(root_registries).values() if isinstance(registry, Registry)]
    found = (find_type(name, registry, scope) for registry in registries)
    cls = next(filter(inspect.isclass, found), object)
    names: set[str] = set()
    for base in (base for base in cls.__mro__ if '__init__' in vars(base) and base is not object):
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        names |= {entry.name for entry in parameters if entry.kind not in (entry.VAR_KEYWORD, entry.VAR_POSITIONAL)}
        if not any(entry.kind is entry.VAR_KEYWORD for entry in parameters):
            break
    return sorted((names | {'type', '_scope_', '_delete_'}) - {'self'}) if names else None


def _variable_message(cfg: Config, key: str, path: str) -> str:
    """The sentence for an override of a variable that the config file has already used up."""
    same = [] if isinstance(cfg[key], bool | None) else [dotted for dotted, entry in walk(cfg) if entry == cfg[key]]
    uses = [dotted for dotted in same if dotted.split('.')[0] in _CONSUMED]
    where = f'set {", ".join(uses[:4])} instead' if uses else 'edit the config file or inherit from it'
    reason = f'in {path} {key} is a variable that was used while the file was read, so changing it now has no effect'
    return f'--cfg-options {key}: {reason}; {where}'
