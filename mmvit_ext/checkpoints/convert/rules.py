"""Renaming a foreign state dict by rules, such that no key is lost unnoticed, and comparing it with its network."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmvit_ext.checkpoints.report import weights_report

__all__ = ['Rule', 'apply_rules', 'describe_network', 'name_some', 'non_default', 'numbers_in', 'parameters']
__all__ += ['published_arch', 'require_fit', 'require_keys']

Rule = tuple[str, 'str | None']
"""A regular expression for a whole key, and its replacement; None for a key that has no counterpart here."""


def parameters(names: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules for weights and biases: a pattern for the module there, and its name here, which ends in ``.`` or ``_``."""
    return tuple((rf'{theirs}[._](?P<part>weight|bias)', rf'{ours}\g<part>') for theirs, ours in names.items())


def apply_rules(state_dict: Mapping[str, Tensor], rules: Sequence[Rule], method: str) -> dict[str, Tensor]:
    """Rename every key by the first rule that matches it; ``ValueError`` names keys without one and double names."""
    converted: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in state_dict.items():
        matches = ((re.fullmatch(pattern, key), replacement) for pattern, replacement in rules)
        match, replacement = next(((match, new) for match, new in matches if match), (None, None))
        if match is None:
            unknown.append(key)
        elif replacement is not None:
            name = match.expand(replacement)
            if name in converted:
                raise ValueError(f'{method}: more than one key of the checkpoint would become {name!r}')
            converted[name] = tensor
    if unknown:
        raise ValueError(f'not a {method} checkpoint, or of another version: unknown keys {name_some(unknown)}')
    return converted


def require_keys(state_dict: Mapping[str, Tensor], names: Iterable[str], method: str) -> None:
    """Raise ``ValueError`` with the list of ``names`` that ``state_dict`` lacks."""
    if missing := [name for name in names if name not in state_dict]:
        raise ValueError(f'incomplete {method} checkpoint: missing {name_some(missing)}')


def require_fit(
    network: Any, arguments: Mapping[str, Any], converted: Mapping[str, Tensor], method: str, prefix: str = 'backbone.'
) -> None:
    """Refuse weights behind a prefix that do not fit a network; numbers of heads may be missing in its arguments."""
    arch = dict(arguments['arch'])
    for name in next(iter(network.ARCHS.values())).keys() - arch.keys():
        like = arch.get('embed_dims', 1)  # a number of heads for each stage, where there are stages
        arch[name] = (1,) * len(like) if isinstance(like, tuple) else 1
    with torch.device('meta'):
        model: nn.Module = network(**{**arguments, 'arch': arch})
    ours = {f'{prefix}{name}': value for name, value in model.state_dict().items()}
    report = weights_report(ours, {name: value for name, value in converted.items() if name.startswith(prefix)})
    require_keys(converted, ours, method)
    if not report.exact:
        raise ValueError(f'{method}: the weights do not fit the network that their shapes describe: {report}')


def published_arch(network: Any, arch: Mapping[str, Any]) -> str | None:
    """The name of a network's architecture that has the settings of ``arch``."""
    matching = (name for name, row in network.ARCHS.items() if all(row.get(key) == arch[key] for key in arch))
    return next(matching, None)


def describe_network(network: Any, arguments: Mapping[str, Any], kind: str, hint: str = '') -> str:
    """One sentence on what a file holds, with the arguments that fit it; ``hint`` is on unpublished sizes."""
    arch = arguments['arch']
    name = published_arch(network, arch)
    settings = {**({'arch': name} if name else arch), **{key: arguments[key] for key in arguments if key != 'arch'}}
    listed = ', '.join(f'{key}={value!r}' for key, value in settings.items())
    if name:
        return f'{network.__name__}-{name.capitalize()} {kind}: {listed}'
    unpublished = f'{kind}, with a {network.__name__} of none of the published sizes{hint}: {listed}'
    return f'{unpublished}; the numbers of heads cannot be read off the shapes'


def non_default(found: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from a network's defaults."""
    return {name: value for name, value in found.items() if value != default[name]}


def numbers_in(names: Iterable[str], pattern: str) -> list[int]:
    """The numbers that the group of a regular expression for whole names takes, in ascending order."""
    matches = (re.fullmatch(pattern, name) for name in names)
    return sorted({int(match.group(1)) for match in matches if match})


def name_some(names: Sequence[str], limit: int = 20) -> str:
    """The first names, and how many more there are."""
    shown = ', '.join(names[:limit])
    return shown if len(names) <= limit else f'{shown} and {len(names) - limit} more'
