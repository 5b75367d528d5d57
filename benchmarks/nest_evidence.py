"""NesT against a plain ViT with few images: ``python -m benchmarks.nest_evidence --data data/mini``.

A small NesT and a ViT of as many parameters classify the mini dataset in ImageNet's layout, from scratch, in as many
iterations, with an eighth, a quarter, half and all of the training images and with the same seeds. Top-1 accuracy on
the held-out images at the end, and the course of it with all images. Runs that are there already are not repeated.
"""

from __future__ import annotations

import statistics

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.curves import Curve, draw_curves
from benchmarks.harness import describe_machine
from benchmarks.mini_runs import ROOT, Run, course, each, run_arguments, spread, train

BUDGET = '1xb8-450_mini-imagenet-96x96.py'
CONFIGS = ROOT / 'configs' / 'nest'
MODELS = {'ViT': CONFIGS / f'vit-mini_{BUDGET}', 'NesT': CONFIGS / f'nest-mini_{BUDGET}'}
IMAGES = (30, 60, 120, 240)
METRIC = 'accuracy/top1'


def main() -> int:
    args = run_arguments(__doc__ or '', 'work_dirs/nest_evidence')
    runs: dict[tuple[str, int], list[Run]] = {(model, images): [] for images in IMAGES for model in MODELS}
    for seed in args.seeds:
        for model, images in reversed(runs):
            loaders = [f'{split}_dataloader' for split in ('train', 'val', 'test')]
            options = [f'{loader}.dataset.data_root={args.data}/imagenet' for loader in loaders]
            options.append(f'train_dataloader.dataset.indices={images}')
            name = f'{model.lower()}-mini_{images}'
            runs[model, images].append(train(MODELS[model], name, seed, args.out, options))

    table = Table(title=f'Top-1 on the held-out images of the mini dataset, {len(args.seeds)} seeds')
    for name in ('model', 'training images', 'top-1', 'of each seed', 'minutes of training'):
        table.add_column(name, justify='left' if name == 'model' else 'right')
    for (model, images), results in runs.items():
        figures = [run.metrics[METRIC] for run in results]
        minutes = statistics.mean(run.minutes for run in results)
        table.add_row(model, str(images), spread(figures), each(figures), f'{minutes:.1f}')
    console = Console(width=120)
    console.print(table)

    ends = [
        Curve(model, list(IMAGES), [[run.metrics[METRIC] for run in runs[model, images]] for images in IMAGES])
        for model in MODELS
    ]
    courses = [Curve(model, *course(runs[model, IMAGES[-1]], METRIC)) for model in MODELS]
    path = draw_curves(
        args.out / 'nest_evidence.png',
        [
            ('After 450 iterations', 'training images', 'top-1 in %', ends),
            (f'With all {IMAGES[-1]} images', 'iterations', 'top-1 in %', courses),
        ],
    )
    machine = ', '.join(f'{key}: {value}' for key, value in describe_machine(torch.device('cpu')).items())
    console.print(f'curves in {path}; {machine}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
