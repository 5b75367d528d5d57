"""SegViT's Shrunk ladder on the mini dataset: ``python -m benchmarks.shrunk_ladder --data data/mini``.

Steps (a) last layer alone, (b) QD alone and (c) QD and QU of the paper's figure 3, with a small ViT from scratch, each
under the same budget and with the same seeds; mIoU on the held-out images, mean and standard deviation over the seeds.
Runs that are there already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table

from benchmarks.harness import describe_machine
from mmvit_ext.evaluation import count_flops

ROOT = Path(__file__).parents[1]
STEPS = {'(a) last layer': 'layer6', '(b) QD': 'qd', '(c) QD + QU': 'shrunk'}


def config_of(step: str) -> Path:
    """The step's config."""
    return ROOT / 'configs' / 'segvit' / f'segvit-{STEPS[step]}_vit-ti16_1xb8-400_mini-ade20k-192x192.py'


def train(step: str, seed: int, data: Path, out: Path) -> dict:
    """Mean IoU after training, in per cent, and the minutes it took; taken from an earlier run if there is one."""
    record = out / f'{STEPS[step]}_seed{seed}.json'
    if not record.exists():
        work_dir = out / f'{STEPS[step]}_seed{seed}'
        data_root = data / 'ade' / 'ADEChallengeData2016'
        command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config_of(step)), '--work-dir', str(work_dir)]
        start = time.monotonic()
        subprocess.run(
            [*command, '--seed', str(seed), '--cfg-options', f'data_root={data_root}'],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        minutes = (time.monotonic() - start) / 60
        scalars = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1].read_text().splitlines()
        miou = [json.loads(line)['mIoU'] for line in scalars if 'mIoU' in line][-1]
        record.write_text(json.dumps({'mIoU': miou, 'minutes': round(minutes, 2)}))
    return json.loads(record.read_text())


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', type=Path, default=Path('data/mini'), help='mini dataset (default: data/mini)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/shrunk_ladder'), help='folder of the runs')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='default: 0 1 2')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    table = Table(title='Shrunk ladder, ViT-Ti/16 with 6 layers, mini dataset, 400 iterations')
    for name in ('step', 'mIoU', 'of each seed', 'GFLOPs', 'minutes of training'):
        table.add_column(name, justify='left' if name == 'step' else 'right')
    runs = {step: [] for step in STEPS}
    for seed in args.seeds:
        for step in STEPS:
            runs[step].append(train(step, seed, args.data, args.out))
    for step, results in runs.items():
        mious = [result['mIoU'] for result in results]
        spread = statistics.stdev(mious) if len(mious) > 1 else 0.0
        table.add_row(
            step,
            f'{statistics.mean(mious):.1f} ± {spread:.1f}',
            ', '.join(f'{miou:.1f}' for miou in mious),
            f'{multiply_adds(step):.2f}',
            f'{statistics.mean(result["minutes"] for result in results):.1f}',
        )
    console = Console(width=120)
    console.print(table)
    console.print(', '.join(f'{key}: {value}' for key, value in describe_machine(torch.device('cpu')).items()))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
