"""Learning rates that fall with the depth of a layer, for every backbone that tells the depth of its parameters."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmvit_ext.errors import UserError
from mmvit_ext.registry import OPTIM_WRAPPER_CONSTRUCTORS

__all__ = ['LearningRateDecayOptimizerConstructor']


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LearningRateDecayOptimizerConstructor(DefaultOptimWrapperConstructor):
    """The constructor of the same name in mmseg and mmdet, for any backbone with ``get_layer_depth``.

    Theirs decides by the name of the backbone's class and knows ConvNeXt, BEiT and MAE only. This one asks the
    backbone. A parameter of layer i of n gets ``decay_rate ** (n - 1 - i)`` of the learning rate, so that heads keep it
    whole; parameters with one dimension and biases have no weight decay. There is one parameter group for each layer
    with and one without weight decay.

    Args:
        optim_wrapper_cfg: The ``optim_wrapper`` of the config.
        paramwise_cfg: ``decay_rate``, or ``layer_decay_rate`` as mmpretrain calls it; ``num_layers``, which may be left
            out, is compared with the backbone's number of blocks; ``custom_keys`` with a ``decay_mult`` for parameters
            whose name holds the key.

    Raises:
        UserError: There is no decay rate, the number of layers is another one, or the backbone does not know the depth
            of its parameters.
    """

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **kwargs: Any) -> None:
        """Add the groups of a model's parameters to ``params``."""
        model: Any = module.module if is_model_wrapper(module) else module
        get_depth = getattr(getattr(model, 'backbone', None), 'get_layer_depth', None)
        if get_depth is None:
            raise UserError(
                f'optim_wrapper.constructor needs a backbone with get_layer_depth, such as those of mmvit_ext; '
                f'{type(model).__name__} has {type(getattr(model, "backbone", None)).__name__}'
            )
        rate = self.paramwise_cfg.get('decay_rate', self.paramwise_cfg.get('layer_decay_rate'))
        if rate is None:
            raise UserError('optim_wrapper.paramwise_cfg needs decay_rate, for example decay_rate=0.9')
        wanted, custom = self.paramwise_cfg.get('num_layers'), self.paramwise_cfg.get('custom_keys', {})
        groups: dict[tuple[int, float], dict[str, Any]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            layer, num_layers = get_depth(name, 'backbone.')
            if wanted is not None and wanted != num_layers - 2:
                raise UserError(
                    f'optim_wrapper.paramwise_cfg.num_layers is {wanted}, but the backbone has '
                    f'{num_layers - 2} blocks: set that number or leave num_layers out'
                )
            matching = max((key for key in custom if key in name), key=len, default=None)
            decay = 0.0 if parameter.ndim == 1 or name.endswith('bias') else self.base_wd or 0.0
            if matching is not None:
                decay = (self.base_wd or 0.0) * custom[matching].get('decay_mult', 1.0)
            scale = rate ** (num_layers - 1 - layer)
            group = groups.setdefault(
                (layer, decay), {'params': [], 'lr': scale * self.base_lr, 'lr_scale': scale, 'weight_decay': decay}
            )
            group['params'].append(parameter)
        params.extend(groups[key] for key in sorted(groups))
