"""Other people's weights to ours: pure functions from state dict to state dict, without reading or writing files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from .segvit import convert_segvit
from .vit import convert_vit

__all__ = ['METHODS', 'convert']

METHODS: Mapping[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = MappingProxyType(
    {
        'segvit': convert_segvit,
        'vit': convert_vit,
    }
)
"""Converters by name: ``segvit`` for released SegViT models, ``vit`` for AugReg and DeiT backbones in timm's names."""


def convert(state_dict: Mapping[str, Tensor], method: str) -> dict[str, Tensor]:
    """Rename a foreign state dict to the names of this package.

    Args:
        state_dict: foreign names to tensors.
        method: one of :data:`METHODS`.

    Returns:
        our names to the same tensors; the argument is left as it was.

    Raises:
        ValueError: for an unknown method, or naming the keys that are left over, missing or of a wrong shape.
        TypeError: if a value is no tensor, which is what a whole checkpoint file looks like.
    """
    if method not in METHODS:
        raise ValueError(f'method must be one of {sorted(METHODS)}, got {method!r}')
    foreign = [key for key, value in state_dict.items() if not isinstance(value, Tensor)]
    if foreign:
        raise TypeError(f'state_dict must hold tensors only, but {foreign[:5]} are none; pass checkpoint["state_dict"]')
    return METHODS[method](state_dict)
