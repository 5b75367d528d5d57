"""The states of the random generators: as they are, and as plain values that a checkpoint can hold."""

import random
from typing import Any

import numpy as np
import torch

__all__ = [
    'capture',
    'capture_cpu',
    'restore',
    'restore_cpu',
]


def capture_cpu() -> tuple[Any, Any, torch.Tensor]:
    """The states of Python's, NumPy's and torch's CPU generator, for :func:`restore_cpu`."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def restore_cpu(state: tuple[Any, Any, torch.Tensor]) -> None:
    """Put the generators back.

    Args:
        state: What :func:`capture_cpu` returned.
    """
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])


def capture() -> dict[str, Any]:
    """The states of the generators of this process, its GPU's included.

    Returns:
        Tensors, numbers and lists only: ``torch.load(weights_only=True)`` reads them.
    """
    (version, words, gauss), numpy_state, torch_state = capture_cpu()
    name, keys, position, has_gauss, cached = numpy_state
    return {
        'python': [version, list(words), gauss],
        'numpy': [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        'torch': torch_state,
        'cuda': torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore(state: dict[str, Any]) -> None:
    """Put the generators of this process back.

    Args:
        state: What :func:`capture` returned; tensors may have come to another device meanwhile.
    """
    version, words, gauss = state['python']
    name, keys, position, has_gauss, cached = state['numpy']
    restore_cpu(
        (
            (version, tuple(words), gauss),
            (name, np.array(keys, dtype=np.uint32), position, has_gauss, cached),
            state['torch'].cpu(),
        )
    )
    if state['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())
