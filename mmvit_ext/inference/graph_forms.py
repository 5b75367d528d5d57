"""Modules of the libraries in a form that an exported graph can hold, on a copy of the network.

What they compute stays the same. Their own code asks whether a size is a multiple of another, or turns a number of
images into a Python integer, so that a graph would hold for the one size that was traced.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmvit_ext.models.layers.open_sizes import pad_to_multiple

__all__ = ['with_graph_forms']


def with_graph_forms(network: nn.Module) -> nn.Module:
    """A copy of a network whose modules of mmseg and timm can be exported for open sizes."""
    network = copy.deepcopy(network)
    for module in network.modules():
        source, name = type(module).__module__, type(module).__name__
        if hasattr(module, 'relative_position_bias_table') and hasattr(module, 'fused_attn'):
            vars(module)['fused_attn'] = False  # ONNX cannot view what the fused form gives with a bias
        elif source.startswith('mmseg.') and name in _FORMS:
            for method, form in _FORMS[name].items():
                setattr(module, method, form.__get__(module))
    return network


def _upsampled(module: Any, x: Tensor) -> Tensor:
    """Upsampling of mmseg by a whole factor."""
    if not float(module.scale_factor or 0.5).is_integer():
        return type(module).forward(module, x)
    size = [edge * int(module.scale_factor) for edge in x.shape[2:]]
    return F.interpolate(x, size, mode=module.mode, align_corners=module.align_corners)


def _padded(module: Any, x: Tensor) -> Tensor:
    """Padding of mmseg to whole square windows that do not overlap."""
    (edge, *others), strides = module.kernel_size, module.stride
    if module.padding != 'corner' or {edge, *others} != set(strides):
        return type(module).forward(module, x)
    return pad_to_multiple(x, edge)


def _windowed(module: Any, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """Attention in Swin's windows on a map that was padded to whole ones before, and is cut after it."""
    h, w = hw_shape
    x = pad_to_multiple(query.unflatten(1, (h, w)).permute(0, 3, 1, 2), module.window_size).permute(0, 2, 3, 1)
    size = (x.shape[1], x.shape[2])
    x = type(module).forward(module, x.flatten(1, 2), size)
    return x.unflatten(1, size)[:, :h, :w].flatten(1, 2)


def _joined(module: Any, windows: Tensor, height: int, width: int) -> Tensor:
    """Windows ``(B * h * w, edge, edge, C)`` to a map ``(B, H, W, C)`` without computing B."""
    edge = module.window_size
    x = windows.unflatten(0, (-1, height // edge, width // edge)).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, height, width, windows.shape[-1])


_FORMS: dict[str, dict[str, Callable[..., Tensor]]] = {
    'Upsample': {'forward': _upsampled},
    'AdaptivePadding': {'forward': _padded},
    'ShiftWindowMSA': {'forward': _windowed, 'window_reverse': _joined},
}
