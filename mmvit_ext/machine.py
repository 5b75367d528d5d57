"""On what something ran, and how much memory it took: what a figure depends on."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = [
    'commit_of',
    'describe_hardware',
    'library_versions',
    'memory_limit',
    'peak_bytes',
]

LIBRARIES = (
    ('mmengine', 'onedl-mmengine'),
    ('mmcv', 'onedl-mmcv'),
    ('mmsegmentation', 'onedl-mmsegmentation'),
    ('mmdet', 'onedl-mmdetection'),
    ('mmpretrain', 'onedl-mmpretrain'),
)
"""Names under which the libraries are distributed."""


def describe_hardware(device: torch.device) -> dict[str, str]:
    """Processor, threads and device.

    Args:
        device: Where something runs.

    Returns:
        A text by name.
    """
    model = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        names = [line.split(':', 1)[1].strip() for line in cpuinfo.read_text().splitlines() if 'model name' in line]
        model = names[0] if names else model
    return {
        'processor': model,
        'threads': str(torch.get_num_threads()),
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu',
    }


def library_versions() -> dict[str, str]:
    """The versions of Python, torch, this package and the libraries that are installed.

    Returns:
        A version by the name of the distribution.
    """
    from mmvit_ext import __version__

    versions = {'mmvit_ext': __version__, 'python': platform.python_version(), 'torch': torch.__version__}
    for names in LIBRARIES:
        for name in names:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
    return versions


def commit_of(root: Path) -> str:
    """The commit that a checkout stands at.

    Args:
        root: The checkout.

    Returns:
        Its hash, with ``, changed`` behind it where tracked files differ from it; ``none`` outside a checkout.
    """
    if not (root / '.git').exists():
        return 'none'
    try:
        commit = _git(root, 'rev-parse', 'HEAD')
        changed = _git(root, 'status', '--porcelain', '--untracked-files=no')
    except (OSError, subprocess.SubprocessError):
        return 'none'
    return f'{commit}, changed' if changed else commit


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(['git', '-C', str(root), *arguments], check=True, capture_output=True, text=True, timeout=30)
    return done.stdout.strip()


def memory_limit(device: torch.device) -> int:
    """The bytes that a device has, of which other processes may use some.

    Args:
        device: A GPU, or the CPU, for which it is the memory of the machine or of the container.
    """
    if device.type == 'cuda':
        return torch.cuda.get_device_properties(device).total_memory
    limits = [int(line.split()[1]) * 1024 for line in _lines('/proc/meminfo') if line.startswith('MemTotal')]
    for path in ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes'):
        limits += [int(line) for line in _lines(path) if line.isdigit()]
    return min(limits, default=2**63)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Highest number of bytes that a call has allocated at one time, beyond what was allocated before it.

    Args:
        step: The call.
        device: Where it allocates.
    """
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
    # torch < 2.4 tells microseconds; the sort keeps the order of what happened in the same one.
    clock = 'start_ns' if changes and hasattr(changes[0], 'start_ns') else 'start_us'
    current = peak = 0
    for event in sorted(changes, key=lambda event: getattr(event, clock)()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak
