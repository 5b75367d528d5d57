"""Trainings on the mini dataset, one after the other, whose results are kept: what the evidence tables are made of.

A run that is there already is not repeated, so that an interrupted table goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Run:
    """A finished training.

    Args:
        metrics: the last evaluation, name to value.
        minutes: wall-clock time of the training.
        history: iteration and evaluation of every evaluation, in order.
        work_dir: folder of the run.
    """

    metrics: dict[str, float]
    minutes: float
    history: list[dict[str, float]]
    work_dir: Path

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.work_dir / Path((self.work_dir / 'last_checkpoint').read_text().strip()).name


def train(config: Path, name: str, seed: int, out: Path, options: Sequence[str] = ()) -> Run:
    """Train a config with a seed, unless ``out`` holds that run already.

    Args:
        config: the config's path.
        name: of the run; the seed is added.
        seed: of the training.
        out: folder of all runs.
        options: ``KEY=VALUE`` for ``--cfg-options``.
    """
    work_dir = out / f'{name}_seed{seed}'
    record = out / f'{name}_seed{seed}.json'
    if not record.exists():
        command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--work-dir', str(work_dir)]
        start = time.monotonic()
        subprocess.run(
            [*command, '--seed', str(seed), *(['--cfg-options', *options] if options else [])],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        minutes = (time.monotonic() - start) / 60
        scalars = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1].read_text().splitlines()
        lines = [json.loads(line) for line in scalars]
        history = [line for line in lines if 'loss' not in line]
        record.write_text(json.dumps({'minutes': round(minutes, 2), 'history': history}))
    kept = json.loads(record.read_text())
    return Run(kept['history'][-1], kept['minutes'], kept['history'], work_dir)


def course(runs: Sequence[Run], metric: str) -> tuple[list[int], list[list[float]]]:
    """The iterations of the evaluations, and a metric at each of them, one of each run."""
    steps = [int(line['step']) for line in runs[0].history]
    return steps, [[run.history[place][metric] for run in runs] for place in range(len(steps))]


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation, as one text."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f'{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}'


def each(values: Sequence[float], digits: int = 1) -> str:
    """The values in a row."""
    return ', '.join(f'{value:.{digits}f}' for value in values)


def run_arguments(description: str, out: str) -> argparse.Namespace:
    """The arguments that every table of this kind takes: ``--data``, ``--out``, ``--seeds``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('--data', type=Path, default=Path('data/mini'), help='mini dataset (default: data/mini)')
    parser.add_argument('--out', type=Path, default=Path(out), help=f'folder of the runs (default: {out})')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='default: 0 1 2')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    return args
