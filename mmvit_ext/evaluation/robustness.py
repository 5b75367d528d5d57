"""Measure how a model's figures fall as its test images are turned or covered, and draw its superpixels.

Paper: SPFormer, Mei et al., arXiv 2401.02931, section 4.2.3 and figure 6.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from mmvit_ext.config.building import resolve_device
from mmvit_ext.config.labels import ignored_label
from mmvit_ext.config.loading import load_config
from mmvit_ext.datasets.distortions import MAX_AREA, PasteOccluder
from mmvit_ext.errors.user_error import UserError, printable
from mmvit_ext.evaluation.loop import build_test_loader, evaluate, markdown_table
from mmvit_ext.evaluation.superpixel_quality import best_labels, intersection_and_union, patch_regions
from mmvit_ext.files import atomic_path, fit_name, kept_files, writable_folder
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.inference.sheets import draw_table
from mmvit_ext.interpret.inputs import picture_of_inputs
from mmvit_ext.interpret.superpixels import Superpixels, draw_boundaries, enlarged, superpixels_of_inputs
from mmvit_ext.models.superpixels.grid import fine_association, neighbour_ids, with_merged_head

__all__ = ['KINDS', 'Curve', 'curves_table', 'draw_curves', 'measure_robustness', 'occluder_overlap', 'plotted_name']


class Kind(NamedTuple):
    """A way of changing images."""

    transform: str
    argument: str  # of the transform; its plural is the command's option
    label: str  # what the argument is, for axes and tables
    low: float
    high: float
    default: tuple[float, ...]  # values that are measured when none are named


_AREAS = (0, 0.05, 0.1, 0.2, 0.3, 0.5)
KINDS: dict[str, Kind] = {
    'rotation': Kind('mmvit_ext.RotateImage', 'angle', 'angle in degrees', -360, 360, (0, 15, 30, 45, 60, 75, 90)),
    'occlusion': Kind('mmvit_ext.PasteOccluder', 'area', 'covered share of the image', 0, MAX_AREA, _AREAS),
}


@dataclass(frozen=True)
class Curve:
    """What was measured of one model."""

    model: str
    metric: str
    x: tuple[float, ...]  # angles or areas
    y: tuple[float, ...]  # the metric at each of them
    everything: tuple[dict[str, float], ...]  # all metrics at each of them


def plotted_name(results: Mapping[str, float], wanted: str | None = None) -> str:
    """Which metric is drawn: the one that the user wants, mIoU or top-1 accuracy, or else the first."""
    if wanted is not None and wanted not in results:
        raise UserError(f'--metric {wanted} is none of what the config measures: {", ".join(results)}')
    return wanted or next(name for name in ('mIoU', 'accuracy/top1', *results) if name in results)


def occluder_overlap(found: Superpixels | None, covered: np.ndarray, patch: int = 16) -> torch.Tensor:
    """Pixels in both and in either of an occluder (h, w) and the superpixels or patches that mostly lie in it."""
    truth = torch.from_numpy(covered.astype(np.int64))
    h, w = covered.shape
    if found is None:
        regions, weights = patch_regions((h, w), patch)[None], torch.ones(1, h, w)
    else:
        merged = with_merged_head(found.similarity[-1, -1][None])[:, -1:]
        weights = fine_association(merged, found.cell_size, found.pixel_stride)[0, 0, :, :h, :w].cpu()
        regions = neighbour_ids((h, w), found.grid, found.cell_size * found.pixel_stride)
    predicted = best_labels(weights, regions, truth, 2)
    return torch.stack(intersection_and_union(predicted, truth, 2))[:, 1]


class _Observer:
    """Collects the superpixels of the images that pass through a model, if it has any."""

    def __init__(self, model: Any, area: float, pictures: int) -> None:
        self.backbone, self.preprocessor = getattr(model, 'backbone', None), model.data_preprocessor
        self.pictures, self.occluder = pictures, PasteOccluder(area) if area else None
        self.overlap = torch.zeros(2, 2, dtype=torch.int64)  # superpixels and squares, both and either
        self.drawn: list[tuple[str, Image.Image]] = []

    def __call__(self, batch: Any, outputs: Any) -> None:
        seen_all = self.occluder is None and len(self.drawn) >= self.pictures
        if seen_all or not hasattr(self.backbone, 'cell_size'):
            return
        inputs = self.preprocessor(batch, False)['inputs']
        for index, seen in enumerate(batch['inputs']):
            size = (int(seen.shape[-2]), int(seen.shape[-1]))
            found = superpixels_of_inputs(self.backbone, inputs[index : index + 1], picture_of_inputs(seen), size)
            path = str(outputs[index].metainfo.get('img_path', index))
            if self.occluder is not None:
                covered = self.occluder.mask(path, size)
                self.overlap[0] += occluder_overlap(found, covered)
                self.overlap[1] += occluder_overlap(None, covered, found.cell_size * found.pixel_stride)
            if len(self.drawn) < self.pictures:
                picture, labels = enlarged(found)
                self.drawn.append((Path(path).stem, draw_boundaries(picture, labels[-1, -1, -1])))

    def shares(self) -> dict[str, float]:
        """IoU of the occluder in per cent of both kinds of regions, where there was one."""
        pairs = zip(('superpixels', 'patches'), self.overlap.tolist(), strict=True)
        return {f'occluder IoU of {regions}': 100 * both / either for regions, (both, either) in pairs if either}


def measure_robustness(
    kind: str,
    models: Sequence[tuple[str, str | Path, str | Path]],
    out: str | Path,
    *,
    values: Sequence[float] | None = None,
    metric: str | None = None,
    images: int | None = None,
    pictures: int = 4,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    allow_partial: bool = False,
    trust: bool = False,
    force: bool = False,
) -> list[Curve]:
    """Measure models (name, config, checkpoint) on changed images and write the results, as ``mmvit robustness``."""
    how = KINDS[kind]
    values = tuple(how.default if values is None else values)
    if wrong := [value for value in values or [float('nan')] if not how.low <= value <= how.high]:
        raise UserError(f'--{how.argument}s must be {how.low} to {how.high} ({how.label}), got {wrong[0]}')
    for name, number, least in (('--images', images, 1), ('--pictures', pictures, 0)):
        if number is not None and number < least:
            raise UserError(f'{name} must be at least {least}, got {number}')
    folder = writable_folder(out, '--out')
    names = [name for name, _, _ in models]
    if len(set(names)) < len(names):
        raise UserError(f'two of the models are called {max(names, key=names.count)}: give them names, NAME=CONFIG')
    loaded = []
    for name, config, checkpoint in models:
        cfg = load_config(config, cfg_options)
        if cfg.get('default_scope') not in ('mmseg', 'mmpretrain'):
            wanted = 'a segmentation (mmseg) or classification (mmpretrain) config, boxes are not turned'
            raise UserError(f'{config} is of scope {cfg.get("default_scope")}: expected {wanted}')
        predictor = Predictor(cfg, checkpoint, resolve_device(device), allow_partial=allow_partial, trust=trust)
        loaded.append((name, cfg, predictor))
    curves = []
    read = [path for _, *files in models for path in files]
    with kept_files(read, [folder / f'{kind}.json'], force=force):
        for name, cfg, predictor in loaded:
            results, drawn = [], []
            for value in values:
                step = {'type': how.transform, 'ignore_index': ignored_label(cfg), how.argument: value}
                loader = build_test_loader(cfg, images=images, last_step=step)
                observer = _Observer(predictor.model, value if how.argument == 'area' else 0, pictures)
                title = printable(f'{name}, {how.argument} {value:g}')
                found = evaluate(predictor, loader, cfg.test_evaluator, title=title, on_batch=observer)
                results.append(found | observer.shares())
                plotted_name(results[0], metric)  # before all others are measured
                drawn.append(observer.drawn)
            chosen = plotted_name(results[0], metric)
            curves.append(Curve(name, chosen, values, tuple(entry[chosen] for entry in results), tuple(results)))
            if rows := [(stems[0][0], [picture for _, picture in stems]) for stems in zip(*drawn, strict=True)]:
                footer = f'{name}: superpixels of the last SCA iteration, heads merged; columns: {how.label}'
                size = max((picture.size for _, row in rows for picture in row), key=lambda size: size[0])
                file_name = fit_name(re.sub(r'[^\w.-]', '_', name), room=16)
                with atomic_path(folder / f'{kind}_{file_name}.png') as file:
                    draw_table(rows, [f'{value:g}' for value in values], size, footer).save(file)
        with atomic_path(folder / f'{kind}.json') as file:
            file.write_text(json.dumps([asdict(curve) for curve in curves], indent=2) + '\n')
        with atomic_path(folder / f'{kind}.png') as file:
            draw_curves(curves, how.label, file)
    return curves


def curves_table(curves: Sequence[Curve]) -> str:
    """Curves as a Markdown table, with the regions' IoU of the occluder where that was measured."""
    rows = [['model', 'metric', *(f'{value:g}' for value in curves[0].x)]]
    for curve in curves:
        found = dict.fromkeys(name for entry in curve.everything for name in entry)
        for name in [curve.metric, *(name for name in found if name.startswith('occluder IoU'))]:
            rows.append([curve.model, name, *(f'{x[name]:.2f}' if name in x else '' for x in curve.everything)])
    return markdown_table(*rows)


def draw_curves(curves: Sequence[Curve], label: str, file: Path) -> None:
    """Plot curves over an axis with this label into a file (.png)."""
    from matplotlib.figure import Figure  # without pyplot, which looks for a screen

    figure = Figure(figsize=(7, 4.5), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    for curve, marker in zip(curves, 'os^Dvpx*' * len(curves), strict=False):
        axes.plot(curve.x, curve.y, marker=marker, label=curve.model)
    highest = max(1e-9, *(value for curve in curves for value in curve.y))
    names = ' / '.join(dict.fromkeys(curve.metric for curve in curves))
    axes.set(xticks=curves[0].x, xlabel=label, ylabel=names, ylim=(0, 1.1 * highest))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file)
