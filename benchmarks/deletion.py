"""Does a NesT need the blocks that GradCAT and CAM point at: ``python -m benchmarks.deletion CONFIG CHECKPOINT``.

One lowest block of each test image is painted over with the mean colour, or everything else is: the block at the end
of GradCAT's path for the true class, the one with the highest mean in the class activation map, one of the four in the
middle, and one of all, at random. The less of the class is left without a block, and the more with nothing but it, the
more the block was worth to the network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.harness import describe_machine
from mmvit_ext.config.loading import load_config
from mmvit_ext.datasets.placement import Box
from mmvit_ext.evaluation.loop import build_test_loader
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.interpret.cam import class_activation_maps
from mmvit_ext.interpret.gradcat import traverse
from mmvit_ext.interpret.inputs import OpenedImage

PAINTED = ('nothing', 'the block', 'all but the block')


def blocks_of(size: tuple[int, int], block: tuple[int, int]) -> list[Box]:
    """All blocks of an input ``(H, W)``, row by row."""
    return [
        (left, top, left + block[1], top + block[0])
        for top in range(0, size[0], block[0])
        for left in range(0, size[1], block[1])
    ]


def choices(predictor: Predictor, inputs: Tensor, label: int, rng: np.random.Generator) -> dict[str, Box]:
    """The block that each way chooses, in pixels of the input."""
    (path,) = traverse(predictor.model, inputs, [label])
    left, top, right, bottom = path.box
    size = (inputs.shape[2], inputs.shape[3])
    blocks = blocks_of(size, (round(bottom - top), round(right - left)))
    (cam,) = class_activation_maps(predictor.model, inputs, [label])
    means = [cam.values[round(box[1]) : round(box[3]), round(box[0]) : round(box[2])].mean() for box in blocks]
    distances = [abs(box[0] + box[2] - size[1]) + abs(box[1] + box[3] - size[0]) for box in blocks]
    middle = np.flatnonzero(np.isclose(distances, min(distances)))
    return {
        'GradCAT': path.box,
        'CAM': blocks[int(np.argmax(means))],
        'one in the middle': blocks[rng.choice(middle)],
        'any': blocks[rng.integers(len(blocks))],
    }


def painted(inputs: Tensor, box: Box) -> Tensor:
    """The input as it is, without a block, and with nothing but the block ``(3, C, H, W)``."""
    left, top, right, bottom = (round(edge) for edge in box)
    inside = torch.zeros(1, 1, *inputs.shape[2:], dtype=torch.bool)
    inside[..., top:bottom, left:right] = True
    return torch.cat([inputs, inputs.masked_fill(inside, 0), inputs.masked_fill(~inside, 0)])


@torch.no_grad()
def measure(predictor: Predictor, samples: list[tuple[str, int]], seed: int) -> dict[str, np.ndarray]:
    """Probability and correctness of the true class, per cent ``(3, 2)``, by the way a block is chosen."""
    rng, found = np.random.default_rng(seed), dict[str, list[np.ndarray]]()
    for path, label in track(samples, 'Images', transient=True):
        inputs = OpenedImage(predictor, path).inputs
        for name, box in choices(predictor, inputs, label, rng).items():
            logits = predictor.model(painted(inputs, box))
            right = (logits.argmax(1) == label).double()
            found.setdefault(name, []).append(torch.stack([logits.softmax(1)[:, label].double(), right], 1).numpy())
    return {name: 100 * np.mean(values, 0) for name, values in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=Path)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('--data-root', required=True, help='folder of the test images')
    parser.add_argument('--images', type=int, default=500, help='number of test images, evenly over all (500)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    cfg = load_config(args.config, {'data_root': args.data_root})
    predictor = Predictor(cfg, args.checkpoint, torch.device('cpu'))
    dataset = build_test_loader(cfg).dataset
    every = np.linspace(0, len(dataset) - 1, min(args.images, len(dataset))).round().astype(int)
    samples = [(info['img_path'], int(info['gt_label'])) for info in (dataset.get_data_info(int(at)) for at in every)]
    measured = measure(predictor, samples, args.seed)
    console = Console(width=120)
    table = Table(title=f'Mean probability of the true class and accuracy in per cent, {len(samples)} images')
    for name in ('block', *(f'painted over: {what}' for what in PAINTED)):
        table.add_column(name)
    for name, values in measured.items():
        table.add_row(name, *(f'{probability:.1f}, {right:.1f}' for probability, right in values))
    console.print(table)
    console.print(', '.join(f'{name}: {value}' for name, value in describe_machine(torch.device('cpu')).items()))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
