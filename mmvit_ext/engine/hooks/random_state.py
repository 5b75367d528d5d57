"""The states of the random generators, as plain values that a checkpoint can hold."""

import random
from typing import Any

import numpy as np
import torch

__all__ = ['capture', 'restore']


def capture(gpu: bool = True) -> dict[str, Any]:
    """The states of this process's generators, if wanted its GPU's too, in values that ``weights_only=True`` loads."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, *rest = numpy_state
    cuda = torch.cuda.get_rng_state() if gpu and torch.cuda.is_available() else None
    words = (name, keys.tolist(), *rest)
    return {'python': random.getstate(), 'numpy': words, 'torch': torch.get_rng_state(), 'cuda': cuda}


def restore(state: dict[str, Any]) -> None:
    """Restore what :func:`capture` returned; its tensors may be on another device by now."""
    random.setstate(state['python'])
    np.random.set_state(state['numpy'])  # noqa: NPY002
    torch.set_rng_state(state['torch'].cpu())
    if state['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())
