"""The states of the random generators, also as plain values that a checkpoint can hold."""

import random
from typing import Any

import numpy as np
import torch

__all__ = ['capture', 'capture_cpu', 'restore', 'restore_cpu']


def capture_cpu() -> tuple[Any, Any, torch.Tensor]:
    """The states of Python's, NumPy's and torch's CPU generator, for :func:`restore_cpu`."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def restore_cpu(state: tuple[Any, Any, torch.Tensor]) -> None:
    """Restore what :func:`capture_cpu` returned."""
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])


def capture() -> dict[str, Any]:
    """The states of this process's generators, its GPU's included, in values that ``weights_only=True`` loads."""
    (version, words, gauss), numpy_state, torch_state = capture_cpu()
    name, keys, position, has_gauss, cached = numpy_state
    return {
        'python': [version, list(words), gauss],
        'numpy': [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        'torch': torch_state,
        'cuda': torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore(state: dict[str, Any]) -> None:
    """Restore what :func:`capture` returned; its tensors may be on another device by now."""
    version, words, gauss = state['python']
    name, keys, position, has_gauss, cached = state['numpy']
    numpy_state = (name, np.array(keys, dtype=np.uint32), position, has_gauss, cached)
    restore_cpu(((version, tuple(words), gauss), numpy_state, state['torch'].cpu()))
    if state['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())
