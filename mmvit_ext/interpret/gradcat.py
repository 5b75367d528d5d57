r"""GradCAT: the path from the whole image down to the block that speaks most for a class.

Paper: Nested Hierarchical Transformer, Zhang et al., AAAI 2022, arXiv 2105.12723, on interpretability. A level's
map :math:`\alpha_l` and the gradient of the class's score give :math:`h_l = \alpha_l \cdot \partial Y_c / \partial
\alpha_l`, summed over channels and averaged over the four quadrants of the block; the largest of these four node values
names the quadrant to enter, which is a block of the level below.

Deviations, each measured in docs/gradcat.md:

- The paper writes :math:`-\partial Y_c`; here the gradient's own sign is the default.
- The top level's map is taken behind the final norm. In front of it all node values would be nothing but rounding: a
  layer norm does not change with the length of its input, so gradient and input of a token are orthogonal.
- :math:`Y_c` is the logit of the class minus the mean logit of its strongest rivals. What all of these classes have in
  common, above all that a place is not background, says nothing about this class.

Levels are counted from 0, the lowest. Sizes are in pixels of the network's input where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvit_ext.datasets.placement import Box
from mmvit_ext.engine.errors import UserError
from mmvit_ext.models.backbones.nest import NesT
from mmvit_ext.models.classifiers.class_maps import RIVALS, strongest_rivals

__all__ = ['SIGNS', 'Step', 'Traversal', 'class_scores', 'find_nest', 'traverse']

SIGNS: Mapping[str, int] = {'positive': 1, 'negative': -1}
"""Of the gradient; the negative one is the paper's."""

_REMEDY = (
    'expected a classifier of mmpretrain or a segmentor of mmseg with a mmvit_ext.NesT, such as those in configs/nest'
)


@dataclass(frozen=True)
class Step:
    """A choice on the way down.

    Args:
        level: Whose map decided, from 0, the lowest.
        box: The block that was looked at, or the whole map where the top level has several blocks.
        values: Node value of each part, row by row; None where a part lies beyond the map.
        boxes: Of the parts, in the same order; None as above.
        chosen: Row and column of the part with the largest value.
    """

    level: int
    box: Box
    values: tuple[tuple[float | None, ...], ...]
    boxes: tuple[tuple[Box | None, ...], ...]
    chosen: tuple[int, int]

    @property
    def next_box(self) -> Box:
        """The chosen part."""
        box = self.boxes[self.chosen[0]][self.chosen[1]]
        assert box is not None
        return box


@dataclass(frozen=True)
class Traversal:
    """The way of a class through the levels.

    Args:
        label: Index of the class.
        logit: Its logit; of a segmentor the mean over the region.
        steps: The choices, from the top down.
    """

    label: int
    logit: float
    steps: tuple[Step, ...]

    @property
    def box(self) -> Box:
        """The lowest block."""
        return self.steps[-1].next_box


def find_nest(model: nn.Module, source: str = 'the config') -> NesT:
    """The nested levels of a model.

    Args:
        model: A classifier or segmentor.
        source: The config, for the message.

    Returns:
        Its backbone.

    Raises:
        UserError: It has no nested levels, only one, or is another kind of model.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, NesT):
        raise UserError(
            f'{source} has the backbone {type(backbone).__name__} and no nested levels to walk down: {_REMEDY}; '
            'class activation maps and token maps work with other backbones'
        )
    if not (_is_classifier(model) or _is_segmentor(model)):
        raise UserError(f'{source} is a {type(model).__name__}, whose classes have no scores of an image: {_REMEDY}')
    if min(max(backbone.out_indices), backbone.num_levels - 1) < 1:
        raise UserError(f'{source} uses the lowest level of its NesT only: expected out_indices with a higher level')
    return backbone


def _is_classifier(model: nn.Module) -> bool:
    return isinstance(getattr(model, 'head', None), nn.Module) and hasattr(model.head, 'pre_logits')


def _is_segmentor(model: nn.Module) -> bool:
    return isinstance(getattr(model, 'decode_head', None), nn.Module) and hasattr(model, 'encode_decode')


def _follow(model: Any, maps: Sequence[Tensor], size: tuple[int, int]) -> tuple[tuple[Tensor, ...], Tensor]:
    """Outputs of the backbone, and logits ``(N,)`` or ``(N, H, W)``."""
    outs = feats = model.backbone.outputs(maps)
    if getattr(model, 'neck', None) is not None:
        feats = model.neck(feats)
    if _is_classifier(model):
        return outs, model.head(feats)[0]
    metas = [{'img_shape': size, 'pad_shape': size, 'ori_shape': size}]
    return outs, model.decode_head.predict(feats, metas, model.test_cfg)[0]


def class_scores(model: nn.Module, inputs: Tensor) -> Tensor:
    """What a model gives each class, before any softmax.

    Args:
        model: A classifier or segmentor with a NesT.
        inputs: Normalised image ``(1, 3, H, W)``.

    Returns:
        Logits ``(N,)`` of a classifier, ``(N, H, W)`` of a segmentor, which sees the image in one piece.
    """
    with torch.no_grad():
        maps = find_nest(model).level_maps(inputs)
        return _follow(model, maps, (inputs.shape[2], inputs.shape[3]))[1]


def traverse(
    model: nn.Module,
    inputs: Tensor,
    classes: Sequence[int],
    *,
    sign: str = 'positive',
    rivals: int = RIVALS,
    region: Tensor | None = None,
) -> list[Traversal]:
    """Walk down the levels for some classes of an image.

    Where the top level has several blocks, the first step chooses among them by the same quantity. A block that the
    map's border cuts is treated as if it were whole and zero beyond the border; parts that lie beyond it altogether are
    never chosen.

    Args:
        model: A classifier or segmentor with a NesT, in evaluation mode.
        inputs: Normalised image ``(1, 3, H, W)``, any size.
        classes: Indices.
        sign: Of the gradient, ``'positive'`` or ``'negative'``.
        rivals: How many other classes, those with the highest logits, are subtracted as a mean; 0 for the logit alone.
        region: Pixels of the input over which a segmentor's logits are averaged, bool ``(H, W)``; all when not given.

    Returns:
        One traversal per class, in their order.

    Raises:
        UserError: The model has no nested levels, there is no such class, or the region is empty or of another size.
        ValueError: ``sign`` or ``rivals`` is out of range.
    """
    if sign not in SIGNS:
        raise ValueError(f'sign must be one of {list(SIGNS)}, got {sign!r}')
    backbone = find_nest(model)
    size = (inputs.shape[2], inputs.shape[3])
    with torch.enable_grad():
        maps = backbone.level_maps(inputs.detach().requires_grad_())
        outs, logits = _follow(model, maps, size)
        if logits.ndim == 3:
            logits = _over_region(logits, region, size)
        elif region is not None:
            raise UserError('a region is for segmentors, a classifier has one score for the whole image: leave it out')
        if rivals < 0 or rivals >= max(len(logits), 2):
            raise ValueError(f'rivals must be 0 to {len(logits) - 1}, fewer than there are classes, got {rivals}')
        nodes = list(maps[: backbone.num_levels])
        top = len(nodes) - 1
        if top in backbone.out_indices and backbone.norm is not None:
            nodes[top] = outs[backbone.out_indices.index(top)]
        found = []
        for label in classes:
            if not 0 <= label < len(logits):
                raise UserError(
                    f'there is no class {label}, this model has {len(logits)}: expected 0 to {len(logits) - 1}'
                )
            score = logits[label]
            if rivals:
                score = score - logits[strongest_rivals(logits, label, rivals)].mean()
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


def _descend(backbone: NesT, weights: Sequence[Tensor], size: tuple[int, int]) -> tuple[Step, ...]:
    """From the sums over channels of each level, the choices.

    Args:
        backbone: For its block and patch sizes.
        weights: ``(H, W)`` of each level, from the lowest.
        size: Height and width of the input.
    """
    edge = _block_size(backbone)
    top = len(weights) - 1
    H, W = weights[top].shape
    rows, columns = -(-H // edge), -(-W // edge)
    place, steps = (0, 0), []
    if rows * columns > 1:
        whole = F.pad(weights[top], (0, columns * edge - W, 0, rows * edge - H))
        values = whole.unflatten(0, (rows, edge)).unflatten(2, (columns, edge)).mean((1, 3))  # (rows, columns)
        steps.append(_choose(backbone, top, top, (0, 0), values, (0.0, 0.0, float(size[1]), float(size[0])), size))
        place = steps[-1].chosen
    for level in range(top, 0, -1):
        row, column = place
        block = weights[level][row * edge : (row + 1) * edge, column * edge : (column + 1) * edge]
        block = F.pad(block, (0, edge - block.shape[1], 0, edge - block.shape[0]))
        values = F.adaptive_avg_pool2d(block[None, None], 2)[0, 0]
        box = _block_box(backbone, level, place, size)
        assert box is not None
        steps.append(_choose(backbone, level, level - 1, (2 * row, 2 * column), values, box, size))
        place = (2 * row + steps[-1].chosen[0], 2 * column + steps[-1].chosen[1])
    return tuple(steps)


def _choose(
    backbone: NesT, level: int, below: int, first: tuple[int, int], values: Tensor, box: Box, size: tuple[int, int]
) -> Step:
    """A step; its parts are blocks of level ``below``, the first of them at ``first``."""
    rows, columns = values.shape
    boxes = tuple(
        tuple(_block_box(backbone, below, (first[0] + row, first[1] + column), size) for column in range(columns))
        for row in range(rows)
    )
    exists = torch.tensor([[part is not None for part in row] for row in boxes], device=values.device)
    chosen = int(values.masked_fill(~exists, -torch.inf).argmax())
    shown = tuple(
        tuple(float(value) if part is not None else None for value, part in zip(line, row, strict=True))
        for line, row in zip(values.tolist(), boxes, strict=True)
    )
    return Step(level, box, shown, boxes, (chosen // columns, chosen % columns))


def _block_size(backbone: NesT) -> int:
    """Edge of a block in tokens, the same at all levels."""
    level: Any = backbone.levels[0]
    return int(level.block_size)


def _block_box(backbone: NesT, level: int, place: tuple[int, int], size: tuple[int, int]) -> Box | None:
    """Of a block the part inside the input, if there is one."""
    edge = _block_size(backbone) * backbone.patch_size * 2**level
    top, left = place[0] * edge, place[1] * edge
    if top >= size[0] or left >= size[1]:
        return None
    return float(left), float(top), float(min(left + edge, size[1])), float(min(top + edge, size[0]))
