"""Convert released weights to this package's parameter names: pure functions of state dicts, without files."""

from collections.abc import Callable, Mapping

from torch import Tensor

from .dinov2_onnx import read_dinov2_onnx
from .eomt import add_base, convert_eomt, convert_eomt_detector
from .nest import convert_nest, describe_nest
from .p2t import convert_p2t, describe_p2t
from .segvit import convert_segvit
from .tnt import convert_tnt, describe_tnt
from .vit import convert_deit, convert_vit, describe_deit

__all__ = ['METHODS', 'add_base', 'convert', 'describe', 'read_dinov2_onnx']

Converter = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]

METHODS: dict[str, Converter] = {
    'deit': convert_deit,
    'dinov2-onnx': lambda state_dict: state_dict,
    'eomt': convert_eomt,
    'eomt-detector': convert_eomt_detector,
    'nest': convert_nest,
    'p2t': convert_p2t,
    'segvit': convert_segvit,
    'tnt': convert_tnt,
    'vit': convert_vit,
    'weights': lambda state_dict: state_dict,
}
"""Converters by name; ``vit`` and ``deit`` take the same files, for ViT and as a start for SPFormer, and ``weights``
keeps the names: the weights of a training checkpoint alone. What ``dinov2-onnx`` reads has transformers' names. The
same networks are ``eomt`` for semantic segmentation and ``eomt-detector`` for objects and panoptic segmentation."""

_LEARNED = ('weight', 'bias', 'token', 'pos_embed')
_DESCRIBERS = {'deit': describe_deit, 'nest': describe_nest, 'p2t': describe_p2t, 'tnt': describe_tnt}


def convert(state_dict: Mapping[str, Tensor], method: str) -> Mapping[str, Tensor]:
    """Rename a foreign state dict to the names of this package.

    Args:
        state_dict: Foreign names to tensors; left as it is.
        method: One of :data:`METHODS`.

    Raises:
        ValueError: The method is unknown, or keys are left over, missing or of a wrong shape; names them.
        TypeError: A value is no tensor, which is what a whole checkpoint file looks like.
    """
    if method not in METHODS:
        raise ValueError(f'method must be one of {sorted(METHODS)}, got {method!r}')
    if foreign := [key for key, value in state_dict.items() if not isinstance(value, Tensor)]:
        raise TypeError(f'state_dict must hold tensors only, but {foreign[:5]} are none; pass checkpoint["state_dict"]')
    for key, value in state_dict.items():
        if not value.is_floating_point() and key.endswith(_LEARNED):
            raise ValueError(f'{key} holds {value.dtype} numbers: expected floating ones')
    return METHODS[method](state_dict)


def describe(state_dict: Mapping[str, Tensor], method: str) -> str | None:
    """One sentence with the arguments that fit a foreign state dict, ``None`` where the names already say all."""
    return _DESCRIBERS[method](state_dict) if method in _DESCRIBERS else None
