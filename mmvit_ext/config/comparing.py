"""What differs between two configs, of which one may only be known as the text in a checkpoint."""

import ast
from collections.abc import Mapping
from typing import Any

from mmvit_ext.config.walking import walk

__all__ = ['config_differences', 'read_config_text']

_ABSENT = 'not set'


def read_config_text(text: Any) -> dict[str, Any] | None:
    """The values in mmengine's ``Config.pretty_text``, read without executing it; ``None`` where it is no such text."""
    try:
        statements = ast.parse(text).body
        return {s.targets[0].id: _value(s.value) for s in statements if isinstance(s, ast.Assign)}  # type: ignore[attr-defined]
    except (AttributeError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        parts = [{k.arg: _value(k.value)} if k.arg else _value(k.value) for k in node.keywords]
        return {str(key): value for part in parts for key, value in part.items()}
    if isinstance(node, ast.Dict) and all(node.keys):
        return {ast.literal_eval(k): _value(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(entry) for entry in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Old and new value of each entry that is another one, by dotted key."""
    before, after = (
        {key: value for key, value in walk(node) if not (isinstance(value, Mapping | list) and value)}
        for node in (old, new)
    )
    found = {}
    for key in sorted({*before, *after}):
        pair = before.get(key, _ABSENT), after.get(key, _ABSENT)
        # A type is the same whether it is written with or without its scope, or as a class.
        names = [str(value).rpartition('.')[2] if key.endswith('type') else repr(value) for value in pair]
        if names[0] != names[1]:
            found[key] = pair
    return found
