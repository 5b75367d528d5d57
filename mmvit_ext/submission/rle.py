"""The run lengths in COCO's compressed masks, read without trusting them.

pycocotools decodes into memory of the size that the mask claims; some of its versions do not mind when the runs are
longer than that. What comes from a file is therefore measured here before it is decoded there.
"""

from __future__ import annotations

import numpy as np

__all__ = ['run_lengths']

_FIRST, _BITS, _MORE, _SIGN = 48, 5, 32, 16


def run_lengths(counts: str) -> np.ndarray:
    """The run lengths of a compressed mask: background, object, background, ... in columns.

    A number is written in groups of five bits, the lowest first, a character for each: 48 and the group, and 32 more
    where another group follows. The highest bit of the last group is the sign. From the fourth number on, the
    difference to the number two places before is written.

    Args:
        counts: The text under ``counts``.

    Returns:
        The lengths in pixels (N,). A sound mask has none below zero, and they add up to its height times its width.

    Raises:
        ValueError: The text is no such list.
    """
    try:
        codes = np.frombuffer(counts.encode('ascii'), dtype=np.uint8).astype(np.int64) - _FIRST
    except UnicodeEncodeError as error:
        raise ValueError('it holds characters that do not occur in such a text') from error
    if not codes.size:
        return np.zeros(0, dtype=np.int64)
    if codes.min() < 0 or codes.max() >= 2 * _MORE:
        raise ValueError('it holds characters that do not occur in such a text')
    ends = np.flatnonzero(codes < _MORE)
    if not ends.size or ends[-1] != codes.size - 1:
        raise ValueError('it is cut off')
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise ValueError('it holds a number of more than 32 bits')
    place = np.arange(codes.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes % _MORE) << (_BITS * place), starts)
    values -= np.where(codes[ends] & _SIGN, 1 << (_BITS * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
