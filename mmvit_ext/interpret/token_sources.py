"""The tokens inside the backbones of this package, after each of their blocks.

Shapes: C channels, (h, w) tokens, (H, W) pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmvit_ext.engine.errors import UserError
from mmvit_ext.models.backbones.nest import NesT
from mmvit_ext.models.backbones.p2t import P2T
from mmvit_ext.models.backbones.spformer import SPFormer
from mmvit_ext.models.backbones.tnt import TNT
from mmvit_ext.models.backbones.vit import ViT

__all__ = ['BlockTokens', 'TokenSource', 'choose_blocks', 'find_tokens']


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


@dataclass(frozen=True)
class TokenSource:
    """A backbone whose tokens can be looked at.

    Args:
        name: Of the backbone.
        unit: What its parts are called: block, level or stage.
        count: How many of them run.
        run: Takes the network's input (1, 3, H, W) and yields the tokens after each of them.
    """

    name: str
    unit: str
    count: int
    run: Callable[[Tensor], Iterator[BlockTokens]]


def _run_tnt(backbone: TNT, img: Tensor) -> Iterator[BlockTokens]:
    words, tokens, grid = backbone.embed(img)
    for index in range(max(backbone.out_indices) + 1):
        words, tokens = backbone.run_block(index, words, tokens)
        norm = backbone.norm if index == backbone.num_layers - 1 else None
        seen = (tokens if norm is None else norm(tokens))[:, backbone.cls_token is not None :]  # (1, n, C)
        block: Any = backbone.blocks[index]
        inner = None if block.inner is None else backbone.words_as_map(words, grid)[0]
        yield BlockTokens(
            seen[0].T.unflatten(1, grid), backbone.patch_size, inner, backbone.inner_stride if block.inner else 0
        )


def _run_vit(backbone: ViT, img: Tensor) -> Iterator[BlockTokens]:
    x, size = backbone.embed(img)
    grid = size
    for index, layer in enumerate(backbone.layers[: max(backbone.out_indices) + 1]):
        x, size = backbone.run_layer(index, layer, x, size)
        if backbone.final_norm and index == backbone.num_layers - 1:
            x = getattr(backbone, backbone.norm1_name)(x)
        found = backbone.to_map(x, size)
        shrunk = max(round(grid[0] / size[0]), round(grid[1] / size[1]))
        yield BlockTokens((found if isinstance(found, Tensor) else found[0])[0], backbone.patch_size * shrunk)


def _run_spformer(backbone: SPFormer, img: Tensor) -> Iterator[BlockTokens]:
    stride = backbone.pixel_stride * backbone.cell_size
    grid = (-(-img.shape[-2] // stride), -(-img.shape[-1] // stride))
    found: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, arguments, tokens: found.append(tokens)) for layer in backbone.layers
    ]
    try:
        backbone.run(img)
    finally:
        for hook in hooks:
            hook.remove()
    for tokens in found:
        yield BlockTokens(tokens[0].T.unflatten(1, grid), stride)


def _run_nest(backbone: NesT, img: Tensor) -> Iterator[BlockTokens]:
    for level, found in enumerate(backbone.level_maps(img)):
        norm = backbone.norm if level == backbone.num_levels - 1 else None
        seen = found if norm is None else norm(found.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        yield BlockTokens(seen[0], backbone.patch_size * 2**level)


def _run_p2t(backbone: P2T, img: Tensor) -> Iterator[BlockTokens]:
    x = img.contiguous(memory_format=torch.channels_last)
    for index, stage in enumerate(backbone.stages[: max(backbone.out_indices) + 1]):
        x = stage(x)[-1]
        yield BlockTokens(x[0], 4 * 2**index)


def find_tokens(model: nn.Module, source: str | Path) -> TokenSource:
    """The part of a model whose tokens can be looked at.

    Args:
        model: A segmentor, detector or classifier.
        source: The config, for the message.

    Returns:
        Its backbone.

    Raises:
        UserError: The backbone is another one.
    """
    backbone: Any = getattr(model, 'backbone', model)
    name = type(backbone).__name__
    if isinstance(backbone, TNT):
        return TokenSource(name, 'block', max(backbone.out_indices) + 1, lambda img: _run_tnt(backbone, img))
    if isinstance(backbone, ViT):
        return TokenSource(name, 'block', max(backbone.out_indices) + 1, lambda img: _run_vit(backbone, img))
    if isinstance(backbone, SPFormer):
        return TokenSource(name, 'block', max(backbone.out_indices) + 1, lambda img: _run_spformer(backbone, img))
    if isinstance(backbone, NesT):
        count = min(max(backbone.out_indices) + 1, backbone.num_levels)
        return TokenSource(name, 'level', count, lambda img: _run_nest(backbone, img))
    if isinstance(backbone, P2T):
        return TokenSource(name, 'stage', max(backbone.out_indices) + 1, lambda img: _run_p2t(backbone, img))
    raise UserError(
        f'{source} has the backbone {name}, whose tokens cannot be shown: expected mmvit_ext.TNT, ViT, ShrunkViT, '
        "SPFormer, NesT or P2T; mmvit_ext.ViT reads the checkpoints of mmseg's VisionTransformer"
    )


def choose_blocks(source: TokenSource, wanted: Sequence[int] | None, config: str | Path) -> tuple[int, ...]:
    """Which blocks are shown.

    Args:
        source: The backbone.
        wanted: Numbers from 1; ``None`` takes the first, the middle and the last.
        config: The config, for the message.

    Returns:
        Numbers from 1, rising, each once.

    Raises:
        UserError: There is no such block.
    """
    numbers = (1, (source.count + 1) // 2, source.count) if wanted is None else wanted
    for number in numbers:
        if not 1 <= number <= source.count:
            raise UserError(
                f'--blocks {number}: the {source.name} of {config} runs {source.count} {source.unit}s, counted from 1; '
                f'choose 1 to {source.count}'
            )
    return tuple(sorted(set(numbers)))
