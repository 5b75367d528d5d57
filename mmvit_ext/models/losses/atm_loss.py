"""Loss of the Attention-to-Mask decoder: classification of the class queries, focal and dice loss of their masks.

Paper: SegViT, Zhang et al., NeurIPS 2022, arXiv 2210.05844, section 3.2. Matching is fixed: query c answers for class
c. Only the masks of classes that occur in an image are supervised; they are gathered before they are upsampled.

Shapes: B images, N classes = queries, S supervised stages, M matched masks, (h, w) mask size, (H, W) label size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from mmvit_ext.models.layers.masks import fused_accuracy, mask_losses
from mmvit_ext.registry import MODELS

__all__ = ['ATMLoss', 'StageOutput']


class StageOutput(NamedTuple):
    """Class logits ``(B, N, N + 1)`` (the last class is "no object") and mask logits ``(B, N, h, w)`` of a stage."""

    logits: Tensor
    masks: Tensor


@MODELS.register_module()
class ATMLoss(nn.Module):
    r"""Sum of query classification, focal mask loss and dice loss over the stages of an ATM decoder.

    Per stage, with the matched masks and the weights of the queries counted over the whole batch of all processes:

    .. math:: L = \lambda_{ce} L_{ce} + \lambda_{mask} L_{focal} + \lambda_{dice} L_{dice}

    Args:
        ce_weight: Weight of the classification loss.
        mask_weight: Weight of the focal loss of the masks.
        dice_weight: Weight of the dice loss of the masks.
        no_object_weight: Weight of queries whose class is absent, relative to 1 for present classes.
        ignore_as_negative: Whether ignored pixels count as background of every mask, as published, or not at all.

    Note:
        With no labelled pixel in the batch the mask losses are 0 and everything stays finite. Several processes have
        the gradients that one with their batches put together has; the published training counted the weights of the
        queries, unlike the masks, in each process alone.
    """

    def __init__(
        self,
        *,
        ce_weight: float = 1.0,
        mask_weight: float = 20.0,
        dice_weight: float = 1.0,
        no_object_weight: float = 0.1,
        ignore_as_negative: bool = True,
    ) -> None:
        super().__init__()
        self.ce_weight, self.mask_weight, self.dice_weight = ce_weight, mask_weight, dice_weight
        self.no_object_weight, self.ignore_as_negative = no_object_weight, ignore_as_negative

    def forward(self, stages: Sequence[StageOutput], label: Tensor, ignore_index: int = 255) -> dict[str, Tensor]:
        """Losses of all stages, and ``acc_seg``, the pixel accuracy of the fused map in per cent.

        ``loss_ce``, ``loss_mask`` and ``loss_dice`` are of the last stage, and with suffixes of the others.
        """
        last = stages[-1]
        present = _classes_present(label, last.logits.shape[1], ignore_index)
        image_index, class_index = present.nonzero(as_tuple=True)
        num_masks, total_weight = self._counts(present)
        matched = _at_least_float32(torch.stack([stage.masks[image_index, class_index] for stage in stages]))
        ignored = None if self.ignore_as_negative else ignore_index
        with torch.autocast(label.device.type, enabled=False):
            focal, dice = mask_losses(matched, label, image_index, class_index, ignored)
        losses: dict[str, Tensor] = {}
        for index, stage in enumerate(stages):
            suffix = '' if stage is last else f'_{index}'
            losses[f'loss_ce{suffix}'] = self.ce_weight * self._classification_loss(stage.logits, present, total_weight)
            losses[f'loss_mask{suffix}'] = self.mask_weight * focal[index] / num_masks
            losses[f'loss_dice{suffix}'] = self.dice_weight * dice[index] / num_masks
        with torch.no_grad(), torch.autocast(label.device.type, enabled=False):
            probabilities = _at_least_float32(last.logits).softmax(-1)[..., :-1]
            losses['acc_seg'] = fused_accuracy(probabilities, _at_least_float32(last.masks), label, ignore_index)
        return losses

    def _counts(self, present: Tensor) -> tuple[Tensor, Tensor]:
        """Matched masks and summed weights of the queries: per process, averaged over all processes, above 0."""
        counts = torch.stack([present.sum(), present.new_tensor(present.numel(), dtype=torch.int64)]).float()
        all_reduce(counts)
        num_masks, num_queries = counts
        total_weight = num_masks + self.no_object_weight * (num_queries - num_masks)
        # At least one in all processes, not in each: otherwise a single mask would count less with more of them.
        return num_masks.clamp(min=1) / get_world_size(), total_weight / get_world_size()

    def _classification_loss(self, logits: Tensor, present: Tensor, total_weight: Tensor) -> Tensor:
        N = logits.shape[1]
        target = torch.arange(N, device=logits.device).expand_as(present).masked_fill(~present, N)
        weight = logits.new_ones(N + 1)
        weight[-1] = self.no_object_weight
        return F.cross_entropy(logits.transpose(1, 2), target, weight=weight, reduction='sum') / total_weight


def _classes_present(label: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """The table ``(B, N)`` of the classes that occur in each image."""
    classes = label.masked_fill(label == ignore_index, num_classes).flatten(1).long()
    wrong = (classes < 0) | (classes > num_classes)
    if wrong.any():
        values = f'label values {classes[wrong].unique().tolist()[:5]} are outside the {num_classes} classes'
        raise ValueError(f'{values} and are not {ignore_index=}; check num_classes and reduce_zero_label')
    present = label.new_zeros(len(label), num_classes + 1, dtype=torch.bool)
    return present.scatter_(1, classes, True)[:, :num_classes]


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
