"""Renaming a foreign state dict by rules, such that no key is lost unnoticed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

__all__ = ['Rule', 'apply_rules', 'name_some', 'numbers_in', 'require_keys']

Rule = tuple[str, 'str | None']
"""A regular expression for a whole key, and its replacement; None for a key that has no counterpart here."""


def apply_rules(state_dict: Mapping[str, Tensor], rules: Sequence[Rule], method: str) -> dict[str, Tensor]:
    """Rename every key by the first rule that matches it; ``method`` is for the message.

    Raises:
        ValueError: Names the keys that no rule matches, or two keys that would get the same name.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    converted: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in state_dict.items():
        for pattern, replacement in compiled:
            match = pattern.fullmatch(key)
            if match is None:
                continue
            if replacement is not None:
                name = match.expand(replacement)
                if name in converted:
                    raise ValueError(f'{method}: more than one key of the checkpoint would become {name!r}')
                converted[name] = tensor
            break
        else:
            unknown.append(key)
    if unknown:
        raise ValueError(f'not a {method} checkpoint, or of another version: unknown keys {name_some(unknown)}')
    return converted


def require_keys(state_dict: Mapping[str, Tensor], names: Iterable[str], method: str) -> None:
    """Raise ``ValueError`` with the list of ``names`` that ``state_dict`` lacks."""
    missing = [name for name in names if name not in state_dict]
    if missing:
        raise ValueError(f'incomplete {method} checkpoint: missing {name_some(missing)}')


def numbers_in(names: Iterable[str], pattern: str) -> list[int]:
    """The numbers that the group of a regular expression for whole names takes, in ascending order."""
    matches = (re.fullmatch(pattern, name) for name in names)
    return sorted({int(match.group(1)) for match in matches if match})


def name_some(names: Sequence[str], limit: int = 20) -> str:
    """The first names, and how many more there are."""
    shown = ', '.join(names[:limit])
    return shown if len(names) <= limit else f'{shown} and {len(names) - limit} more'
