r"""How well superpixels follow the labels of images that they were not made for.

Paper: SPFormer, Mei et al., arXiv 2401.02931, section 4.2.2. Every superpixel takes the label that most of its pixels
have, each pixel counting with its association; equation 1 lifts these labels back to the pixels. The mIoU of that is
what a perfect classifier of superpixels would reach.

Labels are counted at the resolution of the label map, which the paper leaves open: each of its pixels looks up the
association of the place where it lies in the network's input, upsampled to single pixels.

Shapes: (H, W) label map, n neighbours of a pixel (9, or 1 for regions with sharp edges), K classes, R regions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmvit_ext.datasets.label_range import labels_outside, range_error
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.models.superpixels.grid import fine_association, grid_of, neighbour_ids, with_merged_head
from mmvit_ext.registry import METRICS

__all__ = ['SuperpixelQuality', 'best_labels', 'intersection_and_union', 'patch_regions', 'slic_regions']

REGIONS = ('superpixels', 'patches', 'slic')
_CHUNK = 1 << 16  # pixels whose class scores are held at a time


def best_labels(weights: Tensor, regions: Tensor, labels: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Labels ``(H, W)`` that a perfect classifier of regions would give, from the true ``labels`` of the same size.

    ``weights`` is the share of each pixel in each of its regions, whose index is in ``regions``, both ``(n, H, W)``; an
    index below 0 is none. A region's class is the one with the largest sum of weights, a pixel's the one with the
    largest sum over its regions; the lowest class where sums are equal, and where no region has a vote.
    """
    count = int(regions.max()) + 1
    weights = weights.flatten(1).masked_fill(regions.flatten(1) < 0, 0)  # (n, H*W)
    regions = regions.flatten(1).clamp(min=0)
    truth = labels.flatten().long()
    voters = truth != ignore_index
    ballots = (regions[:, voters] * num_classes + truth[voters]).flatten()
    votes = torch.bincount(ballots, weights[:, voters].flatten().double(), count * num_classes)
    most, chosen = votes.view(count, num_classes).max(1)  # (R,)
    predicted = []
    for part, region in zip(weights.split(_CHUNK, 1), regions.split(_CHUNK, 1), strict=True):
        scores = part.new_zeros(num_classes, part.shape[1])
        scores.scatter_add_(0, chosen[region], part * (most > 0)[region])
        predicted.append(scores.argmax(0))
    return torch.cat(predicted).view_as(labels)


def intersection_and_union(
    predicted: Tensor, labels: Tensor, num_classes: int, ignore_index: int = 255
) -> tuple[Tensor, Tensor]:
    """Pixels of each class in both maps and in either of them, two tensors ``(K,)`` of whole numbers."""
    counts = labels != ignore_index
    predicted, labels = predicted[counts].long(), labels[counts].long()
    both = torch.bincount(labels[predicted == labels], minlength=num_classes)
    either = torch.bincount(predicted, minlength=num_classes) + torch.bincount(labels, minlength=num_classes) - both
    return both, either


def patch_regions(size: tuple[int, int], edge: int) -> Tensor:
    """Index of the square of each pixel ``(H, W)``, row by row from 0 as the patches of a plain ViT."""
    columns = -(-size[1] // edge)
    return torch.arange(size[0])[:, None] // edge * columns + torch.arange(size[1]) // edge


def slic_regions(image: np.ndarray, count: int, compactness: float = 10.0) -> Tensor:
    """Index from 0 of the SLIC superpixel of each pixel ``(H, W)`` of an RGB picture, of about ``count``."""
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        remedy = 'pip install scikit-image, or take that row out of the evaluator'
        raise UserError(f"SuperpixelQuality(regions='slic') needs scikit-image: {remedy}") from error
    found = slic(image, n_segments=count, compactness=compactness, start_label=0, channel_axis=-1)
    return torch.from_numpy(np.ascontiguousarray(found)).long()


@METRICS.register_module()
class SuperpixelQuality(BaseMetric):
    """Best mIoU that regions allow: each takes its majority label (arXiv 2401.02931, section 4.2.2).

    ``'superpixels'`` are those of a ``mmvit_ext.SuperpixelExtractor``: ``mIoU``, the mean over the heads as in the
    paper, ``mIoU_head1``, ..., and ``mIoU_merged``, in per cent. Other kinds give ``mIoU`` to compare with, and every
    kind ``regions``, the mean number of regions of an image.

    Args:
        regions: ``'superpixels'``; ``'patches'``, squares of the input; or ``'slic'``, as many of scikit-image's SLIC.
        patch_size: Edge of the patches in pixels of the network's input, at least 1.
        compactness: Of SLIC, above 0; see :func:`slic_regions`.
        sca_module: Which superpixel cross attention counts, from 0; negative values count from the end.
        iteration: Which of its iterations.
        channel_order: Of the images that the data loader gives, for SLIC: ``'bgr'`` or ``'rgb'``.
        ignore_index: Value of pixels without a label.
        **kwargs: As those of mmengine's ``BaseMetric``; ``prefix`` is ``regions`` when not given.

    Raises:
        ValueError: An argument is out of range.
        UserError: The model gives no superpixels, there are no labels, or labels lie outside the classes.
    """

    def __init__(
        self,
        regions: str = 'superpixels',
        *,
        patch_size: int = 16,
        compactness: float = 10.0,
        sca_module: int = -1,
        iteration: int = -1,
        channel_order: str = 'bgr',
        ignore_index: int = 255,
        **kwargs: Any,
    ) -> None:
        if regions not in REGIONS:
            raise ValueError(f'regions must be one of {REGIONS}, got {regions!r}')
        if patch_size < 1 or compactness <= 0:
            wanted = 'patch_size must be at least 1 and compactness above 0'
            raise ValueError(f'{wanted}, got {patch_size} and {compactness}')
        if channel_order not in ('bgr', 'rgb'):
            raise ValueError(f"channel_order must be 'bgr' or 'rgb', got {channel_order!r}")
        super().__init__(**{'prefix': regions, **kwargs})
        self.regions, self.patch_size, self.compactness = regions, patch_size, compactness
        self.sca_module, self.iteration = sca_module, iteration
        self.channel_order, self.ignore_index = channel_order, ignore_index

    def process(self, data_batch: Mapping[str, Any], data_samples: Sequence[Mapping[str, Any]]) -> None:
        num_classes = len((self.dataset_meta or {}).get('classes') or ())
        if not num_classes:
            raise UserError('SuperpixelQuality needs the classes of the dataset: give the dataset metainfo.classes')
        for index, sample in enumerate(data_samples):
            labels = self._labels(sample, num_classes)
            size = tuple(int(edge) for edge in sample.get('img_shape', labels.shape)[:2])
            if self.regions == 'superpixels':
                weights, regions = self._superpixels(sample, size, labels.shape, labels.device)
            else:
                found = self._hard_regions(data_batch['inputs'][index], size).to(labels.device)
                regions = _look_up(found[None], size, labels.shape)  # (1, H, W)
                weights = torch.ones(1, *regions.shape, device=labels.device)
            counted = []
            for share in weights:
                predicted = best_labels(share, regions, labels, num_classes, self.ignore_index)
                counted.append(torch.stack(intersection_and_union(predicted, labels, num_classes, self.ignore_index)))
            self.results.append((torch.stack(counted).cpu(), int(regions.max()) + 1))

    def _labels(self, sample: Mapping[str, Any], num_classes: int) -> Tensor:
        if 'gt_sem_seg' not in sample:
            remedy = 'load them with mmvit_ext.LoadSegAnnotations in the test pipeline'
            raise UserError(f'SuperpixelQuality needs the labels of {sample.get("img_path", "each image")}: {remedy}')
        labels = sample['gt_sem_seg']['data'].squeeze(0).long()
        if wrong := labels_outside(labels, num_classes, self.ignore_index):
            expected = f'0 to {num_classes - 1} or {self.ignore_index}'
            remedy = 'take the config of the dataset that the label maps belong to'
            raise range_error(sample.get('seg_map_path', 'of an image'), wrong, num_classes, expected, remedy)
        return labels

    def _superpixels(
        self, sample: Mapping[str, Any], size: tuple[int, ...], shape: tuple[int, ...], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Associations ``(heads + 1, 9, H, W)``, merged heads last, and the indices of the 9 ``(9, H, W)``."""
        found = sample.get('superpixels')
        if found is None:
            remedy = 'take a mmvit_ext.SuperpixelExtractor as in configs/spformer/superpixel-quality_*.py'
            raise UserError(f"SuperpixelQuality(regions='superpixels') needs a model that predicts them: {remedy}")
        modules, iterations = found['similarity'].shape[:2]
        for name, number in (('sca_module', modules), ('iteration', iterations)):
            value = getattr(self, name)
            if not -number <= value < number:
                raise UserError(f'SuperpixelQuality({name}={value}): the model has {number}, counted from 0')
        similarity = found['similarity'][self.sca_module, self.iteration][None].to(device)
        if similarity.isnan().any():
            found = f'the similarities of {sample.get("img_path", "an image")} are not a number (NaN)'
            raise UserError(f'{found}: the training of this checkpoint has diverged, take an earlier one')
        cell, stride = int(found['cell_size']), int(found['pixel_stride'])
        association = fine_association(with_merged_head(similarity), cell, stride)[0, ..., : size[0], : size[1]]
        ids = neighbour_ids((size[0], size[1]), grid_of(similarity, cell), cell * stride, device)
        return _look_up(association, size, shape), _look_up(ids, size, shape)

    def _hard_regions(self, image: Tensor, size: tuple[int, ...]) -> Tensor:
        patches = patch_regions((size[0], size[1]), self.patch_size)
        if self.regions == 'patches':
            return patches
        picture = image[:, : size[0], : size[1]].permute(1, 2, 0).cpu().numpy()
        picture = picture[..., ::-1] if self.channel_order == 'bgr' and picture.shape[2] == 3 else picture
        return slic_regions(np.ascontiguousarray(picture), int(patches.max()) + 1, self.compactness)

    def compute_metrics(self, results: list) -> dict[str, float]:
        totals = torch.stack([counted for counted, _ in results]).sum(0).double()
        scores = [float((both[either > 0] / either[either > 0]).mean() * 100) for both, either in totals]
        regions = sum(number for _, number in results) / len(results)
        if self.regions != 'superpixels':
            return {'mIoU': scores[0], 'regions': regions}
        *heads, merged = scores
        named = {f'mIoU_head{number}': score for number, score in enumerate(heads, 1)}
        return {'mIoU': sum(heads) / len(heads), **named, 'mIoU_merged': merged, 'regions': regions}


def _look_up(x: Tensor, size: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Of maps ``(..., h, w)`` of the network's input the value at the middle of each pixel of a label map."""
    rows, columns = (
        ((torch.arange(target, device=x.device) + 0.5) * source / target).long().clamp(max=source - 1)
        for source, target in zip(size, shape, strict=True)
    )
    return x[..., rows[:, None], columns]
