"""Build the model that a config describes, without the weights that its training started from."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import nn

from mmvit_ext.config.loading import prepare_scope
from mmvit_ext.config.walking import is_pretrained, loads_by_itself
from mmvit_ext.errors import UserError

__all__ = ['build_model', 'discard_pretrained', 'resolve_device']


def resolve_device(name: str | None) -> torch.device:
    """The device of a name such as 'cpu', 'cuda' or 'cuda:1'; ``None`` takes a GPU if there is one."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device('cuda' if gpus else 'cpu')
    try:
        return torch.empty(1, device=name).device
    except Exception as error:
        found = f'there are {gpus} GPUs, counted from 0' if gpus else 'there is no usable GPU'
        raise UserError(f"--device '{name}' cannot be used, {found}: expected cpu, cuda or cuda:0") from error


def build_model(
    cfg: Config, *, device: str | torch.device | None = None, training: bool = False, pretrained: bool = False
) -> nn.Module:
    """Build a config's model and data preprocessor with random weights; on ``'meta'`` it has names and shapes alone.

    With ``pretrained`` it knows the weights with which a training would begin, and ``init_weights()`` loads them.
    """
    scope = prepare_scope(cfg)
    config = copy.deepcopy(cfg.model)
    if not pretrained:
        discard_pretrained(config)
    if not training and (scope == 'mmseg' or config.get('train_cfg') is None):
        config.pop('train_cfg', None)  # not every model has that argument
    if 'data_preprocessor' not in config and cfg.get('data_preprocessor'):
        preprocessor = copy.deepcopy(cfg.data_preprocessor)
        if scope == 'mmpretrain':
            preprocessor.setdefault('type', 'ClsDataPreprocessor')
        config['data_preprocessor'] = preprocessor
    device = torch.device('cpu' if device is None else device)
    try:
        with device:
            return revert_sync_batchnorm(MODELS.build(copy.deepcopy(config)))
    except RuntimeError:
        if device.type != 'meta':
            raise
    return revert_sync_batchnorm(MODELS.build(config)).to(device)  # some classes read tensors while they are built


def discard_pretrained(node: Any) -> None:
    """Remove pretrained weights from a model config or a part of it, in place: a checkpoint replaces them anyway."""
    if isinstance(node, Mapping):
        if is_pretrained(node.get('init_cfg')):
            node['init_cfg'] = None  # type: ignore[index]
        if loads_by_itself(node):
            node['checkpoint'] = None  # type: ignore[index]
        if node.get('pretrained'):  # an address, or True for what the class knows by itself
            node['pretrained'] = False if node['pretrained'] is True else None  # type: ignore[index]
        node = list(node.values())
    if isinstance(node, list | tuple):
        for entry in node:
            discard_pretrained(entry)
