"""Read the weights of a ViT of DINOv2's form out of an ONNX graph that was exported from transformers' ``Dinov2Model``.

The exporter keeps the names of biases, norms and scales. The weight of a linear map is found through the sum that adds
its bias, and the position embedding, which the graph holds in two parts, by its shape.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmvit_ext.errors.user_error import UserError

__all__ = ['read_dinov2_onnx']


def read_dinov2_onnx(path: str | Path) -> dict[str, Tensor]:
    """Names of transformers' ``Dinov2Model`` to tensors, as ``mmvit_ext.TimmViT`` takes them.

    Raises:
        UserError: The package onnx is missing, or the file holds no such graph.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise UserError(f'reading {path} needs onnx: install it with pip install onnx') from error
    try:
        graph: Any = onnx.load(path).graph
    except (OSError, DecodeError) as error:
        raise UserError(f'{path} cannot be read as an ONNX graph: {error}') from error
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == 'MatMul'}
    front = next((name.removesuffix('cls_token') for name in tensors if name.endswith('embeddings.cls_token')), None)
    if front is None:
        raise UserError(f"{path} is no ViT of DINOv2's form: no tensor of it is called embeddings.cls_token")
    network = front.removesuffix('embeddings.')
    stored = {name.removeprefix(network): value for name, value in tensors.items() if name.startswith(network)}
    for first, second in (node.input for node in graph.node if node.op_type == 'Add'):
        for bias, product in ((first, second), (second, first)):
            if bias in tensors and bias.startswith(network) and product in products:
                weight = tensors[products[product]].T
                stored[bias.removeprefix(network).replace('.bias', '.weight')] = weight
    width = stored['embeddings.cls_token'].shape[-1]
    loose = [value for name, value in tensors.items() if value.shape[::2] == (1, width) and name != f'{front}cls_token']
    loose = sorted((value for value in loose if value.ndim == 3), key=lambda value: value.shape[1])
    if len(loose) != 2 or loose[0].shape[1] != 1:
        shapes = [value.shape for value in loose]
        raise UserError(f'{path}: the position embedding should be two tensors, of the class token and of the grid, '
                        f'and these have its width: {shapes}')  # fmt: skip
    stored['embeddings.position_embeddings'] = np.concatenate(loose, axis=1)
    return {name: torch.from_numpy(np.array(value)) for name, value in stored.items()}
