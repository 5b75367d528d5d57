"""SegViT's Shrunk ladder on the mini dataset: ``python -m benchmarks.shrunk_ladder --data data/mini``.

Steps (a) last layer alone, (b) QD alone and (c) QD and QU of the paper's figure 3, with a small ViT from scratch, each
under the same budget and with the same seeds; mIoU on the held-out images, mean and standard deviation over the seeds.
Runs that are there already are not repeated.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table

from benchmarks.harness import describe_machine
from benchmarks.mini_runs import ROOT, Run, each, run_arguments, spread, train
from mmvit_ext.models.flops import count_flops

STEPS = {'(a) last layer': 'layer6', '(b) QD': 'qd', '(c) QD + QU': 'shrunk'}


def config_of(step: str) -> Path:
    """The step's config."""
    return ROOT / 'configs' / 'segvit' / f'segvit-{STEPS[step]}_vit-ti16_1xb8-400_mini-ade20k-192x192.py'


def multiply_adds(step: str) -> float:
    """Multiply-adds of one forward pass at the crop's size, in units of 1e9."""
    from mmseg.registry import MODELS

    cfg = Config.fromfile(config_of(step))
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval()
    img = torch.empty(1, 3, *cfg.crop_size, device='meta')
    return count_flops(lambda: model.encode_decode(img, [{'img_shape': cfg.crop_size}])) / 2e9


def main() -> int:
    args = run_arguments(__doc__ or '', 'work_dirs/shrunk_ladder')
    data_root = args.data / 'ade' / 'ADEChallengeData2016'
    table = Table(title='Shrunk ladder, ViT-Ti/16 with 6 layers, mini dataset, 400 iterations')
    for name in ('step', 'mIoU', 'of each seed', 'GFLOPs', 'minutes of training'):
        table.add_column(name, justify='left' if name == 'step' else 'right')
    runs: dict[str, list[Run]] = {step: [] for step in STEPS}
    for seed in args.seeds:
        for step, name in STEPS.items():
            runs[step].append(train(config_of(step), name, seed, args.out, [f'data_root={data_root}']))
    for step, results in runs.items():
        mious = [run.metrics['mIoU'] for run in results]
        minutes = statistics.mean(run.minutes for run in results)
        table.add_row(step, spread(mious), each(mious), f'{multiply_adds(step):.2f}', f'{minutes:.1f}')
    console = Console(width=120)
    console.print(table)
    console.print(', '.join(f'{key}: {value}' for key, value in describe_machine(torch.device('cpu')).items()))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
