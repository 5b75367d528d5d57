"""Fréchet inception distance between generated and real images, with any classifier in the place of Inception.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, arXiv 1706.08500,
equation 6. Distances by different classifiers, or from different numbers of images, cannot be compared. Shapes: N
images, D features.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.registry import DefaultScope
from torch import Tensor

from mmvit_ext.registry import METRICS

__all__ = ['FID', 'fid', 'frechet_distance']


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    r"""Squared Fréchet distance of two normal distributions, means ``(D,)`` and covariances ``(D, D)``.

    .. math:: \|m_1 - m_2\|^2 + \mathrm{tr}\big(C_1 + C_2 - 2 (C_1 C_2)^{1/2}\big)

    This is equation 6 of arXiv 1706.08500, computed in double precision. The trace of the root is the sum of the roots
    of the eigenvalues of :math:`C_1^{1/2} C_2 C_1^{1/2}`, which is symmetric.
    """
    covariance, other_covariance = covariance.double(), other_covariance.double()
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0).sqrt().sum()
    shift = (mean.double() - other_mean.double()).square().sum()
    distance = shift + covariance.trace() + other_covariance.trace() - 2 * mixed
    return max(distance.item(), 0.0)


def fid(features: Tensor, other_features: Tensor) -> float:
    """Fréchet distance of the normal distributions with mean and covariance of features ``(N, D)``, N at least 2."""
    counts = len(features), len(other_features)
    if min(counts) < 2:
        raise ValueError(f'a covariance needs at least 2 images of each kind, got {counts[0]} and {counts[1]}')
    one, other = features.double(), other_features.double()
    covariances = [torch.atleast_2d(torch.cov(rows.T)) for rows in (one, other)]  # of one feature it is a number
    return frechet_distance(one.mean(0), covariances[0], other.mean(0), covariances[1])


@METRICS.register_module()
class FID(BaseMetric):
    """Fréchet distance between generated and real images, in the features of a classifier; the smaller the better.

    Features are what the classifier's last linear layer reads. It takes what ``mmvit_ext.AdversarialModel`` returns.

    Args:
        extractor: Config file of the classifier, an mmpretrain ``ImageClassifier``.
        checkpoint: Its checkpoint file.
        input_size: Edge in pixels that images are resized to; by default the config's ``img_size``.
        mirror: Whether every real image counts a second time with left and right exchanged.
        **kwargs: As those of mmengine's ``BaseMetric``.

    Raises:
        UserError: Config or checkpoint are wrong, or the model is no classifier. Both are read at the first image.
    """

    default_prefix = ''  # the name says it all

    def __init__(
        self, extractor: str, checkpoint: str, *, input_size: int | None = None, mirror: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.extractor, self.checkpoint, self.input_size, self.mirror = extractor, checkpoint, input_size, mirror
        self._classifier: tuple[Any, int] | None = None

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        real = torch.stack([sample['real_img'] for sample in data_samples])
        fakes = [sample['fake_imgs'] for sample in data_samples]
        sides = [real, real.flip(3)] if self.mirror else [real]
        features = torch.stack([self.features(side) for side in sides], dim=1).cpu()  # (B, 1 or 2, D)
        of_fakes = self.features(torch.cat(fakes)).cpu().split([len(part) for part in fakes])
        self.results += list(zip(features, of_fakes, strict=True))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features of images ``(N, 3, H, W)``, RGB, ``uint8``: ``(N, D)``."""
        if self._classifier is None:
            self._classifier = _load_classifier(self.extractor, self.checkpoint, self.input_size, images.device)
        model, size = self._classifier
        images = F.interpolate(images.float(), (size, size), mode='bilinear', antialias=True)
        if getattr(model.data_preprocessor, 'to_rgb', False):  # then it expects BGR
            images = images.flip(1)
        inputs = model.data_preprocessor({'inputs': images.clamp(0, 255)}, False)['inputs']
        return model.extract_feat(inputs, stage='pre_logits')

    def compute_metrics(self, results: list) -> dict[str, float]:
        return {'FID': fid(*(torch.cat(side) for side in zip(*results, strict=True)))}


def _load_classifier(config: str, checkpoint: str, size: int | None, device: torch.device) -> tuple[Any, int]:
    """A classifier ready for use, and the edge of its images in pixels."""
    from mmvit_ext.config.loading import load_config
    from mmvit_ext.errors.user_error import UserError
    from mmvit_ext.inference.predictor import Predictor

    cfg = load_config(config)
    kind = cfg.model.get('type')
    if cfg.get('default_scope') != 'mmpretrain' or 'head' not in cfg.model:
        wanted = 'expected the config of an mmpretrain classifier, see configs/nest'
        raise UserError(f'{config} (FID.extractor) describes a {kind}: {wanted}')
    size = size or cfg.get('img_size')
    if not isinstance(size, int):
        raise UserError(f'{config} (FID.extractor) has no img_size: give the edge in pixels as FID.input_size')
    scopes = dict(DefaultScope._instance_dict)
    model = Predictor(cfg, checkpoint, device).model
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)
    return model, size
