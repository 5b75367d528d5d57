"""Maps of the tokens inside a backbone, block by block, and all patches of all images arranged by t-SNE.

Paper: Transformer in Transformer, Han et al., NeurIPS 2021, arXiv 2103.00112, which shows the words and the patches of
a TNT beside the patches of a plain ViT.

Shapes: C channels, (h, w) tokens of the image, padding left out, N = h w, (H, W) pixels of a picture.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path
from mmvit_ext.inference.drawing import colour_mask
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.inference.sheets import draw_table, fit_edge, write_picture

from .explain import Explainer, check_cell
from .inputs import OpenedImage
from .report import Explanation, write_arrays
from .token_sources import BlockTokens, choose_blocks, find_tokens
from .tsne import COLOURINGS, FEWEST, Patches, draw_planes, embed_in_plane

__all__ = ['explain_tokens', 'mean_similarity', 'principal_colours']

CELL = 240
"""Longer edge of each picture of a sheet in pixels."""

CHANNELS = 6
"""Channels that are drawn of each block."""

POINTS = 1000
"""Patches that t-SNE is given."""

LEGEND = (
    'Each picture has colours of its own: dark is the least and bright the largest value of its map, but for one per '
    'cent at either end. PCA shows the first three principal components of all channels as red, green and blue; alike '
    'colours are alike tokens within one picture, not between pictures. The channels are those that vary most over the '
    'image; their number, from 0, stands in the corner.'
)
"""How the pictures are read."""


def mean_similarity(features: np.ndarray) -> float:
    """Mean cosine of the angle between two different tokens of (N, C): 1 where all point the same way.

    For a single token it is not a number.
    """
    length = np.linalg.norm(features, axis=1, keepdims=True)
    units = features / np.maximum(length, np.finfo(np.float64).tiny)
    count = len(features)
    # The squared length of the sum is the sum over all pairs, with each token's own.
    return (
        float((np.square(units.sum(0)).sum() - np.square(units).sum()) / (count * (count - 1))) if count > 1 else np.nan
    )


def principal_colours(features: np.ndarray) -> tuple[np.ndarray, float]:
    """The first three principal components of (N, C) as RGB, 8 bit, each scaled alone, and their share of variance."""
    centred = features.astype(np.float64) - features.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    count = min(3, len(values))
    chosen = vectors[:, ::-1][:, :count]
    # An eigenvector has no sign of its own; without one, colours would differ from computer to computer.
    chosen = chosen * np.where(np.take_along_axis(chosen, np.abs(chosen).argmax(0)[None], 0) < 0, -1.0, 1.0)
    colours = np.full((len(features), 3), 0.5)
    for index, component in enumerate((centred @ chosen).T):
        colours[:, index] = _stretched(component)
    total = values.clip(0).sum()
    share = float(values[::-1][:count].clip(0).sum() / total) if total > 0 else 1.0
    return np.rint(colours * 255).astype(np.uint8), share


def _stretched(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1; one per cent at either end is cut, so that a single outlier does not leave the rest grey."""
    low, high = np.percentile(values, (1, 99))
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.full(values.shape, 0.5)


def _visible(found: Tensor, stride: int, input_size: tuple[int, int]) -> np.ndarray:
    """A map without the tokens that lie in the padding (C, h, w)."""
    height, width = (-(-edge // stride) for edge in input_size)
    return found[:, :height, :width].float().cpu().numpy()


def _at_cell(values: np.ndarray, stride: int, input_size: tuple[int, int], cell: tuple[int, int]) -> np.ndarray:
    """A map (h, w, ...) at the size of a picture; the last row and column of tokens may lie partly outside of it."""
    rows = ((np.arange(cell[1]) + 0.5) * input_size[0] / cell[1] / stride).astype(int)
    columns = ((np.arange(cell[0]) + 0.5) * input_size[1] / cell[0] / stride).astype(int)
    return values[rows[:, None].clip(max=values.shape[0] - 1), columns.clip(max=values.shape[1] - 1)]


def _numbered(picture: Image.Image, number: int) -> Image.Image:
    font = ImageFont.load_default(min(max(max(picture.size) // 14, 10), 40))
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = draw.textbbox((4, 3), str(number), font=font)
    draw.rectangle((left - 3, top - 2, right + 3, bottom + 2), fill='black')
    draw.text((4, 3), str(number), fill='white', font=font)
    return picture


def _pictures(
    found: np.ndarray, stride: int, input_size: tuple[int, int], cell: tuple[int, int], channels: int
) -> tuple[list[Image.Image], float]:
    """PCA and the channels that vary most of a map (C, h, w), and the share of the variance in the PCA."""
    features = found.reshape(len(found), -1).T  # (N, C)
    colours, share = principal_colours(features)
    drawn = [Image.fromarray(_at_cell(colours.reshape(*found.shape[1:], 3), stride, input_size, cell))]
    for index in np.argsort(-features.var(0), kind='stable')[:channels]:
        values = _at_cell(colour_mask(_stretched(found[index])), stride, input_size, cell)
        drawn.append(_numbered(Image.fromarray(values), int(index)))
    return drawn, share


class _Model:
    """One of the models, the blocks that are shown of it, and what is kept of every image for the end."""

    def __init__(self, predictor: Predictor, config: str | Path, blocks: Sequence[int] | None) -> None:
        self.predictor, self.config = predictor, config
        self.source = find_tokens(predictor.model, config)
        self.blocks = choose_blocks(self.source, blocks, config)
        self.name, self.unit = self.source.name, self.source.unit
        self.patches = {block: Patches() for block in self.blocks}

    @torch.no_grad()
    def look(self, opened: OpenedImage) -> dict[int, BlockTokens]:
        """Tokens by block."""
        found = self.source.run(opened.inputs, self.blocks)
        if any(not tokens.patches.isfinite().all() for tokens in found.values()):
            raise UserError(
                f'the tokens of {self.config} are not numbers (NaN or infinite): the training has diverged, take an '
                'earlier checkpoint or train with a lower learning rate'
            )
        return found

    def classes_at(self, opened: OpenedImage, places: np.ndarray) -> np.ndarray:
        """The predicted class at each of some places, which are shares of the height and width (n, 2)."""
        if self.predictor.scope == 'mmseg':
            labels = self.predictor.segment(opened.loaded)[1]
            rows, columns = (places * labels.shape).astype(int).T
            return labels[rows, columns]
        return np.full(len(places), int(self.predictor(opened.loaded)[1].pred_label.reshape(-1)[0]))


def explain_tokens(
    predictor: Predictor,
    folder: Path,
    source: str | Path,
    count: int,
    *,
    blocks: Sequence[int] | None = None,
    beside: tuple[Predictor, str | Path] | None = None,
    channels: int = CHANNELS,
    edge: int = CELL,
    save_maps: bool = False,
    tsne: bool = True,
    points: int = POINTS,
    colouring: str | None = None,
    seed: int = 0,
) -> Explainer:
    """The tokens of each image after chosen blocks as maps, and those of all images arranged by t-SNE.

    Args:
        predictor: A model with one of this package's backbones.
        folder: Gets ``NAME/patches.png``, of a TNT also ``NAME/words.png``, with ``save_maps`` also ``NAME/maps.npz``;
            ``tsne.png`` and ``tsne.npz``.
        source: The config, for messages.
        count: How many images will be explained.
        blocks: Which blocks are shown, from 1; ``None`` takes the first, the middle and the last.
        beside: Another model and its config, drawn below each block of the first.
        channels: How many channels are drawn, 0 or more.
        edge: Longer edge of each picture of a sheet, 16 to 4096 pixels.
        save_maps: Whether to write the maps as arrays.
        tsne: Whether to arrange ``points`` patches (at least 8) of all images.
        points: See ``tsne``.
        colouring: One of :data:`COLOURINGS`; ``None`` takes the images, and of a single image the places.
        seed: Of the choice of patches and of t-SNE, 0 or more.

    Raises:
        UserError: An argument is out of range, the model's tokens cannot be shown, or scikit-learn is missing.
    """
    check_cell(edge)
    for option, value, least in (('channels', channels, 0), ('points', points, FEWEST), ('seed', seed, 0)):
        if value < least:
            raise UserError(f'--{option} must be at least {least}, got {value}')
    if colouring is not None and colouring not in COLOURINGS:
        raise UserError(f'--colours must be one of {", ".join(COLOURINGS)}, got {colouring}')
    if tsne and importlib.util.find_spec('sklearn') is None:
        raise UserError('t-SNE needs scikit-learn, which is missing: pip install scikit-learn, or pass --no-tsne')
    models = [_Model(predictor, source, blocks)]
    if beside is not None:
        models.append(_Model(*beside, blocks))
        if models[0].name == models[1].name:
            for number, model in enumerate(models, 1):
                model.name = f'{model.source.name} {number}'
    colouring = colouring or ('image' if count > 1 else 'place')
    for model in models:
        if tsne and colouring == 'class' and model.predictor.scope not in ('mmseg', 'mmpretrain'):
            raise UserError(
                f'--colours class needs the class of each patch, {model.config} is of scope {model.predictor.scope}: '
                'use a segmentor or a classifier, or --colours image or place'
            )
    if tsne and colouring == 'class' and any(model.predictor.classes != predictor.classes for model in models):
        raise UserError(
            f'--colours class needs two models of the same classes, {models[1].config} has others than {source}: use '
            '--colours image or place'
        )
    names: list[str] = []

    def explain(opened: OpenedImage, name: str) -> Explanation:
        seen = [opened, *(OpenedImage(model.predictor, opened.loaded) for model in models[1:])]
        looked = [model.look(image) for model, image in zip(models, seen, strict=True)]
        cell = fit_edge(opened.picture.shape, edge)
        rows: dict[str, list[tuple[str, list[Image.Image]]]] = {'words': [], 'patches': []}
        facts: list[dict[str, Any]] = []
        arrays: dict[str, np.ndarray] = {}
        kept: list[tuple[_Model, OpenedImage, int, np.ndarray, float]] = []
        for step, (model, image, found) in itertools.product(
            range(max(len(model.blocks) for model in models)), zip(models, seen, looked, strict=True)
        ):
            if step >= len(model.blocks):
                continue
            block = model.blocks[step]
            tokens = found[block]
            for kind, values, stride in (
                ('words', tokens.words, tokens.word_stride),
                ('patches', tokens.patches, tokens.stride),
            ):
                if values is None:
                    continue
                visible = _visible(values, stride, image.input_size)
                drawn, share = _pictures(visible, stride, image.input_size, cell, channels)
                rows[kind].append((f'{model.name}, {model.unit} {block}', [Image.fromarray(image.picture), *drawn]))
                arrays[f'{model.name}_{model.unit}{block}_{kind}'] = visible
                similarity = mean_similarity(visible.reshape(len(visible), -1).T)
                facts.append(
                    {
                        'model': model.name,
                        model.unit: block,
                        'tokens': kind,
                        'grid': f'{visible.shape[1]} x {visible.shape[2]}',
                        'channels': len(visible),
                        'variance in PCA': share,
                        'mean cosine similarity': similarity,
                    }
                )
                if kind == 'patches':
                    kept.append((model, image, block, visible, similarity))
        headings = ['image', 'PCA', *(f'channel, rank {rank}' for rank in range(1, channels + 1))]
        texts = {'words': 'words, the tokens inside the patches', 'patches': 'tokens of the patches'}
        pictures = []
        for kind, shown in rows.items():
            if shown:
                sheet = draw_table(shown, headings[: max(len(drawn) for _, drawn in shown)], cell)
                pictures.append((texts[kind], write_picture(sheet, folder / name / f'{kind}.png')))
        data = [write_arrays(folder / name / 'maps.npz', **arrays)] if save_maps else []
        # Only an image whose results have been written counts in what is said of all images.
        for model, image, block, visible, similarity in kept:
            patches = model.patches[block]
            patches.similarities.append(similarity)
            if tsne:
                _, h, w = visible.shape
                chosen = np.random.default_rng((seed, len(names))).permutation(h * w)[: max(points // count, 1)]
                places = np.stack([(chosen // w + 0.5) / h, (chosen % w + 0.5) / w], 1)
                classes = model.classes_at(image, places) if colouring == 'class' else None
                patches.add(visible.reshape(len(visible), -1).T[chosen], places, len(names), classes)
        names.append(name)
        return Explanation(pictures, {'blocks': facts}, data)

    settings = {model.name: str(model.config) for model in models} if beside else {}
    return Explainer('Tokens', LEGEND, explain, lambda: _overall(models, folder, colouring, seed, names), settings)


def _overall(models: Sequence[_Model], folder: Path, colouring: str, seed: int, names: Sequence[str]) -> Explanation:
    facts: list[dict[str, Any]] = []
    rows: list[list[tuple[str, Patches, np.ndarray]]] = []
    arrays: dict[str, Any] = {}
    for model in models:
        row = []
        for block, patches in model.patches.items():
            fact = {
                'model': model.name,
                model.unit: block,
                'images': len(names),
                'mean cosine similarity of patches': float(np.mean(patches.similarities)),
            }
            facts.append(fact)
            if sum(map(len, patches.features)) < FEWEST:
                continue
            plane, perplexity, divergence = embed_in_plane(np.concatenate(patches.features), seed)
            fact.update({'patches in t-SNE': len(plane), 'perplexity': perplexity, 'divergence left': divergence})
            row.append((f'{model.name}, {model.unit} {block}', patches, plane))
            for what, values in (('plane', [plane]), ('images', patches.images), ('places', patches.places)):
                arrays[f'{model.name}_{model.unit}{block}_{what}'] = np.concatenate(values)
        rows += [row] if row else []
    if not rows:
        return Explanation((), {'blocks': facts})
    picture = folder / 'tsne.png'
    with atomic_path(picture) as file:
        draw_planes(rows, colouring, names, models[0].predictor.classes, file)
    data = write_arrays(folder / 'tsne.npz', names=np.array(names), **arrays)
    meaning = {'image': 'by image', 'place': 'by their place in the image', 'class': 'by predicted class'}
    caption = f't-SNE of patches of all images, coloured {meaning[colouring]}'
    return Explanation([(caption, picture)], {'blocks': facts}, [data])
