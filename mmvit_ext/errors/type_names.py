"""Names of types: where they are registered, and which names are near to one that is not."""

import importlib
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

from mmengine.registry import root as root_registries
from mmengine.registry.registry import Registry

from mmvit_ext.machine import DISTRIBUTIONS

__all__ = ['find_type', 'missing_library', 'nearest', 'root_registry', 'unknown_type_message']


def nearest(name: str, candidates: Sequence[str], count: int = 3) -> list[str]:
    """At most ``count`` of the candidates that look like ``name``, best first, whatever their case."""
    by_lower = {candidate.lower(): candidate for candidate in reversed(candidates)}
    return [by_lower[key] for key in get_close_matches(name.lower(), list(by_lower), n=count, cutoff=0.6)]


def missing_library(scope: str, wanted_by: str) -> str:
    """The sentence for a package such as 'mmseg' that cannot be imported, with the distributions that provide it."""
    if scope not in DISTRIBUTIONS:
        return f"{wanted_by} needs the package '{scope}', which cannot be imported: install it or correct the name"
    fork, upstream, *_ = DISTRIBUTIONS[scope]
    remedy = f'install {fork} (or {upstream}), the one that matches your mmengine'
    return f'{wanted_by} needs {scope}, which is not installed: {remedy}'


def root_registry(name: str) -> Registry | None:
    """The root registry of the given name ('model', 'dataset', ...)."""
    return next((entry for entry in vars(root_registries).values() if getattr(entry, 'name', None) == name), None)


def _scoped(root: Registry, scope: str) -> Registry:
    """The registry of a scope below a root, the root itself where the scope has none."""
    with suppress(Exception):  # a broken library is told where its scope is prepared
        importlib.import_module(f'{scope}.registry')
    return root.children.get(scope, root)


def find_type(name: str, root: Registry, scope: str) -> Any:
    """Look a type up as a config under a default scope does; ``None`` where it is not registered."""
    try:
        return _scoped(root, scope).get(name)
    except RuntimeError as error:
        if str(error).startswith('Failed to get'):
            return None
        raise


def _registered_names(root: Registry, scope: str) -> list[str]:
    """All names of a registry tree, as they have to be written under the given default scope."""
    names: list[str] = []
    current: Registry | None = _scoped(root, scope)
    while current is not None:
        current.import_from_location()
        names += list(current.module_dict)
        current = current.parent
    own = _scoped(root, 'mmvit_ext')
    if scope != 'mmvit_ext' and own is not root:
        own.import_from_location()
        names += [f'mmvit_ext.{name}' for name in own.module_dict]
    return names


def unknown_type_message(name: str, registry_name: str | None, scope: str | None = None, where: str = '') -> str:
    """The sentence for a type name, at a dotted key of a config, that no registry knows from its default scope."""
    place = f' (at {where})' if where else ''
    prefix, _, short = name.rpartition('.')
    if prefix in DISTRIBUTIONS or (prefix and '.' not in prefix):
        try:
            importlib.import_module(f'{prefix}.registry')
        except ImportError:
            return missing_library(prefix, f"the type '{name}'{place}")
    names: list[str] = []
    if registry_name and (root := root_registry(registry_name)) is not None:
        if prefix and '.' not in prefix:
            names = [f'{prefix}.{entry}' for entry in _registered_names(root, prefix) if '.' not in entry]
        names += _registered_names(root, scope or 'mmengine')
    by_short = {entry.rpartition('.')[2]: entry for entry in reversed(names)}
    similar = [by_short[entry] for entry in nearest(short or name, list(by_short))]
    kind = f' is no registered {registry_name}' if registry_name else ' is registered nowhere'
    remedy = f'did you mean {" or ".join(similar)}?' if similar else 'check the spelling, the scope and custom_imports'
    return f"the type '{name}'{place}{kind}: {remedy}"
