"""The safetensors format: tensors by name behind a JSON header, whose metadata are texts by name."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path
from mmvit_ext.models.layers.position_embedding import told_grids

__all__ = ['is_safetensors', 'read_safetensors', 'write_safetensors']

KEY = 'mmvit_ext'
"""Name of the text, in JSON, that holds ``meta`` and the grids of position embeddings."""


def is_safetensors(path: Path, head: bytes) -> bool:
    """Whether a file is of the safetensors format: the length of a JSON header, then the header."""
    return path.suffix == '.safetensors' or (head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < 100 * 2**20)


def read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors of a file; of one that :func:`write_safetensors` wrote, a checkpoint with ``meta`` and grids."""
    from safetensors import safe_open

    with safe_open(path, 'pt') as file:
        text = (file.metadata() or {}).get(KEY)
        state = OrderedDict((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
    if text is None:
        return state
    told = json.loads(text)
    vars(state)['_metadata'] = {prefix: {'grids': dict(grids)} for prefix, grids in dict(told['grids']).items()}
    vars(state)['_metadata'] = {prefix: {'grids': grids} for prefix, grids in told_grids(state).items()}
    return {'state_dict': state, 'meta': dict(told['meta'])}


def write_safetensors(path: str | Path, state_dict: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
    """Write weights with ``meta`` and the grids that their metadata tell, whole or not at all."""
    from safetensors.torch import save_file

    # Tensors that share memory, which the format refuses, become copies.
    tensors = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state_dict.items()}
    metadata = {'format': 'pt', KEY: json.dumps({'meta': meta, 'grids': told_grids(state_dict)})}
    with atomic_path(path) as file:
        try:
            save_file(tensors, file, metadata=metadata)
        except KeyError as error:
            raise UserError(f'{path}: the safetensors format has no numbers of {error}, write a .pth file') from error
