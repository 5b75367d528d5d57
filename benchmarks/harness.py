"""Times two implementations of the same step side by side.

Both run in one process, in turn, so that a machine whose speed drifts treats them alike; the median of the repeats is
reported. With one thread on a CPU it is CPU time, which a busy machine changes little. Memory is the peak of a step
beyond what was allocated before it (weights, inputs). Floating-point operations are those of the matrix products and
convolutions of a step.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmvit_ext.machine import describe_hardware, peak_bytes
from mmvit_ext.models.flops import count_flops

Step = Callable[[], object]


@dataclass
class Measurement:
    """Figures of one implementation of one case."""

    case: str
    side: str
    seconds: float
    peak_bytes: int
    flops: int


@dataclass
class Goal:
    """Limit of a ratio ours / reference, ``time`` or ``memory``."""

    case: str
    figure: str
    limit: float


def synchronize(device: torch.device) -> None:
    """Wait for the device's work."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def seconds_of(step: Step, device: torch.device) -> float:
    """Seconds of one call: wall-clock, or those of the CPU where one thread computes, which nobody else disturbs."""
    clock = time.process_time if device.type == 'cpu' and torch.get_num_threads() == 1 else time.perf_counter
    synchronize(device)
    start = clock()
    step()
    synchronize(device)
    return clock() - start


def compare(case: str, ours: Step, reference: Step, device: torch.device, repeats: int) -> list[Measurement]:
    """Measure both sides of a case, alternating between them."""
    sides = {'ours': ours, 'reference': reference}
    for step in sides.values():
        step()
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in track(range(repeats), description=case, transient=True):
        for side, step in sides.items():
            times[side].append(seconds_of(step, device))
    return [
        Measurement(case, side, statistics.median(times[side]), peak_bytes(step, device), count_flops(step))
        for side, step in sides.items()
    ]


def report(
    title: str, rows: Sequence[Measurement], goals: Sequence[Goal], device: torch.device, json_path: Path | None
) -> bool:
    """Print the table, write the JSON if asked for, and tell whether every goal is met."""
    table = Table(title=title)
    for name in ('case', 'side', 'time', 'peak memory', 'GFLOP', 'time ratio', 'memory ratio'):
        table.add_column(name, justify='left' if name in ('case', 'side') else 'right')
    ratios: dict[tuple[str, str], float] = {}
    for ours, reference in zip(rows[::2], rows[1::2], strict=True):
        ratios[ours.case, 'time'] = ours.seconds / reference.seconds
        ratios[ours.case, 'memory'] = ours.peak_bytes / reference.peak_bytes
        for row in (ours, reference):
            mine = row is ours
            table.add_row(
                row.case if mine else '',
                row.side,
                f'{row.seconds * 1e3:.1f} ms',
                f'{row.peak_bytes / 2**20:.0f} MiB',
                f'{row.flops / 1e9:.1f}',
                f'{ratios[row.case, "time"]:.2f} ({1 / ratios[row.case, "time"]:.2f}x faster)' if mine else '',
                f'{ratios[row.case, "memory"]:.3f}' if mine else '',
            )
    console = Console(width=150)
    console.print(table)
    machine = describe_machine(device)
    console.print(', '.join(f'{key}: {value}' for key, value in machine.items()))
    met = True
    for goal in goals:
        ratio = ratios[goal.case, goal.figure]
        reached = ratio <= goal.limit
        met &= reached
        verdict = 'reached' if reached else 'MISSED '
        console.print(f'{verdict}  {goal.case}: {goal.figure} ratio {ratio:.3f}, goal {goal.limit:.3f}')
    if json_path:
        record = {'title': title, 'machine': machine, 'rows': [asdict(row) for row in rows]}
        record['goals'] = [{**asdict(goal), 'measured': ratios[goal.case, goal.figure]} for goal in goals]
        json_path.write_text(json.dumps(record, indent=2) + '\n')
        console.print(f'written to {json_path}')
    return met


def describe_machine(device: torch.device) -> dict[str, str]:
    """What the figures depend on."""
    return {
        'date': datetime.date.today().isoformat(),
        **describe_hardware(device),
        'torch': torch.__version__,
    }


def arguments(description: str, **choices: Sequence[str]) -> argparse.Namespace:
    """The arguments that every benchmark takes, and further ones with their choices, the first being the default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('--repeats', type=int, default=7, help='timed calls of each side (default: 7)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: cpu)')
    parser.add_argument('--json', type=Path, help='also write the figures to this file')
    for name, values in choices.items():
        parser.add_argument(f'--{name}', choices=values, default=values[0], help=f'default: {values[0]}')
    return parser.parse_args()
