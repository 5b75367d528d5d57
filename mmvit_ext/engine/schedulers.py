"""Schedules of learning rates beyond mmengine's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

from mmvit_ext.registry import PARAM_SCHEDULERS

__all__ = ['TwoStagePolyLR']


@PARAM_SCHEDULERS.register_module()
class TwoStagePolyLR(_ParamScheduler):
    r"""Polynomial decay behind two warm-ups: first of what begins at random, then of what is pretrained.

    With warm-ups of :math:`a` and :math:`b` iterations the learning rate of the heads is scaled at iteration t by
    :math:`(t + 1) / a`, that of the backbone by 0 up to a and by :math:`(t + 1 - a) / b` behind it. Afterwards, each
    falls with :math:`(1 - (t - t_0) / (T - t_0))^{\mathrm{power}}` from its own :math:`t_0` on. The backbone are the
    groups of :class:`mmvit_ext.LayerDecayConstructor` below the full rate.

    Args:
        optimizer: The optimizer, or mmengine's wrapper of it.
        warmup: Iterations of both warm-ups, a and b.
        end: Number of iterations T.
        power: Exponent of the decay.
        begin: Must be 0.
        last_step: Iteration of a resumed run.
        by_epoch: Must be False.
        verbose: Whether every learning rate is printed.

    Raises:
        ValueError: ``end`` is not above the sum of the warm-ups, or no group of the optimizer is below the full rate.
    """

    def __init__(
        self,
        optimizer: Any,
        *,
        end: int,
        warmup: Sequence[int] = (500, 1000),
        power: float = 0.9,
        begin: int = 0,
        last_step: int = -1,
        by_epoch: bool = False,
        verbose: bool = False,
    ) -> None:
        self.heads, self.backbone = warmup
        if begin or by_epoch or end <= self.heads + self.backbone:
            given = f'{begin=}, {by_epoch=}, {end=}, warmup={tuple(warmup)}'
            raise ValueError(f'expected begin=0, by_epoch=False and end above both warm-ups together, got {given}')
        if not any(map(_is_backbone, optimizer.param_groups)):
            remedy = "set optim_wrapper.constructor='mmvit_ext.LayerDecayConstructor' and a decay_rate below 1"
            raise ValueError(f'TwoStagePolyLR has no parameters for its second warm-up: {remedy}')
        self.power, self.total = power, end
        super().__init__(optimizer, 'lr', begin=begin, end=end, last_step=last_step, by_epoch=by_epoch, verbose=verbose)

    def factor(self, step: int, *, pretrained: bool) -> float:
        """What the learning rate of a group is scaled by."""
        start, length = (self.heads, self.backbone) if pretrained else (0, self.heads)
        if step < start + length:
            return max(step + 1 - start, 0) / length
        done = (step - start - length) / (self.total - start - length)
        return max(1 - done, 0.0) ** self.power

    def _get_value(self) -> list[float]:
        groups = self.optimizer.param_groups
        return [
            base * self.factor(self.last_step, pretrained=_is_backbone(group))
            for base, group in zip(self.base_values, groups, strict=True)
        ]


def _is_backbone(group: Mapping[str, Any]) -> bool:
    return bool(group.get('lr_scale', 1.0) < 1)
