"""Two processes that are killed, told to end or given bad input, through the launchers, as a user starts them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
Config = Callable[..., str]
HOOKS = (
    "default_hooks['checkpoint'].update(type='mmvit_ext.AtomicCheckpointHook', interval=5, save_best=None)",
    "default_hooks['exact_resume'] = dict(type='mmvit_ext.ExactResumeHook')",
    "default_hooks['preemption'] = dict(type='mmvit_ext.PreemptionHook', interval=1)",
    "train_cfg['val_interval'] = 100000",
)


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(('TORCHELASTIC', 'MMVIT_EXT'))}
    return {
        **clean,
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': str(ROOT),
        'PYTHON': sys.executable,
        'CUDA_VISIBLE_DEVICES': '',
        'PORT': str(free_port()),
        **more,
    }


@contextmanager
def launched(tmp_path: Path, *arguments: str, **env: str) -> Iterator[tuple[Any, Path]]:
    """A run of two processes in the background, and the file with its output."""
    log = tmp_path / 'output.txt'
    command = ['bash', str(ROOT / 'tools' / 'dist_train.sh'), *arguments]
    with log.open('w') as output:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment(**env),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process, log
        finally:
            if process.poll() is None:
                process.kill()


def wait_for(log: Path, text: str, process: Any) -> None:
    deadline = time.monotonic() + 300
    while text not in log.read_text() and time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.05)


def workers_of(process: Any) -> list[int]:
    """The training processes, by rank."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            status = (folder / 'stat').read_text()
            environ = (folder / 'environ').read_bytes().decode(errors='replace').split('\0')
        except OSError:
            continue
        if int(status.rpartition(')')[2].split()[1]) == process.pid:
            found[next((entry for entry in environ if entry.startswith('RANK=')), '')] = int(folder.name)
    return [found[name] for name in sorted(found) if name]


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc').is_dir(), reason='looks processes up in /proc')
def test_a_killed_worker_is_started_again_and_the_run_is_the_same(make_config: Config, tmp_path: Path) -> None:
    config = make_config(*HOOKS, "train_cfg['max_iters'] = 30")
    with launched(tmp_path, config, '2', '--work-dir', 'runs', '--seed', '3') as (process, log):
        wait_for(log, 'Iter(train) [12/30]', process)
        os.kill(workers_of(process)[1], signal.SIGKILL)
        assert process.wait(timeout=400) == 0, log.read_text()[-3000:]
    text = log.read_text()
    assert 'started again by the launcher (1)' in text
    resumed = int(re.findall(r'resumed epoch: 0, iter: (\d+)', text)[0])
    assert resumed >= 10
    with launched(tmp_path, config, '2', '--work-dir', 'whole', '--seed', '3') as (process, log):
        assert process.wait(timeout=400) == 0, log.read_text()[-3000:]
    first, second = (torch.load(tmp_path / name / 'iter_30.pth', weights_only=False) for name in ('runs', 'whole'))
    assert len(first['exact_resume']['generators']) == 2
    for name, weight in first['state_dict'].items():
        assert torch.equal(weight, second['state_dict'][name]), name


@pytest.mark.slow
def test_a_launcher_that_is_told_to_end_saves_and_says_so(make_config: Config, tmp_path: Path) -> None:
    config = make_config(*HOOKS, "train_cfg['max_iters'] = 100000", "default_hooks['checkpoint']['interval'] = 100000")
    with launched(tmp_path, config, '2', '--work-dir', 'runs') as (process, log):
        wait_for(log, ' 3/100000]', process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=100) == 75, log.read_text()[-3000:]
    content = torch.load(tmp_path / 'runs' / 'preempted.pth', weights_only=False)
    assert len(content['exact_resume']['generators']) == 2
    saved = f'iteration {content["meta"]["iter"]} is saved in {tmp_path / "runs" / "preempted.pth"}'
    assert saved in log.read_text()


@pytest.mark.slow
def test_bad_input_of_one_process_ends_both_and_is_not_tried_again(make_config: Config, tmp_path: Path) -> None:
    config = make_config(*HOOKS)
    for path in (tmp_path / 'data' / 'labels').iterdir():
        path.write_text('no label map')
    with launched(tmp_path, config, '2', '--work-dir', 'runs') as (process, log):
        assert process.wait(timeout=300) == 2, log.read_text()[-3000:]
    text = log.read_text()
    assert 'started again' not in text
    assert 'Traceback' not in text
    sentence = r'train \[rank \d\]: error: the label map .*image_\d\.png cannot be decoded'
    assert 1 <= len(re.findall(sentence, text)) <= 2


def test_the_launchers_ask_torchrun_for_restarts_on_one_machine_only(tmp_path: Path) -> None:
    interpreter = tmp_path / 'interpreter'
    interpreter.write_text('#!/usr/bin/env bash\nprintf "<%s>" "$@"\n')
    interpreter.chmod(0o755)
    command = ['bash', str(ROOT / 'tools' / 'dist_train.sh'), 'config.py', '2']
    for settings, expected in (({}, 3), ({'NNODES': '2'}, 0), ({'NNODES': '2', 'MAX_RESTARTS': '5'}, 5)):
        env = {'PATH': os.environ['PATH'], 'PYTHON': str(interpreter), **settings}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert f'<--max-restarts={expected}>' in done.stdout
        # Restarted processes must not find the addresses of those that died.
        assert ('<--rdzv-backend=c10d>' in done.stdout) == (expected > 0)
