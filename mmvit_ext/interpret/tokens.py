"""Maps of the tokens inside a backbone, block by block, and all patches of all images arranged by t-SNE.

Paper: Transformer in Transformer, Han et al., NeurIPS 2021, arXiv 2103.00112, which shows the words and the patches of
a TNT beside the patches of a plain ViT.

Shapes: C channels, (h, w) tokens of the image, padding left out, N = h w, (H, W) pixels of a picture.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path
from mmvit_ext.inference.drawing import colour_mask
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.inference.sheets import draw_table, fit_edge, write_picture
from mmvit_ext.models.backbones.base import Backbone

from .explain import Explainer, check_cell
from .inputs import OpenedImage, names_run
from .report import Explanation, write_arrays
from .tsne import COLOURINGS, FEWEST, Patches, draw_planes, embed_in_plane

__all__ = ['TokenSource', 'choose_blocks', 'explain_tokens', 'find_tokens', 'mean_similarity', 'principal_colours']

CELL = 240  # longer edge of each picture of a sheet in pixels
CHANNELS = 6  # channels that are drawn of each block
POINTS = 1000  # patches that t-SNE is given
LEGEND = (
    'Each picture has colours of its own: dark is the least and bright the largest value of its map, but for one per '
    'cent at either end. PCA shows the first three principal components of all channels as red, green and blue; alike '
    'colours are alike tokens within one picture, not between pictures. The channels are those that vary most over the '
    'image; their number, from 0, stands in the corner.'
)


@dataclass(frozen=True)
class BlockTokens:
    """Tokens of an image after a block."""

    patches: Tensor  # (C, h, w), those of the padding included
    stride: int  # edge of a patch in pixels of the network's input
    words: Tensor | None = None  # inside the patches, put together to a map (c, h', w'); only a TNT block has them
    word_stride: int = 0  # edge of a word in pixels of the network's input

    def kinds(self) -> dict[str, tuple[Tensor, int]]:
        """The maps that there are, words first, each with its stride."""
        words = {} if self.words is None else {'words': (self.words, self.word_stride)}
        return {**words, 'patches': (self.patches, self.stride)}


class TokenSource:
    """A backbone whose tokens can be looked at; ``unit`` is what its parts are called, ``count`` how many run."""

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
        wanted = 'expected a backbone of mmvit_ext, such as TNT, P2T, TimmViT or ViT (which reads checkpoints of mmseg)'
        raise UserError(f'{source} has the backbone {type(backbone).__name__}, whose tokens cannot be shown: {wanted}')
    return TokenSource(backbone)


def choose_blocks(source: TokenSource, wanted: Sequence[int] | None, config: str | Path) -> tuple[int, ...]:
    """The numbers of the blocks that are shown, rising from 1; by default the first, the middle and the last."""
    numbers = (1, (source.count + 1) // 2, source.count) if wanted is None else wanted
    for number in numbers:
        if not 1 <= number <= source.count:
            runs = f'the {source.name} of {config} runs {source.count} {source.unit}s'
            raise UserError(f'--blocks {number}: {runs}, counted from 1; choose 1 to {source.count}')
    return tuple(sorted(set(numbers)))


def mean_similarity(features: np.ndarray) -> float:
    """Mean cosine of the angle between two different tokens of (N, C), 1 where all point the same way; NaN for one."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    units = features / np.maximum(length, np.finfo(np.float64).tiny)
    pairs = len(features) * (len(features) - 1)
    # The squared length of the sum is the sum over all pairs, with each token's own.
    return float((np.square(units.sum(0)).sum() - np.square(units).sum()) / pairs) if pairs else np.nan


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
            wanted = 'the training diverged, take an earlier checkpoint'
            raise UserError(f'the tokens of {self.config} are not finite: {wanted}')
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
    """The tokens of each image after chosen blocks as maps, and those of all ``count`` images arranged by t-SNE.

    ``beside`` is another model and its config, drawn below each block of the first.
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
    for model in models if tsne and colouring == 'class' else ():
        if model.predictor.scope not in ('mmseg', 'mmpretrain'):
            kind = f'{model.config} is of scope {model.predictor.scope}: use a segmentor or a classifier'
            raise UserError(f'--colours class needs the class of each patch, {kind}, or --colours image or place')
        if model.predictor.classes != predictor.classes:
            others = f'{model.config} has others than {source}: use --colours image or place'
            raise UserError(f'--colours class needs two models of the same classes, {others}')
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
            for kind, (values, stride) in found[block].kinds().items():
                visible = _visible(values, stride, image.input_size)
                drawn, share = _pictures(visible, stride, image.input_size, cell, channels)
                rows[kind].append((f'{model.name}, {model.unit} {block}', [Image.fromarray(image.picture), *drawn]))
                arrays[f'{model.name}_{model.unit}{block}_{kind}'] = visible
                similarity = mean_similarity(visible.reshape(len(visible), -1).T)
                fact = {'model': model.name, model.unit: block, 'tokens': kind}
                fact.update(grid=f'{visible.shape[1]} x {visible.shape[2]}', channels=len(visible))
                facts.append(fact | {'variance in PCA': share, 'mean cosine similarity': similarity})
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
                patches.features.append(visible.reshape(len(visible), -1).T[chosen])
                patches.places.append(np.stack([(chosen // w + 0.5) / h, (chosen % w + 0.5) / w], 1))
                patches.images.append(np.full(len(chosen), len(names)))
                if colouring == 'class':
                    patches.classes.append(model.classes_at(image, patches.places[-1]))
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
            fact: dict[str, Any] = {'model': model.name, model.unit: block, 'images': len(names)}
            facts.append(fact)
            fact['mean cosine similarity of patches'] = float(np.mean(patches.similarities))
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
