"""All networks on one GPU: ours, timm's and the plain references in one process.

    mmvit bench gpu                                 # everything, into results/gpu/
    mmvit bench gpu --parts segvit,tnt --budget 300   # and the rate that shares are of
    mmvit bench gpu --device cpu --toy              # the same code at toy sizes, to test it

Each row is a training step (forward, loss, backward, fused AdamW) or a forward pass, in bfloat16 autocast with TF32 for
what stays float32. Its share is that of the rate of a bfloat16 matrix product measured in the same process; FLOPs are
those of the matrix products and convolutions, three forward passes for a training step. A part or row that fails is
reported with its error and does not end the others; what the time budget leaves no room for is named.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.gpu_models import Case, cases, loader_batches, small_networks
from benchmarks.harness import describe_machine, synchronize
from benchmarks.kernels import KernelCounter
from mmvit_ext.files import free_name
from mmvit_ext.machine import commit_of, library_versions, peak_bytes
from mmvit_ext.models.compiled import compile_blocks

__all__ = ['main']

ROOT = Path(__file__).parents[1]
PARTS = ('rates', 'right', 'segvit', 'head', 'p2t', 'spformer', 'tnt', 'nest', 'kernels', 'data')
FLOAT32_LIMIT, BFLOAT16_LIMIT = 1e-3, 5e-2  # relative errors of outputs that count as equal to the CPU's float32
GOALS = (
    # case, mode, figure, limit: on an H100, of the best of our rows
    ('SegViT-L 640x640, 8 images', 'train', 'share', 0.50),
    ('SegViT-L 640x640, 2 images', 'train', 'share', 0.35),
    ('SegViT-L 512x512, 1 image', 'infer', 'images_per_second', 250.0),
    ('TNT-S 224x224', 'train', 'share', 0.30),
    ('NesT-T 224x224', 'train', 'share', 0.30),
    ('SPFormer-S/16 224x224', 'train', 'share', 0.30),
    ('P2T-S Semantic FPN 512x512', 'train', 'share', 0.30),
)
HEAD_GOAL = 0.10  # ATM head and loss over SegViT-L's step


@dataclass
class Row:
    """Figures of one way to run one case."""

    case: str
    side: str
    mode: str
    images: int
    milliseconds: float = 0.0
    peak_mib: float = 0.0
    kernels: int = 0
    teraflops: float = 0.0
    share: float = 0.0
    images_per_second: float = 0.0


@dataclass
class Session:
    """What was measured so far."""

    device: torch.device
    toy: bool
    deadline: float
    rates: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    right: dict[str, dict[str, float | str]] = field(default_factory=dict)
    kernels: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def attempt(self, name: str, step: Callable[[], object]) -> bool:
        """Run a piece if there is time for it; its error is noted and does not end the rest."""
        if time.monotonic() > self.deadline:
            self.failed[name] = 'left out: the time budget is used up'
            return False
        try:
            step()
        except Exception as error:
            traceback.print_exc(limit=3)
            self.failed[name] = f'{type(error).__name__}: {str(error)[:300]}'
        free(self.device)
        return name not in self.failed

    def autocast(self, dtype: torch.dtype | None = torch.bfloat16) -> AbstractContextManager:
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def milliseconds(self, step: Callable[[], object], seconds: float = 1.0) -> float:
        """Median time of a call, by the device's own clock on a GPU."""
        for _ in range(1 if self.toy else 3):
            step()
        times: list[float] = []
        end = time.perf_counter() + (0 if self.toy else seconds)
        while not times or (time.perf_counter() < end and len(times) < 60):
            synchronize(self.device)
            if self.device.type == 'cuda':
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                step()
                stop.record()
                synchronize(self.device)
                times.append(start.elapsed_time(stop))
            else:
                begin = time.perf_counter()
                step()
                times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times)

    def count_kernels(self, step: Callable[[], object]) -> int:
        """Kernels of a call: those that a GPU ran, on a CPU the operators."""
        if self.device.type != 'cuda':
            with KernelCounter() as counter:
                step()
            return sum(counter.found.values())
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            step()
            synchronize(self.device)
        kinds = (event for event in profile.events() if str(event.device_type).endswith('CUDA'))
        return sum(not getattr(event, 'is_user_annotation', False) for event in kinds)


def free(device: torch.device) -> None:
    """Give back what is not used any more."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()


def training_step(session: Session, model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Forward, loss, backward, update."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=session.device.type == 'cuda')

    def step() -> Tensor:
        with session.autocast():
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value

    return step


def measure_case(session: Session, case: Case, side: str, how: str) -> None:
    """One row: ``how`` is ``'eager'``, ``'blocks'`` or ``'graphs'``."""
    torch.manual_seed(0)
    runs = case.build(session.device, session.toy)
    if how != 'eager':
        said = compile_blocks(runs.model, graphs=how == 'graphs', backend='eager' if session.toy else None)
        if 'no blocks' in said:
            raise ValueError(said)
        side = f'{side}, compiled blocks' + (' as CUDA graphs' if how == 'graphs' else '')
    runs.model.train(case.mode == 'train')
    if case.mode == 'train':
        step = training_step(session, runs.model, runs.loss)
    else:

        def step() -> Tensor:
            with torch.no_grad(), session.autocast():
                return runs.forward()

    row = Row(case.name, side, case.mode, runs.images, session.milliseconds(step))
    row.peak_mib = peak_bytes(step, session.device) / 2**20
    row.kernels = session.count_kernels(step)
    row.images_per_second = 1e3 * runs.images / row.milliseconds
    if runs.flops:
        row.teraflops = runs.flops * runs.images * (3 if case.mode == 'train' else 1) / row.milliseconds / 1e9
        row.share = row.teraflops / session.rates['bf16 TFLOP/s'] if 'bf16 TFLOP/s' in session.rates else 0.0
    session.rows.append(row)


def measure_rates(session: Session) -> None:
    """What the device can do: matrix products in three precisions, and copying."""
    edge = 64 if session.toy else 8192
    for name, dtype, tf32 in (
        ('bf16', torch.bfloat16, True),
        ('tf32', torch.float32, True),
        ('fp32', torch.float32, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(edge, edge, device=session.device, dtype=dtype) for _ in range(2))
        session.rates[f'{name} TFLOP/s'] = 2 * edge**3 / session.milliseconds(lambda a=a, b=b: a @ b, 0.4) / 1e9
    torch.backends.cuda.matmul.allow_tf32 = True
    x = torch.empty(2**12 if session.toy else 2**30, dtype=torch.uint8, device=session.device)
    y = torch.empty_like(x)
    session.rates['copy TB/s'] = 2 * len(x) / session.milliseconds(lambda: y.copy_(x), 0.3) / 1e9


def measure_right(session: Session) -> None:
    """Every network and its gradient on the device against float32 on the CPU, without TF32 and in half precision."""
    halves = (torch.bfloat16, torch.float16) if session.device.type == 'cuda' else (torch.bfloat16,)
    for name, build in small_networks().items():

        def compare(name: str = name, build: Callable[[], tuple[nn.Module, Callable]] = build) -> None:
            torch.manual_seed(0)
            model, run = build()
            for parameter in model.parameters():  # zeros would hide errors
                nn.init.normal_(parameter, std=0.1)
            model.eval()
            wanted = _with_gradient(model, run)
            found: dict[str, float | str] = {}
            on_device = copy.deepcopy(model).to(session.device)
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
            try:
                for dtype in (None, *halves):
                    on_device.zero_grad(set_to_none=True)
                    with session.autocast(dtype):
                        got = _with_gradient(on_device, run)
                    for what, ours, reference in zip(('output', 'gradient'), got, wanted, strict=True):
                        error = float((ours - reference).norm() / reference.norm().clamp(min=1e-30))
                        found[f'{str(dtype or torch.float32)[6:]} {what}'] = error
            finally:
                torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            checks = {
                'float32 output': FLOAT32_LIMIT,
                'float32 gradient': FLOAT32_LIMIT,
                'bfloat16 output': BFLOAT16_LIMIT,
            }
            wrong = [what for what, limit in checks.items() if not float(found[what]) <= limit]
            found['verdict'] = f'WRONG: {", ".join(wrong)}' if wrong else 'equal'
            session.right[name] = found

        session.attempt(f'right: {name}', compare)


def _with_gradient(model: nn.Module, run: Callable[[nn.Module], Tensor]) -> tuple[Tensor, Tensor]:
    out = run(model)
    out.float().square().mean().backward()
    grads = [p.grad.flatten().float().cpu() for p in model.parameters() if p.grad is not None]
    return out.detach().float().cpu(), torch.cat(grads)


def measure_kernels(session: Session) -> None:
    """The unmeasured Triton kernels against their plain forms; this is what would turn them on."""
    from benchmarks.gpu_models import kernel_pairs

    if session.device.type != 'cuda':
        session.kernels['note'] = 'Triton needs a GPU'
        return
    for name, (fused, plain, tensors) in kernel_pairs(session.device, session.toy).items():

        def compare(name: str = name, fused: Any = fused, plain: Any = plain, tensors: Any = tensors) -> None:
            leaves = [tensor.requires_grad_() for tensor in tensors]
            values = [function(*leaves) for function in (fused, plain)]
            error = float((values[0] - values[1]).norm() / values[1].norm())
            row: dict[str, float] = {'relative error': error}
            for side, function in (('fused', fused), ('plain', plain), ('compiled', torch.compile(plain))):
                row[f'{side} forward ms'] = session.milliseconds(lambda f=function: f(*leaves).detach(), 0.3)
                row[f'{side} ms'] = session.milliseconds(lambda f=function: f(*leaves).backward(), 0.3)
            session.kernels[name] = row

        session.attempt(f'kernels: {name}', compare)


def measure_data(session: Session) -> None:
    """Training from JPEG files with workers, beside the same step on a batch that is there."""
    case = next(case for case in cases('nest') if case.mode == 'train' and case.side == 'ours')
    runs = case.build(session.device, session.toy)
    step = training_step(session, runs.model.train(), lambda: runs.loss_of(*next(batches)))
    first, count = (1, 2) if session.toy else (40, 60)  # the workers have the first batches ready
    with loader_batches(session.device, session.toy) as batches:
        for number in range(first + count):
            if number == first:
                synchronize(session.device)
                begin = time.perf_counter()
            step()  # timed as a whole: batches come in bursts, and a median leaves out the waiting between them
        synchronize(session.device)
        milliseconds = 1e3 * (time.perf_counter() - begin) / count
    images = 2 if session.toy else 128
    name = f'{case.name}, from files'
    session.rows.append(Row(name, 'ours', 'train', images, milliseconds, images_per_second=1e3 * images / milliseconds))


def goals(session: Session) -> list[str]:
    """Each goal beside what was measured."""
    lines = []
    for case, mode, figure, limit in GOALS:
        ours = [row for row in session.rows if row.side.startswith('ours') and (row.case, row.mode) == (case, mode)]
        best = max((value for row in ours if (value := getattr(row, figure))), default=None)
        reached = 'toy size' if session.toy else 'MISSED' if best is None or best < limit else 'reached'
        verdict = 'not measured' if best is None else f'{best:.3g} ({reached})'
        lines.append(f'{case}, {mode}: {figure} {verdict}, goal {limit:g}')
    for case in ('TNT-S 224x224', 'NesT-T 224x224'):
        times = {row.side: row.milliseconds for row in session.rows if (row.case, row.mode) == (case, 'train')}
        ours = min((ms for side, ms in times.items() if side.startswith('ours')), default=None)
        theirs = min((ms for side, ms in times.items() if side.startswith('timm')), default=None)
        measured = 'not measured' if ours is None or theirs is None else f'{ours:.1f} against {theirs:.1f} ms'
        lines.append(f'{case}, train: ours {measured}, goal: ahead of timm')
    steps = {row.case: row.milliseconds for row in session.rows if row.side == 'ours' and row.mode == 'train'}
    whole, head = steps.get('SegViT-L 640x640, 2 images'), steps.get('ATM head and loss of SegViT-L, 2 images')
    share = 'not measured' if whole is None or head is None else f'{head / whole:.3f}'
    return [*lines, f'ATM head and loss: {share} of the step of SegViT-L, goal at most {HEAD_GOAL:g}']


def describe(session: Session) -> dict[str, Any]:
    """Card, driver, versions and commit."""
    about: dict[str, Any] = {**describe_machine(session.device), **library_versions(), 'commit': commit_of(ROOT)}
    if session.device.type == 'cuda':
        query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
        try:
            done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
            about['driver'] = done.stdout.split('\n')[0].strip()
        except (OSError, subprocess.SubprocessError):
            about['driver'] = 'unknown'
        about |= {'cuda': torch.version.cuda, 'cudnn': torch.backends.cudnn.version()}
    return about


def show(session: Session, lines: Sequence[str]) -> None:
    """Print the figures."""
    table = Table(title='one step of each')
    for name in ('case', 'side', 'mode', 'ms', 'MiB', 'kernels', 'TFLOP/s', 'share', 'images/s'):
        table.add_column(name, justify='left' if name in ('case', 'side', 'mode') else 'right')
    for row in session.rows:
        figures = (row.milliseconds, row.peak_mib, row.kernels, row.teraflops, row.share, row.images_per_second)
        table.add_row(row.case, row.side, row.mode, *(f'{figure:.4g}' for figure in figures))
    console = Console(width=150)
    console.print(table)
    for title, found in (('rates', session.rates), ('right', session.right), ('kernels', session.kernels)):
        for name, value in found.items():
            console.print(f'{title}: {name} {value if isinstance(value, dict | str) else f"{value:.4g}"}')
    for name, error in session.failed.items():
        console.print(f'FAILED  {name}: {error}', markup=False)
    for line in lines:
        console.print(line)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the exit code is 1 if something failed or is wrong, goals do not count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda', help='cuda, cuda:1, ... or cpu (default: cuda)')
    parser.add_argument('--toy', action='store_true', help='tiny networks and images, to test the command')
    parser.add_argument('--budget', type=float, default=600, metavar='SECONDS', help='for everything (default: 600)')
    parser.add_argument('--parts', default=','.join(PARTS), help=f'some of {",".join(PARTS)} (default: all)')
    parser.add_argument('--out', type=Path, help='folder of the JSON (default: results/gpu; none with --toy)')
    args = parser.parse_args(argv)
    chosen = args.parts.split(',')
    if unknown := sorted(set(chosen) - set(PARTS)):
        parser.error(f'--parts: there is no {", ".join(unknown)}: expected some of {", ".join(PARTS)}')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: PyTorch sees no GPU; --device cpu --toy tests the command without one')
    session = Session(torch.device(args.device), args.toy, time.monotonic() + args.budget)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    others = {'rates': measure_rates, 'right': measure_right, 'kernels': measure_kernels, 'data': measure_data}
    if set(chosen) - set(others):  # the share of each row is that of a rate
        chosen = ['rates', *(part for part in chosen if part != 'rates')]
    for part in chosen:
        if part in others:
            session.attempt(part, lambda part=part: others[part](session))
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            continue
        for case in cases(part):
            for how in case.ways[:1] if args.toy and part != 'head' else case.ways:
                name = f'{case.name}, {case.side}, {case.mode}, {how}'
                session.attempt(name, lambda case=case, how=how: measure_case(session, case, case.side, how))
    lines = goals(session)
    show(session, lines)
    out = args.out or (None if args.toy else ROOT / 'results' / 'gpu')
    if out:
        about = describe(session)
        record = {'machine': about, 'toy': args.toy, 'goals': lines, **asdict(session)}
        record = {name: value for name, value in record.items() if name not in ('device', 'deadline')}
        out.mkdir(parents=True, exist_ok=True)
        card = ''.join(letter if letter.isalnum() else '-' for letter in about['device'].lower())
        path = free_name(out / f'{card}_{about["date"]}.json')
        path.write_text(json.dumps(record, indent=1) + '\n')
        print(f'written to {path}')
    return int(bool(session.failed) or any(row['verdict'] != 'equal' for row in session.right.values()))


if __name__ == '__main__':
    sys.exit(main())
