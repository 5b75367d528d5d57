r"""GradCAT: the path from the whole image down to the block that speaks most for a class.

Paper: Nested Hierarchical Transformer, Zhang et al., AAAI 2022, arXiv 2105.12723, on interpretability. A level's
map :math:`\alpha_l` and the gradient of the class's score give :math:`h_l = \alpha_l \cdot \partial Y_c / \partial
\alpha_l`, summed over channels and averaged over the four quadrants of the block; the largest of these four node values
names the quadrant to enter, which is a block of the level below.

Deviations, each measured in docs/gradcat.md:

- The paper writes :math:`-\partial Y_c`; here the gradient's own sign is the default.
- The top level's map is taken behind the final norm: in front of it, gradient and input of a token are orthogonal.
- :math:`Y_c` is the logit of the class minus the mean logit of its strongest rivals.

Levels are counted from 0, the lowest. Sizes are in pixels of the network's input where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvit_ext.datasets.placement import Box
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.models.backbones.base import Backbone
from mmvit_ext.models.classifiers.cam_classifier import RIVALS, beyond_rivals

from .inputs import names_run

__all__ = ['SIGNS', 'Step', 'Traversal', 'class_scores', 'find_levels', 'traverse']

SIGNS: Mapping[str, int] = {'positive': 1, 'negative': -1}  # of the gradient; the negative one is the paper's
_REMEDY = 'expected a classifier or a segmentor with a mmvit_ext.NesT, such as those in configs/nest'


@dataclass(frozen=True)
class Step:
    """A choice on the way down."""

    level: int  # whose map decided, from 0, the lowest
    box: Box  # the block that was looked at, or the whole map above several blocks
    values: tuple[tuple[float | None, ...], ...]  # of each part, row by row; None where a part lies beyond the map
    boxes: tuple[tuple[Box | None, ...], ...]  # of the parts, in the same order
    chosen: tuple[int, int]  # row and column of the part with the largest value

    @property
    def next_box(self) -> Box:
        """The chosen part."""
        box = self.boxes[self.chosen[0]][self.chosen[1]]
        assert box is not None
        return box


@dataclass(frozen=True)
class Traversal:
    """The way of a class down the levels; a segmentor's logit is the mean over the region."""

    label: int
    logit: float
    steps: tuple[Step, ...]

    @property
    def box(self) -> Box:
        """The lowest block."""
        return self.steps[-1].next_box


def find_levels(model: nn.Module, source: str = 'the config') -> Any:
    """The backbone of a classifier or segmentor whose levels consist of blocks of ``block_size`` tokens."""
    backbone: Any = getattr(model, 'backbone', None)
    if not isinstance(backbone, Backbone) or not hasattr(backbone, 'block_size'):
        found = f'{source} has the backbone {type(backbone).__name__}'
        raise UserError(f'{found} and no nested levels to walk down: {_REMEDY}')
    segments = isinstance(getattr(model, 'decode_head', None), nn.Module) and hasattr(model, 'encode_decode')
    if not (_is_classifier(model) or segments):
        raise UserError(f'{source} is a {type(model).__name__}, whose classes have no scores of an image: {_REMEDY}')
    if len(names_run(backbone)) < 2:
        raise UserError(f'{source} uses the lowest level of its NesT only: expected out_indices with a higher level')
    return backbone


def _is_classifier(model: nn.Module) -> bool:
    return isinstance(getattr(model, 'head', None), nn.Module) and hasattr(model.head, 'pre_logits')


def _run(model: Any, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
    """Maps of the levels, on the way to the logits ``(N,)`` or ``(N, H, W)``, two of a binary segmentor."""
    backbone = find_levels(model)
    names = names_run(backbone)
    found = backbone.collect(inputs, (*names, *backbone.out_names))
    feats = tuple(backbone.to_output(found[name]) for name in backbone.out_names)
    if getattr(model, 'neck', None) is not None:
        feats = model.neck(feats)
    if _is_classifier(model):
        logits = model.head(feats)[0]
    else:
        size = (inputs.shape[2], inputs.shape[3])
        metas = [{'img_shape': size, 'pad_shape': size, 'ori_shape': size}]
        logits = model.decode_head.predict(feats, metas, model.test_cfg)[0]
        if len(logits) == 1 < getattr(model, 'num_classes', 1):
            # The one map of a binary segmentor speaks for its second class; the larger of two is what it predicts.
            limit = torch.logit(torch.tensor(float(model.decode_head.threshold)), eps=1e-6).item()
            logits = torch.cat([2 * limit - logits, logits])
    return [found[name] for name in names], logits


@torch.no_grad()
def class_scores(model: nn.Module, inputs: Tensor) -> Tensor:
    """Logits ``(N,)`` of a classifier, ``(N, H, W)`` of a segmentor, which sees the image in one piece."""
    return _run(model, inputs)[1]


def traverse(
    model: nn.Module,
    inputs: Tensor,
    classes: Sequence[int],
    *,
    sign: str = 'positive',
    rivals: int | None = None,
    region: Tensor | None = None,
) -> list[Traversal]:
    """Walk down the levels for some classes of a normalised image ``(1, C, H, W)`` of any size.

    Where the top level has several blocks, the first step chooses among them. A block that the map's border cuts is
    taken as zero beyond the border; parts that lie beyond it altogether are never chosen. A segmentor's logits are
    averaged over ``region``, bool ``(H, W)``, or over all pixels. ``rivals`` says how many of the strongest other
    classes are subtracted, by default 3, or all others where there are fewer.
    """
    if sign not in SIGNS:
        raise ValueError(f'sign must be one of {list(SIGNS)}, got {sign!r}')
    backbone = find_levels(model)
    size = (inputs.shape[2], inputs.shape[3])
    with torch.enable_grad():
        nodes, logits = _run(model, inputs.detach().requires_grad_())
        if logits.ndim == 3:
            logits = _over_region(logits, region, size)
        elif region is not None:
            raise UserError('a region is for segmentors, a classifier has one score for the whole image: leave it out')
        rivals = min(RIVALS, len(logits) - 1) if rivals is None else rivals
        if not 0 <= rivals < len(logits):
            raise ValueError(f'rivals must be 0 to {len(logits) - 1}, fewer than there are classes, got {rivals}')
        found = []
        for label in classes:
            if not 0 <= label < (count := len(logits)):
                raise UserError(f'there is no class {label}, this model has {count}: expected 0 to {count - 1}')
            score = beyond_rivals(logits, logits, label, rivals)
            grads = torch.autograd.grad(score, nodes, retain_graph=True, allow_unused=True)
            weights = [
                SIGNS[sign] * (node.detach() * grad).sum(1)[0] if grad is not None else torch.zeros_like(node[0, 0])
                for node, grad in zip(nodes, grads, strict=True)
            ]
            found.append(Traversal(int(label), float(logits[label].detach()), _descend(backbone, weights, size)))
    return found


def _over_region(logits: Tensor, region: Tensor | None, size: tuple[int, int]) -> Tensor:
    if region is None:
        return logits.mean((1, 2))
    if tuple(region.shape) != size:
        raise UserError(f'the region must have the size {size} of the input, got {tuple(region.shape)}')
    if not region.any():
        raise UserError('the region holds no pixel of what the network sees: choose one inside the image')
    return logits[:, region.to(logits.device)].mean(1)


def _descend(backbone: Any, weights: Sequence[Tensor], size: tuple[int, int]) -> tuple[Step, ...]:
    """The choices from the sums over channels ``(h, w)`` of each level, the lowest first, for an input of a size."""
    edge, top = backbone.block_size, len(weights) - 1
    rows, columns = (-(-length // edge) for length in weights[top].shape)
    place, steps = (0, 0), []
    if rows * columns > 1:
        values = _part_means(weights[top], (0, 0), (rows * edge, columns * edge), (rows, columns))
        whole = (0.0, 0.0, float(size[1]), float(size[0]))
        steps.append(_choose(backbone, top, top, (0, 0), values, whole, size))
        place = steps[-1].chosen
    for level in range(top, 0, -1):
        values = _part_means(weights[level], (place[0] * edge, place[1] * edge), (edge, edge), (2, 2))
        box = _block_box(backbone, level, place, size)
        assert box is not None
        first = (2 * place[0], 2 * place[1])
        steps.append(_choose(backbone, level, level - 1, first, values, box, size))
        place = (first[0] + steps[-1].chosen[0], first[1] + steps[-1].chosen[1])
    return tuple(steps)


def _part_means(values: Tensor, start: tuple[int, int], extent: tuple[int, int], parts: tuple[int, int]) -> Tensor:
    """Means over the parts of a region of a map, which is zero beyond the map."""
    block = values[start[0] : start[0] + extent[0], start[1] : start[1] + extent[1]]
    block = F.pad(block, (0, extent[1] - block.shape[1], 0, extent[0] - block.shape[0]))
    return F.adaptive_avg_pool2d(block[None, None], parts)[0, 0]


def _choose(
    backbone: Any, level: int, below: int, first: tuple[int, int], values: Tensor, box: Box, size: tuple[int, int]
) -> Step:
    """A step; its parts are blocks of level ``below``, the first of them at ``first``."""
    boxes = tuple(
        tuple(_block_box(backbone, below, (first[0] + row, first[1] + column), size) for column in range(len(line)))
        for row, line in enumerate(values)
    )
    exists = torch.tensor([[part is not None for part in row] for row in boxes], device=values.device)
    chosen = int(values.masked_fill(~exists, -torch.inf).argmax())
    shown = np.where(exists.cpu(), values.cpu(), None)  # type: ignore[call-overload]
    return Step(level, box, tuple(map(tuple, shown.tolist())), boxes, divmod(chosen, values.shape[1]))


def _block_box(backbone: Any, level: int, place: tuple[int, int], size: tuple[int, int]) -> Box | None:
    """Of a block the part inside the input, if there is one."""
    edge = backbone.block_size * backbone.patch_size * 2**level
    top, left = place[0] * edge, place[1] * edge
    if top >= size[0] or left >= size[1]:
        return None
    return float(left), float(top), float(min(left + edge, size[1])), float(min(top + edge, size[0]))
