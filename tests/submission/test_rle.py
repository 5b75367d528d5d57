"""Run lengths of compressed masks against pycocotools, and what is no such mask."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmvit_ext.submission.check import run_lengths

mask_utils = pytest.importorskip('pycocotools.mask')


def plain_lengths(mask: np.ndarray) -> list[int]:
    """Counted pixel by pixel, column by column, background first."""
    lengths, current = [0], 0
    for value in mask.T.reshape(-1):
        if value != current:
            lengths.append(0)
            current = value
        lengths[-1] += 1
    return lengths


def encode(mask: np.ndarray) -> str:
    return mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))['counts'].decode()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 23), st.integers(1, 19))
def test_run_lengths_are_those_of_the_mask_that_pycocotools_encoded(
    seed: int, share: float, height: int, width: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    assert run_lengths(encode(mask)).tolist() == plain_lengths(mask)


def test_long_runs_keep_their_length() -> None:
    mask = np.zeros((311, 307), dtype=bool)
    mask[101:, 203:] = True
    assert run_lengths(encode(mask)).tolist() == plain_lengths(mask)


def test_numbers_worked_out_by_hand() -> None:
    # 4 is one group, 48 + 4. The bit 16 of 20 would be its sign, so a second group follows: 48 + 32 + 20, then 48.
    assert run_lengths('4').tolist() == [4]
    assert run_lengths('d0').tolist() == [20]
    # The fourth number is the difference to the second: 3 + (-1), and -1 is the group 31 with the sign, 48 + 31 = 'o'.
    assert run_lengths('235O').tolist() == [2, 3, 5, 2]


def test_no_text_has_no_runs() -> None:
    assert run_lengths('').tolist() == []


@pytest.mark.parametrize(
    ('counts', 'reason'),
    [
        ('4 4', 'characters'),
        ('4é', 'characters'),
        ('4~', 'characters'),
        ('4d', 'cut off'),
        ('d' * 9 + '0', 'more than 32 bits'),
    ],
)
def test_a_text_that_is_no_mask_is_refused(counts: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        run_lengths(counts)
