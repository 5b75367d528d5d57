"""What a whole segmentor needs beside backbone and head."""

from __future__ import annotations

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import SegTTAModel
from mmseg.structures import SegDataSample

from mmvit_ext.registry import MODELS

__all__ = ['ScoreTTAModel']

MMSEG_THRESHOLD = 0.3  # mmseg's own for one map of probabilities, for segmentors without a decode head


@MODELS.register_module()
class ScoreTTAModel(SegTTAModel):
    """Test-time augmentation that averages score maps as they are.

    mmseg's ``SegTTAModel`` takes a softmax of each map first, which is right for logits. What an ATM head gives are
    scores already, and the published multi-scale figures of SegViT (arXiv 2210.05844) average these.

    Args:
        module: The segmentor, or its config.
        data_preprocessor: Config of the data preprocessor; the segmentor's when not given.
    """

    def merge_preds(self, data_samples_list: list[list[SegDataSample]]) -> list[SegDataSample]:
        """Average the score maps ``(N, H, W)`` of each image's views and take the best class."""
        merged = []
        for views in data_samples_list:
            scores = sum(view.seg_logits.data for view in views) / len(views)
            if len(scores) == 1:  # of two classes, with the probability of the second
                head = getattr(getattr(self, 'module', None), 'decode_head', None)
                labels = (scores > getattr(head, 'threshold', MMSEG_THRESHOLD)).to(torch.int64)
            else:
                labels = scores.argmax(dim=0, keepdim=True)
            sample = views[0]
            sample.set_data({'seg_logits': PixelData(data=scores), 'pred_sem_seg': PixelData(data=labels)})
            merged.append(sample)
        return merged
