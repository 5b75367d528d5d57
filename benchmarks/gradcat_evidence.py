"""Where GradCAT's path ends, for both signs, and CAM localisation: ``python -m benchmarks.gradcat_evidence``.

Trains the small NesT on the mini dataset in ImageNet's layout (runs that are there already are not repeated) and walks
down the levels for the true class of each image. A path meets the object where the box of its last block overlaps the
object's true box; stricter: the middle of the block lies inside it, or at least half of the block does. The share of
all blocks for which the same holds is what a path chosen at random would reach. The threshold of the activation maps
is chosen on training images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import describe_machine
from benchmarks.mini_runs import ROOT, Run, each, run_arguments, spread, train
from mmvit_ext.config.loading import load_config
from mmvit_ext.datasets.placement import Box
from mmvit_ext.evaluation.cam_localization import box_iou
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.interpret.cam import box_from_map, class_activation_maps
from mmvit_ext.interpret.gradcat import SIGNS, traverse
from mmvit_ext.interpret.inputs import OpenedImage, PlacedImage

CONFIG = ROOT / 'configs' / 'nest' / 'nest-mini_1xb8-450_mini-imagenet-96x96.py'
WHOLE = ROOT / 'configs' / 'nest' / 'cam_nest-mini_mini-imagenet-96x96.py'
RIVALS = (0, 1, 3, 10, 999)
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
BLOCK = 24
"""Edge of a lowest block of this network in pixels of its input."""


def judge(block: Box, true: Box) -> tuple[bool, bool, bool]:
    """Whether a block meets the object, has its middle inside of it, and lies in it by half."""
    width = min(block[2], true[2]) - max(block[0], true[0])
    height = min(block[3], true[3]) - max(block[1], true[1])
    shared = max(width, 0) * max(height, 0)
    x, y = (block[0] + block[2]) / 2, (block[1] + block[3]) / 2
    area = (block[2] - block[0]) * (block[3] - block[1])
    return shared > 0, true[0] <= x <= true[2] and true[1] <= y <= true[3], shared >= area / 2


def images(predictor: Predictor, data: Path, split: str, count: int) -> Iterator[tuple[PlacedImage, int, Box]]:
    """Images with the true class and the true box in pixels of the input."""
    listed = json.loads((data / 'imagenet' / 'boxes.json').read_text())['images']
    for name in [name for name in listed if name.startswith(f'{split}/')][:count]:
        placed = OpenedImage(predictor, data / 'imagenet' / name).placed
        yield placed, listed[name]['label'], placed.placement.to_input(listed[name]['boxes'][0])


def paths(run: Run, config: Path, data: Path, split: str, count: int) -> dict[Any, list[float]]:
    """Shares of images in per cent for which a path meets the object, by rivals and sign."""
    predictor = Predictor(load_config(config), run.checkpoint, torch.device('cpu'))
    found: dict[Any, list[tuple[bool, bool, bool]]] = {}
    chance = []
    for placed, label, true in images(predictor, data, split, count):
        height, width = placed.placement.input_size
        blocks = [
            (x, y, min(x + BLOCK, width), min(y + BLOCK, height))
            for y in range(0, height, BLOCK)
            for x in range(0, width, BLOCK)
        ]
        chance.append(np.mean([judge(block, true) for block in blocks], 0))
        for rivals in RIVALS:
            for sign in SIGNS:
                (walked,) = traverse(predictor.model, placed.inputs, [label], sign=sign, rivals=rivals)
                found.setdefault((rivals, sign), []).append(judge(walked.box, true))
    shares = {key: (100 * np.mean(values, 0)).tolist() for key, values in found.items()}
    return {**shares, 'any block': (100 * np.mean(chance, 0)).tolist()}


def boxes(run: Run, data: Path, split: str, count: int) -> dict[tuple[int, float], float]:
    """GT-known localisation accuracy in per cent, by rivals and threshold."""
    predictor = Predictor(load_config(WHOLE), run.checkpoint, torch.device('cpu'))
    hits: dict[tuple[int, float], list[bool]] = {}
    for placed, label, true in images(predictor, data, split, count):
        for rivals in (0, 1, 3):
            (found,) = class_activation_maps(predictor.model, placed.inputs, [label], rivals=rivals)
            for threshold in THRESHOLDS:
                iou = box_iou(box_from_map(found.values, threshold), true)
                hits.setdefault((rivals, threshold), []).append(iou >= 0.5)
    return {key: 100 * float(np.mean(values)) for key, values in hits.items()}


def main() -> int:
    args = run_arguments(__doc__ or '', 'work_dirs/nest_evidence')
    options = [f'data_root={args.data}/imagenet']
    options += [f'{split}_dataloader.dataset.data_root={args.data}/imagenet' for split in ('train', 'val', 'test')]
    options += ['train_dataloader.dataset.indices=240']
    runs = [train(CONFIG, 'nest-mini_240', seed, args.out, options) for seed in args.seeds]
    console = Console(width=140)
    for title, split, count in (('held-out', 'val', 60), ('training', 'train', 120)):
        table = Table(title=f'Paths that meet the object, % of {count} {title} images, {len(runs)} seeds')
        for name in ('rivals', 'sign', 'overlap', 'of each seed', 'middle inside', 'half inside'):
            table.add_column(name)
        measured = [paths(run, CONFIG, args.data, split, count) for run in runs]
        for key in measured[0]:
            columns = [[figures[key][place] for figures in measured] for place in range(3)]
            names = (key, '') if isinstance(key, str) else (str(key[0]), key[1])
            table.add_row(*names, spread(columns[0]), each(columns[0]), *(spread(column) for column in columns[1:]))
        console.print(table)
    table = Table(title=f'GT-known localisation accuracy of activation maps at IoU 0.5, %, {len(runs)} seeds')
    for name in ('rivals', 'threshold', '120 training images', '60 held-out images', 'of each seed'):
        table.add_column(name)
    trained, held = ([boxes(run, args.data, *part) for run in runs] for part in (('train', 120), ('val', 60)))
    for key in trained[0]:
        values = [figures[key] for figures in held]
        table.add_row(
            str(key[0]), str(key[1]), spread([figures[key] for figures in trained]), spread(values), each(values)
        )
    console.print(table)
    console.print(', '.join(f'{name}: {value}' for name, value in describe_machine(torch.device('cpu')).items()))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
