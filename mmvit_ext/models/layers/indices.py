"""Which of a network's outputs are wanted."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ['resolve_indices']


def resolve_indices(
    indices: int | Sequence[int], count: int, what: str, *, name: str = 'out_indices', may_be_empty: bool = False
) -> tuple[int, ...]:
    """One or several ``indices`` into ``count`` things, counted from 0, in the order in which they were given.

    Raises:
        ValueError: None is given where ``may_be_empty`` is not set, or one lies outside or stands twice.
    """
    given = (indices,) if isinstance(indices, int) else tuple(indices)
    resolved = tuple(i + count if i < 0 else i for i in given)
    if (
        (not resolved and not may_be_empty)
        or any(not 0 <= i < count for i in resolved)
        or len(set(resolved)) < len(resolved)
    ):
        raise ValueError(f'{name} must name distinct {what} of {count}, got {indices!r}')
    return resolved
