"""Does a NesT need the blocks that GradCAT and CAM point at: ``python -m benchmarks.deletion CONFIG CHECKPOINT``.

One lowest block of each test image is painted over with the mean colour, or everything else is: the block at the end
of GradCAT's path for the true class, the one with the highest mean in the class activation map, one of the four in the
middle, and one of all, at random. The less of the class is left without a block, and the more with nothing but it, the
more the block was worth to the network. ``--out`` draws what is left as one block after the other is painted over, in
the order of the class activation map, in the opposite one and at random.
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

from benchmarks.curves import Curve, draw_curves
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


def look(predictor: Predictor, inputs: Tensor, label: int) -> tuple[Box, list[Box], np.ndarray]:
    """The block at the end of GradCAT's path, all blocks of its size, and the mean of the map in each of these."""
    (path,) = traverse(predictor.model, inputs, [label])
    left, top, right, bottom = path.box
    blocks = blocks_of((inputs.shape[2], inputs.shape[3]), (round(bottom - top), round(right - left)))
    (cam,) = class_activation_maps(predictor.model, inputs, [label])
    means = [cam.values[round(box[1]) : round(box[3]), round(box[0]) : round(box[2])].mean() for box in blocks]
    return path.box, blocks, np.array(means)


def choices(path: Box, blocks: list[Box], means: np.ndarray, rng: np.random.Generator) -> dict[str, Box]:
    """The block that each way chooses, in pixels of the input."""
    width, height = blocks[-1][2:]
    distances = [abs(box[0] + box[2] - width) + abs(box[1] + box[3] - height) for box in blocks]
    middle = np.flatnonzero(np.isclose(distances, min(distances)))
    return {
        'GradCAT': path,
        'CAM': blocks[int(np.argmax(means))],
        'one in the middle': blocks[rng.choice(middle)],
        'any': blocks[rng.integers(len(blocks))],
    }


def orders(means: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Orders in which blocks are painted over."""
    first = np.argsort(-means, kind='stable')
    return {'lowest of CAM first': first[::-1], 'at random': rng.permutation(len(means)), 'highest of CAM first': first}


def painted(inputs: Tensor, box: Box) -> Tensor:
    """The input as it is, without a block, and with nothing but the block ``(3, C, H, W)``."""
    left, top, right, bottom = (round(edge) for edge in box)
    inside = torch.zeros(1, 1, *inputs.shape[2:], dtype=torch.bool)
    inside[..., top:bottom, left:right] = True
    return torch.cat([inputs, inputs.masked_fill(inside, 0), inputs.masked_fill(~inside, 0)])


def painted_one_by_one(inputs: Tensor, blocks: list[Box]) -> Tensor:
    """The input without the first 0, 1, ... n of n blocks ``(n + 1, C, H, W)``."""
    steps = [inputs]
    for box in blocks:
        left, top, right, bottom = (round(edge) for edge in box)
        steps.append(steps[-1].clone())
        steps[-1][..., top:bottom, left:right] = 0
    return torch.cat(steps)


@torch.no_grad()
def measure(
    predictor: Predictor, samples: list[tuple[str, int]], seed: int, *, curves: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Probability and correctness of the true class, in per cent.

    By the way in which a block is chosen ``(3, 2)``, and, if ``curves`` are wanted, by the order ``(n + 1, 2)``.
    """
    rng, single, ordered = np.random.default_rng(seed), dict[str, list[np.ndarray]](), dict[str, list[np.ndarray]]()
    shuffled = np.random.default_rng(seed)  # of its own, so that curves do not change the table

    def score(inputs: Tensor, label: int) -> np.ndarray:
        logits = predictor.model(inputs)
        right = (logits.argmax(1) == label).double()
        return torch.stack([logits.softmax(1)[:, label].double(), right], 1).numpy()

    for path, label in track(samples, 'Images', transient=True):
        inputs = OpenedImage(predictor, path).inputs
        end, blocks, means = look(predictor, inputs, label)
        for name, box in choices(end, blocks, means, rng).items():
            single.setdefault(name, []).append(score(painted(inputs, box), label))
        for name, order in orders(means, shuffled).items() if curves else ():
            steps = painted_one_by_one(inputs, [blocks[at] for at in order])
            ordered.setdefault(name, []).append(score(steps, label))
    table, curve = ({name: 100 * np.mean(values, 0) for name, values in part.items()} for part in (single, ordered))
    return table, curve


def draw(path: Path, curves: dict[str, np.ndarray]) -> None:
    """Accuracy and mean probability over the number of blocks that are painted over."""
    panels = []
    for title, column in (('accuracy', 1), ('mean probability of the true class', 0)):
        lines = [Curve(name, range(len(values)), values[:, [column]].tolist()) for name, values in curves.items()]
        panels.append((title, f'blocks painted over, of {len(next(iter(curves.values()))) - 1}', 'per cent', lines))
    draw_curves(path, panels)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=Path)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('--data-root', required=True, help='folder of the test images')
    parser.add_argument('--images', type=int, default=500, help='number of test images, evenly over all (500)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, metavar='FILE.png', help='draw curves of many blocks, too; a new file')
    args = parser.parse_args()
    if args.out is not None and (
        args.out.exists() or args.out.suffix != '.png' or not args.out.absolute().parent.is_dir()
    ):
        parser.error(f'--out {args.out}: name a new file that ends in .png, in a folder that is there')
    cfg = load_config(args.config, {'data_root': args.data_root})
    predictor = Predictor(cfg, args.checkpoint, torch.device('cpu'))
    dataset = build_test_loader(cfg, images=args.images).dataset
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    samples = [(info['img_path'], int(info['gt_label'])) for info in infos]
    measured, curves = measure(predictor, samples, args.seed, curves=args.out is not None)
    console = Console(width=120)
    table = Table(title=f'Mean probability of the true class and accuracy in per cent, {len(samples)} images')
    for name in ('block', *(f'painted over: {what}' for what in PAINTED)):
        table.add_column(name)
    for name, values in measured.items():
        table.add_row(name, *(f'{probability:.1f}, {right:.1f}' for probability, right in values))
    console.print(table)
    if args.out is not None:
        draw(args.out, curves)
        for name, values in curves.items():
            console.print(f'accuracy, {name}: {", ".join(f"{right:.1f}" for right in values[:, 1])}')
    console.print(', '.join(f'{name}: {value}' for name, value in describe_machine(torch.device('cpu')).items()))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
