"""mmseg's heads with an accuracy for which the host does not wait for the device.

mmseg picks the labelled pixels out with a mask, whose number of pixels the host has to ask the device for, and sorts
the classes of each pixel by their scores, which on a GPU takes longer than the loss.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.decode_heads import FPNHead as MMSegFPNHead
from mmseg.models.decode_heads import SETRUPHead as MMSegSETRUPHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from torch import Tensor, nn

from mmvit_ext.registry import MODELS

__all__ = ['FPNHead', 'PixelLossHead', 'SETRUPHead', 'pixel_accuracy']


def pixel_accuracy(scores: Tensor, label: Tensor, ignore_index: int) -> Tensor:
    """Share in per cent of the labelled pixels ``(B, H, W)`` that have their class's score highest ``(1,)``."""
    labelled = label != ignore_index
    correct = ((scores.argmax(1) == label) & labelled).sum()
    return (100.0 * correct / labelled.sum().clamp(min=1)).reshape(1)


class PixelLossHead(BaseDecodeHead):
    """mmseg's ``BaseDecodeHead`` with the same losses."""

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Losses of logits ``(B, K, h, w)`` at the size of the labels, and ``acc_seg``."""
        label = self._stack_batch_gt(batch_data_samples)
        logits = resize(seg_logits, size=label.shape[2:], mode='bilinear', align_corners=self.align_corners)
        weight = None if self.sampler is None else self.sampler.sample(logits, label)
        label = label.squeeze(1)
        losses: dict[str, Tensor] = {}
        for part in self.loss_decode if isinstance(self.loss_decode, nn.ModuleList) else [self.loss_decode]:
            value = part(logits, label, weight=weight, ignore_index=self.ignore_index)
            name = str(part.loss_name)
            losses[name] = losses[name] + value if name in losses else value
        with torch.no_grad():
            losses['acc_seg'] = pixel_accuracy(logits, label, self.ignore_index)
        return losses


@MODELS.register_module()
class FPNHead(PixelLossHead, MMSegFPNHead):
    """mmseg's head of Semantic FPN (arXiv 1901.02446), with its arguments and parameters.

    Args:
        feature_strides: Strides of the maps in pixels, the smallest first.
        **kwargs: Passed to mmseg's ``BaseDecodeHead`` (``in_channels``, ``channels``, ``num_classes``, ...).
    """


@MODELS.register_module()
class SETRUPHead(PixelLossHead, MMSegSETRUPHead):
    """mmseg's naive and PUP head of SETR (arXiv 2012.15840), with its arguments and parameters.

    Args:
        norm_layer: Config of the norm of the tokens.
        num_convs: Number of convolutions.
        up_scale: Factor by which the map grows behind each convolution.
        kernel_size: Edge of the convolutions, 1 or 3.
        init_cfg: Initialisation, mmengine style.
        **kwargs: Passed to mmseg's ``BaseDecodeHead`` (``in_channels``, ``channels``, ``num_classes``, ...).
    """
