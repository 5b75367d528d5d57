"""The machine: installed distributions, hardware, memory, and progress shown on its terminal.

PyTorch and rich are imported where they are used: the doctor reads the table of distributions where they are missing.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mmvit_ext.version import __version__

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

__all__ = ['DISTRIBUTIONS', 'commit_of', 'describe_hardware', 'importable', 'library_versions', 'memory_limit']
__all__ += ['float32_products', 'open_files_limit', 'peak_bytes', 'progress_bar', 'warn_of_emulated_bfloat16']

DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}
"""The distributions that provide each library: the maintained fork first. Those of one line exclude each other."""


def describe_hardware(device: torch.device) -> dict[str, str]:
    """Names of the processor and of the device, and the number of threads."""
    import torch

    names = [line.partition(':')[2].strip() for line in _lines('/proc/cpuinfo') if 'model name' in line]
    return {
        'processor': [*names, platform.processor() or platform.machine()][0],
        'threads': str(torch.get_num_threads()),
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu',
    }


def library_versions() -> dict[str, str]:
    """The installed versions of Python, torch, this package and the libraries, by the name of the distribution."""
    import torch

    versions = {'mmvit_ext': __version__, 'python': platform.python_version(), 'torch': torch.__version__}
    for name in (name for names in DISTRIBUTIONS.values() for name in names):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def commit_of(root: Path) -> str:
    """The commit that a checkout stands at, with ``, changed`` where tracked files differ; ``none`` outside of one."""
    if not (root / '.git').exists():
        return 'none'
    texts = []
    for command in (['rev-parse', 'HEAD'], ['status', '--porcelain', '--untracked-files=no']):
        git = ['git', '-C', str(root), *command]
        try:
            texts.append(subprocess.run(git, check=True, capture_output=True, text=True, timeout=30).stdout.strip())
        except (OSError, subprocess.SubprocessError):
            return 'none'
    return f'{texts[0]}, changed' if texts[1] else texts[0]


def memory_limit(device: torch.device) -> int:
    """The bytes of a GPU, or for the CPU of the machine or container; other processes may use some of them."""
    import torch

    if device.type == 'cuda':
        return torch.cuda.get_device_properties(device).total_memory
    limits = [int(line.split()[1]) * 1024 for line in _lines('/proc/meminfo') if line.startswith('MemTotal')]
    for path in ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes'):
        limits += [int(line) for line in _lines(path) if line.isdigit()]
    return min(limits, default=2**63)


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Let a GPU multiply float32 in TF32 (10 bits of the mantissa) within a block, or in full."""
    import torch

    if not torch.cuda.is_available():
        yield
        return
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision('high' if tf32 else 'highest')
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions


def warn_of_emulated_bfloat16() -> None:
    """Log a warning where the CPU has no bfloat16 instructions, and mixed precision is slower than float32."""
    import torch
    from mmengine.logging import print_log

    if torch.backends.mkldnn.is_available() and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        slow = 'this processor only emulates bfloat16, and convolutions can take a hundred times as long as in float32'
        print_log(f'{slow}: leave out --amp, or train with --no-amp', 'current', logging.WARNING)


def open_files_limit() -> float:
    """How many files a process may open at once."""
    try:
        import resource
    except ImportError:  # Windows
        return float('inf')
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # up to which mmengine raises it
    return float('inf') if limit == resource.RLIM_INFINITY else limit


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """The most bytes that a call has allocated on a device at one time, beyond what was allocated before it."""
    import torch

    if device.type == 'cuda':
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='Profiler clears events')  # there is one cycle only
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            step()
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == '[memory]']
    # torch < 2.4 gives microseconds; the sort keeps the order of what happened in the same one.
    clock = 'start_ns' if changes and hasattr(changes[0], 'start_ns') else 'start_us'
    current = peak = 0
    for event in sorted(changes, key=lambda event: getattr(event, clock)()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


def progress_bar(title: str = '', *, show: bool = True, transfer: bool = False) -> Progress:
    """Make rich's progress bar, which appears when it is entered as a context manager and stderr is a terminal.

    ``title`` stands before the bar, or each task's description where it is empty; a ``transfer`` is counted in bytes.
    """
    from rich import progress
    from rich.console import Console

    bytes_per_second = (progress.DownloadColumn(), progress.TransferSpeedColumn())
    counts = bytes_per_second if transfer else (progress.MofNCompleteColumn(),)
    shown = title.replace('{', '{{').replace('}', '}}') or '{task.description}'
    columns = (progress.TextColumn(shown, markup=False), progress.BarColumn(), *counts)
    console = Console(stderr=True)
    disable = not (show and console.is_terminal)
    return progress.Progress(*columns, progress.TimeRemainingColumn(), console=console, disable=disable)


def importable(module: str) -> bool:
    """Whether a library is installed and not broken by the version of something else."""
    try:
        importlib.import_module(module)
    except Exception:
        return False
    return True
