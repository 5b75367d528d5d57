"""What only a process of its own can show: exit codes, an interrupt, two processes that train together."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
Config = Callable[..., str]


def environment() -> dict[str, str]:
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), 'PYTHON': sys.executable}


def test_an_error_is_one_line_on_stderr_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), 'absent.py']
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith('train: error: there is no config file absent.py')
    assert 'Traceback' not in done.stderr


@pytest.mark.slow
def test_an_interrupt_ends_training_with_130_and_no_traceback(make_config: Config, tmp_path: Path) -> None:
    config = make_config(
        'train_cfg["max_iters"] = 100000',
        'train_cfg["val_interval"] = 100000',
        'train_dataloader["num_workers"] = 1',
        'default_hooks["checkpoint"]["interval"] = 100000',
    )
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), config, '--work-dir', 'runs']
    with (tmp_path / 'output.txt').open('w+') as output:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 120
            while 'Iter(train) [' not in (tmp_path / 'output.txt').read_text() and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.2)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it, too
            assert process.wait(timeout=60) == 130
        finally:
            if process.poll() is None:
                process.kill()
    text = (tmp_path / 'output.txt').read_text()
    assert 'train: interrupted' in text
    # A worker that was handing a tensor over may complain of the connection that was lost, in a thread of Python's own.
    assert not [block for block in text.split('Traceback')[1:] if 'multiprocessing/resource_sharer.py' not in block]


@pytest.mark.slow
def test_two_processes_train_together_and_one_goes_on(
    make_config: Config, tmp_path: Path, run_tool: Callable[..., tuple[int, str]]
) -> None:
    config = make_config(
        "default_hooks['checkpoint'].update(type='mmvit_ext.AtomicCheckpointHook')",
        "default_hooks['exact_resume'] = dict(type='mmvit_ext.ExactResumeHook')",
    )
    command = ['bash', str(ROOT / 'tools' / 'dist_train.sh'), config, '2', '--work-dir', 'runs', '--amp']
    env = {**environment(), 'PORT': str(free_port()), 'CUDA_VISIBLE_DEVICES': ''}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    output = done.stdout + done.stderr
    assert 'total batch size 4 = 2 processes x 2 images x 1 accumulated' in output
    assert (tmp_path / 'runs' / 'iter_2.pth').is_file()
    options = ('train_dataloader.batch_size=3', 'train_cfg.max_iters=4')
    code, output = run_tool('train', config, '--work-dir', 'runs', '--resume', '--cfg-options', *options)
    assert code == 0
    assert 'resumed epoch: 0, iter: 2' in output
    assert 'the run continues, but not as it would have without the interruption' in output
    assert (tmp_path / 'runs' / 'iter_4.pth').is_file()


def write_command(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f'#!/usr/bin/env bash\n{body}\n')
    (folder / name).chmod(0o755)


def test_slurm_starts_one_torchrun_per_machine_and_hands_arguments_on(tmp_path: Path) -> None:
    write_command(tmp_path, 'srun', 'echo "srun $*"; while [[ $1 == --* ]]; do shift; done; exec "$@"')
    write_command(tmp_path, 'scontrol', 'echo node7; echo node8')
    write_command(tmp_path, 'interpreter', 'printf "<%s>" "$@"')
    env = {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_NODEID': '1', 'SLURM_JOB_NODELIST': 'node[7-8]'}
    env |= {'GPUS': '16', 'PYTHON': str(tmp_path / 'interpreter')}
    command = ['bash', str(ROOT / 'tools' / 'slurm_train.sh'), 'part', 'job', 'con fig.py', '--cfg-options', 'a="b c"']
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert '--nodes=2 --ntasks=2 --ntasks-per-node=1 --gres=gpu:8' in done.stdout
    assert '<--nnodes=2><--node_rank=1><--nproc_per_node=8><--master_addr=node7><--master_port=29500>' in done.stdout
    assert '<con fig.py><--launcher><pytorch><--cfg-options><a="b c">' in done.stdout
    env['GPUS'] = '12'
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'no multiple' in done.stderr


def test_the_launchers_explain_their_arguments() -> None:
    for name in ('dist_train.sh', 'dist_test.sh', 'slurm_train.sh'):
        command = ['bash', str(ROOT / 'tools' / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith('usage:')
