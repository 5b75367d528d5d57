"""Classes as a user names them."""

from __future__ import annotations

from collections.abc import Sequence

from mmvit_ext.errors.type_names import nearest
from mmvit_ext.errors.user_error import UserError

__all__ = ['find_classes']


def find_classes(wanted: Sequence[str | int], classes: Sequence[str], *, numbers: bool = False) -> tuple[int, ...]:
    """Indices of classes, in the order given, each once.

    Args:
        wanted: Names in any case, as a user writes them.
        classes: Names of all classes.
        numbers: Whether numbers from 0 are understood as well; what could be both is a name.

    Raises:
        UserError: There is no such class.
    """
    known: dict[str, int] = {}
    for index, name in enumerate(classes):
        known.setdefault(_plain(name), index)
    found: dict[int, None] = {}
    for name in map(str, wanted):
        index = known.get(_plain(name), -1)
        if index < 0 and numbers and name.strip().lstrip('+-').isdecimal():
            index = int(name)
            if not 0 <= index < len(classes):
                raise UserError(
                    f'there is no class {index}, this model has {len(classes)}: expected 0 to {len(classes) - 1} or '
                    'a name'
                )
        if index < 0:
            near = nearest(name.strip(), [entry.strip() for entry in classes])
            hint = f'did you mean {" or ".join(map(repr, near))}?' if near else 'names with spaces need quotes'
            raise UserError(f"--classes '{name}' is none of the {len(classes)} classes of this model: {hint}")
        found[index] = None
    return tuple(found)


def _plain(name: str) -> str:
    return ' '.join(name.split()).casefold()
