"""Write configs as text that a person can read and edit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmvit_ext.errors.user_error import printable

__all__ = ['Name', 'config_text']

WIDTH = 120


class Name(str):
    """A name that the config itself gives to something, written without quotes."""

    __slots__ = ()


def config_text(docstring: str, sections: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of a Python config: a docstring, then sections of assignments under a comment each."""
    head = printable(docstring.strip(), keep='\n').replace('\\', '/').replace('"""', "'''")
    blocks = [f'"""{head}\n"""']
    for comment, entries in sections.items():
        lines = [f'{name} = {_code(value, len(name) + 3)}' for name, value in entries.items()]
        blocks.append('\n'.join([f'# {comment}', *lines]))
    return '\n\n'.join(blocks) + '\n'


def _code(value: Any, used: int, indent: int = 0) -> str:
    """A value as code, in one line where ``used`` characters before it leave the room, otherwise in several."""
    entries, (opening, closing) = _entries(value)
    if entries is None:
        return str(value) if isinstance(value, Name) else repr(value)
    inner = [f'{key}{_code(entry, 0, -WIDTH)}' for key, entry in entries]
    ending = ',' if isinstance(value, tuple) and len(inner) == 1 else ''
    line = f'{opening}{", ".join(inner)}{ending}{closing}'
    if indent + used + len(line) <= WIDTH - 1 or not inner:
        return line
    deeper = indent + 4
    lines = [f'{" " * deeper}{key}{_code(entry, len(key), deeper)},\n' for key, entry in entries]
    return f'{opening}\n{"".join(lines)}{" " * indent}{closing}'


def _entries(value: Any) -> tuple[list[tuple[str, Any]] | None, tuple[str, str]]:
    """What a collection consists of, each with what is written before it, and its brackets; None for other values."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and key.isidentifier() for key in value):
            return [(f'{key}=', entry) for key, entry in value.items()], ('dict(', ')')
        return [(f'{key!r}: ', entry) for key, entry in value.items()], ('{', '}')
    if isinstance(value, list | tuple):
        return [('', entry) for entry in value], ('[', ']') if isinstance(value, list) else ('(', ')')
    return None, ('', '')
