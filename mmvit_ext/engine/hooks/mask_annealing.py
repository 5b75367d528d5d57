"""Schedules of an encoder-only mask transformer (arXiv 2503.19108, section 3.2 and its training details)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvit_ext.engine.hooks.reports import bare_model
from mmvit_ext.errors import UserError
from mmvit_ext.registry import HOOKS

__all__ = ['MaskAnnealingHook']


@HOOKS.register_module()
class MaskAnnealingHook(Hook):
    r"""Anneal the masks of an ``EoMTHead``, block by block, until the network is a plain ViT.

    In its window :math:`[a, b]` of the training the probability with which the queries of a block attend within their
    masks falls from 1 to 0 (arXiv 2503.19108, section 3.2):

    .. math:: P = \Big(1 - \frac{t - a}{b - a}\Big)^{\mathrm{power}}

    The probabilities follow from the number of iterations, so that a resumed run has them too; the head's state dict
    holds the last ones.

    Args:
        windows: Begin and end for each of the last blocks that the head has, as shares of the training. When not
            given, they follow each other: with L2 blocks the k-th, from 0, has those between (k + 1) / (L2 + 2) and
            (k + 2) / (L2 + 2), so that a training begins with all masks and ends without any.
        power: Exponent of the decay.

    Raises:
        UserError: The model has no ``EoMTHead``, or another number of blocks.
    """

    priority = 'NORMAL'

    def __init__(self, *, windows: Sequence[Sequence[float]] | None = None, power: float = 0.9) -> None:
        self.windows = None if windows is None else [(float(begin), float(end)) for begin, end in windows]
        if self.windows and not all(0 <= begin < end <= 1 for begin, end in self.windows):
            raise ValueError(f'windows must be pairs of shares with 0 <= begin < end <= 1, got {windows}')
        self.power = power

    def _head(self, runner: Runner) -> Any:
        model = bare_model(runner.model)
        head = getattr(model, 'decode_head', getattr(model, 'panoptic_head', None))
        if not hasattr(head, 'set_mask_probabilities'):
            raise UserError(f'MaskAnnealingHook needs an EoMTHead, {type(model).__name__} has {type(head).__name__}')
        return head

    def before_train(self, runner: Runner) -> None:
        blocks = self._head(runner).num_blocks
        if self.windows is not None and len(self.windows) != blocks:
            raise UserError(f'MaskAnnealingHook.windows has {len(self.windows)} entries for {blocks} blocks')

    def probabilities(self, share: float, blocks: int) -> list[float]:
        """Probability of each block when a share of the training is done."""
        parts = blocks + 2
        windows = self.windows or [((block + 1) / parts, (block + 2) / parts) for block in range(blocks)]
        return [min(max((end - share) / (end - begin), 0.0), 1.0) ** self.power for begin, end in windows]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        head = self._head(runner)
        head.set_mask_probabilities(self.probabilities(runner.iter / runner.max_iters, head.num_blocks))

    def after_train(self, runner: Runner) -> None:
        head = self._head(runner)
        head.set_mask_probabilities(self.probabilities(1.0, head.num_blocks))
