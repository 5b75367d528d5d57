"""Build the model that a config describes, without the weights that its training started from."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import nn

from mmvit_ext.errors.user_error import UserError

__all__ = [
    'discard_pretrained',
    'resolve_device',
]


def resolve_device(name: str | None) -> torch.device:
    """The device to run on.

    Args:
        name: As PyTorch writes it ('cpu', 'cuda', 'cuda:1'); ``None`` takes a GPU if there is one.

    Returns:
        The device.

    Raises:
        UserError: There is no such device.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device('cuda' if gpus else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device '{name}' is no device: expected cpu, cuda or cuda:0") from error
    if device.type == 'cuda' and (device.index or 0) >= gpus:
        available = f'there are {gpus} GPUs, counted from 0' if gpus else 'there is no usable GPU'
        raise UserError(f"--device '{name}' cannot be used, {available}: choose another or cpu")
    try:
        torch.empty(1, device=device)
    except Exception as error:
        raise UserError(f"--device '{name}' cannot be used here: choose cpu or cuda") from error
    return device


def _build_model(cfg: Config) -> nn.Module:
    config = copy.deepcopy(cfg.model)
    discard_pretrained(config)
    if cfg.get('default_scope') == 'mmseg' or config.get('train_cfg') is None:
        config.pop('train_cfg', None)  # not every model has that argument
    if 'data_preprocessor' not in config and cfg.get('data_preprocessor'):
        preprocessor = copy.deepcopy(cfg.data_preprocessor)
        if cfg.get('default_scope') == 'mmpretrain':
            preprocessor.setdefault('type', 'ClsDataPreprocessor')
        config['data_preprocessor'] = preprocessor
    return revert_sync_batchnorm(MODELS.build(config))


def discard_pretrained(node: Any) -> None:
    """Remove pretrained weights from a model config, in place, where a checkpoint replaces them all anyway.

    Args:
        node: The model config or a part of it.
    """
    if isinstance(node, Mapping):
        config = node.get('init_cfg')
        if isinstance(config, Mapping) and config.get('type') == 'Pretrained':
            node['init_cfg'] = None  # type: ignore[index]
        if isinstance(node.get('pretrained'), str):
            node['pretrained'] = None  # type: ignore[index]
        for entry in node.values():
            discard_pretrained(entry)
    elif isinstance(node, list | tuple):
        for entry in node:
            discard_pretrained(entry)
