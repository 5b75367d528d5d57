"""TNT against a plain ViT on the mini dataset: ``python -m benchmarks.tnt_evidence --data data/mini``.

Naive SETR on a small TNT and on a ViT of as many blocks, the same width and as many parameters, both from scratch,
under the same budget and with the same seeds. mIoU on the held-out images at the end, and the course of it. Runs that
are there already are not repeated.
"""

from __future__ import annotations

import statistics

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.curves import Curve, draw_curves
from benchmarks.harness import describe_machine
from benchmarks.mini_runs import ROOT, Run, course, each, run_arguments, spread, train

CONFIGS = ROOT / 'configs' / 'tnt'
BUDGET = '1xb8-300_mini-ade20k-192x192.py'
MODELS = {'ViT': CONFIGS / f'setr-naive_vit-mini_{BUDGET}', 'TNT': CONFIGS / f'setr-naive_tnt-mini_{BUDGET}'}


def main() -> int:
    args = run_arguments(__doc__ or '', 'work_dirs/tnt_evidence')
    data_root = args.data / 'ade' / 'ADEChallengeData2016'
    runs: dict[str, list[Run]] = {model: [] for model in MODELS}
    for seed in args.seeds:
        for model, config in MODELS.items():
            runs[model].append(train(config, f'{model.lower()}-mini', seed, args.out, [f'data_root={data_root}']))

    table = Table(title=f'Mini dataset, {len(args.seeds)} seeds')
    for name in ('model', 'mIoU', 'of each seed', 'minutes of training'):
        table.add_column(name, justify='left' if name == 'model' else 'right')
    for model, results in runs.items():
        mious = [run.metrics['mIoU'] for run in results]
        minutes = statistics.mean(run.minutes for run in results)
        table.add_row(model, spread(mious), each(mious), f'{minutes:.1f}')
    console = Console(width=120)
    console.print(table)
    curves = [Curve(model, *course(results, 'mIoU')) for model, results in runs.items()]
    path = draw_curves(args.out / 'tnt_evidence.png', [('Held-out images', 'iterations', 'mIoU', curves)])
    machine = ', '.join(f'{key}: {value}' for key, value in describe_machine(torch.device('cpu')).items())
    console.print(f'curves in {path}; {machine}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
