"""Loss of the Attention-to-Mask decoder: classification of the class queries, focal and dice loss of their masks.

Paper: SegViT, Zhang et al., NeurIPS 2022, arXiv 2210.05844, section 3.2. Matching is fixed: query c answers for class
c. Only the masks of classes that occur in an image are supervised; they are gathered before they are upsampled.

Shapes: B images, N classes = queries, S supervised stages, M matched masks, (h, w) mask size, (H, W) label size.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, NoReturn

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from mmvit_ext.models.layers.masks import fused_accuracy, mask_losses
from mmvit_ext.models.layers.open_sizes import is_traced
from mmvit_ext.registry import MODELS

__all__ = ['ATMLoss', 'StageOutput', 'refuse_labels']


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

    def forward(
        self,
        stages: Sequence[StageOutput],
        label: Tensor,
        ignore_index: int = 255,
        classes: Sequence[Sequence[int]] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of all stages, and ``acc_seg``, the pixel accuracy of the fused map in per cent.

        ``loss_ce``, ``loss_mask`` and ``loss_dice`` are of the last stage, and with suffixes of the others.
        ``classes`` are those that occur in each image, where the host knows them; otherwise they are read from the
        device, which makes the host wait for it, or, in a graph that is traced, all masks are computed and weighted.
        """
        last = stages[-1]
        B, N = last.logits.shape[:2]
        if is_traced():
            present = _class_table(label, N, ignore_index)[:, :N]
            slots = torch.arange(B * N, device=label.device)
            image_index, class_index = slots // N, slots % N
            weights = present.flatten().to(torch.float32)
        else:
            classes = _classes_present(label, N, ignore_index) if classes is None else classes
            image_index, class_index = _matches(classes, N, label.device)
            present = torch.zeros(B, N, dtype=torch.bool, device=label.device)
            present[image_index, class_index] = torch.ones_like(image_index, dtype=torch.bool)
            weights = None
        num_masks, total_weight = self._counts(present)
        matched = _at_least_float32(torch.stack([stage.masks[image_index, class_index] for stage in stages]))
        ignored = None if self.ignore_as_negative else ignore_index
        with _full_precision(label.device):
            focal, dice = mask_losses(matched, label, image_index, class_index, ignored, weights)
        parts = {
            'loss_ce': self._classification_losses(stages, present) * (self.ce_weight / total_weight),
            'loss_mask': focal * (self.mask_weight / num_masks),
            'loss_dice': dice * (self.dice_weight / num_masks),
        }
        losses: dict[str, Tensor] = {}
        for index, values in enumerate(zip(*(part.unbind() for part in parts.values()), strict=True)):
            suffix = '' if index == len(stages) - 1 else f'_{index}'
            losses |= {f'{name}{suffix}': value for name, value in zip(parts, values, strict=True)}
        with torch.no_grad(), _full_precision(label.device):
            probabilities = _at_least_float32(last.logits).softmax(-1)[..., :-1]
            losses['acc_seg'] = fused_accuracy(probabilities, _at_least_float32(last.masks), label, ignore_index)
        return losses

    def _counts(self, present: Tensor) -> tuple[Tensor, Tensor]:
        """Matched masks and summed weights of the queries: per process, averaged over all processes, above 0."""
        num_masks = present.sum(dtype=torch.float32)
        counts = torch.stack([num_masks, torch.full_like(num_masks, present.numel())])
        all_reduce(counts)
        num_masks, num_queries = counts
        total_weight = num_masks + self.no_object_weight * (num_queries - num_masks)
        # At least one in all processes, not in each: otherwise a single mask would count less with more of them.
        return num_masks.clamp(min=1) / get_world_size(), total_weight / get_world_size()

    def _classification_losses(self, stages: Sequence[StageOutput], present: Tensor) -> Tensor:
        """Weighted cross entropy of the queries, summed over those of each stage ``(S,)``."""
        B, N = present.shape
        target = torch.where(present, torch.arange(N, device=present.device), N)  # (B, N)
        logits = _at_least_float32(torch.stack([stage.logits for stage in stages]))  # (S, B, N, N + 1)
        weight = torch.ones(N + 1, dtype=logits.dtype, device=logits.device)
        weight[-1] = self.no_object_weight
        # One row per query: with more dimensions CUDA has no deterministic form.
        rows, targets = logits.flatten(0, 2), target.expand(len(stages), B, N).flatten()
        return F.cross_entropy(rows, targets, weight=weight, reduction='none').view(len(stages), -1).sum(1)


def _class_table(label: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Which classes ``(B, N + 2)`` occur in each image, then whether ignored and whether impossible labels do."""
    classes = label.flatten(1).long()
    possible = (classes >= 0) & (classes < num_classes)
    outside = torch.where(classes == ignore_index, num_classes, num_classes + 1)
    # A class may be the ignored label.
    classes = torch.where(possible & (classes != ignore_index), classes, outside)
    table = torch.zeros(len(label), num_classes + 2, dtype=torch.bool, device=label.device)
    return table.scatter(1, classes, True)


def _classes_present(label: Tensor, num_classes: int, ignore_index: int) -> list[list[int]]:
    """The classes that occur in each image; the host waits for a device once."""
    table = _class_table(label, num_classes, ignore_index).tolist()
    if any(row[-1] for row in table):
        known = (label >= 0) & (label < num_classes) | (label == ignore_index)
        refuse_labels(label[~known].unique().tolist(), num_classes, f' and are not {ignore_index=}')
    return [[index for index, occurs in enumerate(row[:num_classes]) if occurs] for row in table]


def _matches(classes: Sequence[Sequence[int]], num_classes: int, device: torch.device) -> Tensor:
    """Image and class ``(2, M)`` of every mask that is supervised, without waiting for the device."""
    pairs = [(image, index) for image, found in enumerate(classes) for index in found]
    if wrong := sorted({index for _, index in pairs if not 0 <= index < num_classes}):
        refuse_labels(wrong, num_classes)
    table = torch.tensor(pairs, dtype=torch.long).view(-1, 2).T.contiguous()
    if device.type == 'cuda':
        table = table.pin_memory()  # a copy from other memory waits for all that the device still has to do
    return table.to(device, non_blocking=True)


def refuse_labels(values: Sequence[int], num_classes: int, also: str = '') -> NoReturn:
    """Raise the ``ValueError`` that names label values which are no class."""
    text = f'label values {list(values)[:5]} are outside the {num_classes} classes{also}'
    raise ValueError(f'{text}; check num_classes and reduce_zero_label')


def _full_precision(device: torch.device) -> AbstractContextManager:
    """No autocast; ``meta`` knows none."""
    return nullcontext() if device.type == 'meta' else torch.autocast(device.type, enabled=False)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
