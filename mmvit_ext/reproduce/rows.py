"""What every run of a row needs: its folder, its config with the data at hand, and the package's own commands."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmvit_ext.checks.layouts import draw_mini_data
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.errors.user_error import UserError

from .ledger import Ledger, Row

__all__ = ['load_row_config', 'process_count', 'run_tool', 'work_folder']


def work_folder(row: Row, work_dir: str | None) -> Path:
    """The folder of a row's logs, checkpoints and unfiled records: ``work_dir``, or the default of training."""
    return Path(work_dir or Path('work_dirs') / row.name)


def load_row_config(
    ledger: Ledger, row: Row, data_root: str | None, cfg_options: Mapping[str, Any] | None
) -> tuple[Config, dict[str, Any]]:
    """The config of a row for the data at hand, and all overrides in it; missing mini data are drawn."""
    options = {**({'data_root': data_root} if data_root else {}), **(cfg_options or {})}
    cfg = load_config(ledger.root / str(row.config), options)
    if row.mini and draw_mini_data(cfg.data_root):
        print(f'The mini dataset was not there and has been drawn; it contains {cfg.data_root}.')
    prepare_scope(cfg)
    return cfg, options


def process_count(gpus: int | None) -> int:
    """The number of processes: one per wanted GPU, by default one per GPU of this machine, and 1 without a GPU."""
    available = torch.cuda.device_count()
    if gpus is not None and not 1 <= gpus <= max(1, available):
        raise UserError(f'--gpus {gpus}: this machine has {available} GPUs, expected 1 to {max(1, available)}')
    return gpus or max(1, available)


def run_tool(
    ledger: Ledger,
    name: str,
    files: Sequence[str],
    processes: int,
    arguments: Sequence[str],
    options: Mapping[str, Any],
) -> int:
    """Run ``tools/NAME.py``, or ``tools/dist_NAME.sh`` for several processes.

    Args:
        ledger: The ledger, whose root has the tools.
        name: ``train`` or ``test``.
        files: The config, and the checkpoint of a test.
        processes: One per GPU.
        arguments: Further arguments.
        options: Overrides of the config by dotted key.

    Returns:
        The exit code; the command has explained a failure itself.
    """
    tools = ledger.root / 'tools'
    if processes == 1:
        command = [sys.executable, str(tools / f'{name}.py'), *files]
    else:
        command = ['bash', str(tools / f'dist_{name}.sh'), *files, str(processes)]
    command += arguments
    if options:
        lists = {
            key: f'[{",".join(map(str, value))}]' for key, value in options.items() if isinstance(value, list | tuple)
        }
        command += ['--cfg-options', *(f'{key}={value}' for key, value in {**options, **lists}.items())]
    print(f'$ {shlex.join(command)}', flush=True)
    with subprocess.Popen(command, env={**os.environ, 'PYTHON': sys.executable}) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the command has received it as well, and may have something to save
