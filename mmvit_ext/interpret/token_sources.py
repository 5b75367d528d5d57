"""The tokens inside a backbone, after each of the blocks, levels or stages that its outputs count.

Shapes: C channels, (h, w) tokens, (H, W) pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.models.backbones.base import Backbone

__all__ = ['BlockTokens', 'TokenSource', 'choose_blocks', 'find_tokens', 'names_run']


@dataclass(frozen=True)
class BlockTokens:
    """Tokens of an image after a block.

    Args:
        patches: Tokens of the patches (C, h, w), those of the padding included.
        stride: Edge of a patch in pixels of the network's input.
        words: Tokens inside the patches, put together to a map (c, h', w'); only a TNT block has them.
        word_stride: Edge of a word in pixels of the network's input.
    """

    patches: Tensor
    stride: int
    words: Tensor | None = None
    word_stride: int = 0


def names_run(backbone: Backbone) -> list[str]:
    """The maps that the outputs count, from the lowest to the last one that runs."""
    return [name for name in backbone.stage_names[: max(backbone.out_indices) + 1] if name in backbone.block_names]


class TokenSource:
    """A backbone whose tokens can be looked at.

    Attributes:
        name: Of the backbone.
        unit: What its parts are called: block, level or stage.
        count: How many of them run.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.name = type(backbone).__name__
        self.unit = 'block' if backbone.UNIT == 'layer' else backbone.UNIT  # one word for both in files and pages
        self._names = names_run(backbone)
        self.count = len(self._names)

    def run(self, img: Tensor, numbers: Sequence[int] | None = None) -> dict[int, BlockTokens]:
        """Tokens of the network's input (1, 3, H, W) after blocks by their number from 1, all of them by default."""
        chosen = {number: self._names[number - 1] for number in numbers or range(1, self.count + 1)}
        infos, modules = self.backbone.map_info, {name for name, _ in self.backbone.named_modules()}
        # The map of words is named after a module inside the block, which a block without words lacks.
        inner = {
            name: next((other for other in infos if other.startswith(f'{name}.') and other in modules), None)
            for name in chosen.values()
        }
        maps = self.backbone.forward_intermediates(img, [*chosen.values(), *filter(None, inner.values())])
        found = {}
        for number, name in chosen.items():
            words = inner[name]
            within = () if words is None else (maps[words][0], infos[words].stride)
            found[number] = BlockTokens(maps[name][0], infos[name].stride, *within)
        return found


def find_tokens(model: nn.Module, source: str | Path) -> TokenSource:
    """The backbone of a model, or the model itself, if its tokens can be looked at; ``source`` is the config."""
    backbone: Any = getattr(model, 'backbone', model)
    if not isinstance(backbone, Backbone):
        raise UserError(
            f'{source} has the backbone {type(backbone).__name__}, whose tokens cannot be shown: expected '
            'mmvit_ext.TNT, ViT, ShrunkViT, SPFormer, NesT or P2T; mmvit_ext.ViT reads the checkpoints of '
            "mmseg's VisionTransformer"
        )
    return TokenSource(backbone)


def choose_blocks(source: TokenSource, wanted: Sequence[int] | None, config: str | Path) -> tuple[int, ...]:
    """The numbers of the blocks that are shown, rising from 1; by default the first, the middle and the last."""
    numbers = (1, (source.count + 1) // 2, source.count) if wanted is None else wanted
    for number in numbers:
        if not 1 <= number <= source.count:
            raise UserError(
                f'--blocks {number}: the {source.name} of {config} runs {source.count} {source.unit}s, counted from 1; '
                f'choose 1 to {source.count}'
            )
    return tuple(sorted(set(numbers)))
