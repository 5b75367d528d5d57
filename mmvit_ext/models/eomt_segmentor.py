"""Semantic segmentation by an encoder-only mask transformer, arXiv 2503.19108; the network is in ``eomt.py``.

Shapes: B batch, K classes, (H, W) image size in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor

from mmvit_ext.models.eomt import Predictions, predict_with_queries
from mmvit_ext.registry import MODELS

__all__ = ['EoMT']


@MODELS.register_module()
class EoMT(EncoderDecoder):
    r"""Semantic segmentation by an encoder-only mask transformer (arXiv 2503.19108).

    The score of a pixel for a class sums, over the queries, class probability times the sigmoid of the mask:

    .. math:: s_k = \sum_i \mathrm{softmax}(c_i)_k \, \sigma(m_i)

    Sliding inference takes the fewest windows of ``test_cfg.crop_size`` that cover the image, evenly spaced, as
    published: along the long side when the short one has the size of the window. There is no neck and no auxiliary
    head, as the queries join the backbone's own tokens.

    Args:
        backbone: A ``TimmViT`` or a ``ViT`` with ``final_norm=True``, whose last block is among ``out_indices``.
        decode_head: An ``EoMTHead``.
        train_cfg: Unused.
        test_cfg: ``mode``, ``'whole'`` or ``'slide'`` with a ``crop_size``, whose ``stride`` is not looked at.
        data_preprocessor: mmsegmentation's ``SegDataPreProcessor``.
        init_cfg: Initialisation, mmengine style.

    Shape:
        Input ``(B, 3, H, W)``, any H and W; scores ``(B, K, H, W)``, not logits.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        decode_head: Mapping[str, Any],
        *,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            backbone,
            decode_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )

    def extract_feat(self, inputs: Tensor) -> Predictions:
        return predict_with_queries(self.backbone, self.decode_head, inputs)

    def windows(self, size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of the windows of a sliding inference on an image of a size ``(H, W)``."""
        spans = []
        for length, crop in zip(size, self.test_cfg['crop_size'], strict=True):
            count = max(-(-length // crop), 1)
            starts = [int(index * (length - crop) / (count - 1)) for index in range(count)] if count > 1 else [0]
            spans.append([slice(start, min(start + crop, length)) for start in starts])
        return ((rows, columns) for rows in spans[0] for columns in spans[1])

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Mean of the scores of all windows ``(B, K, H, W)``."""
        B, _, H, W = inputs.shape
        scores, counts = inputs.new_zeros(B, self.num_classes, H, W), inputs.new_zeros(1, 1, H, W)
        for rows, columns in self.windows((H, W)):
            scores[..., rows, columns] += self.encode_decode(inputs[..., rows, columns], batch_img_metas)
            counts[..., rows, columns] += 1
        return scores / counts
