"""Two machines, each a network namespace, that train together and lose their connection."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmvit_ext.inference.export import TORCH

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 12  # after which a process gives up waiting for another one


def ip(*words: str, namespace: str | None = None) -> bool:
    command = ['ip', *(['-n', namespace] if namespace else []), *words]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Names of two namespaces with a cable between them."""
    names = f'mmvit{os.getpid()}a', f'mmvit{os.getpid()}b'
    if shutil.which('ip') is None or not ip('netns', 'add', names[0]):
        pytest.skip('network namespaces need root and iproute2')
    try:
        assert ip('netns', 'add', names[1])
        if not ip(
            'link', 'add', 'cable', 'type', 'veth', 'peer', 'name', 'cable', 'netns', names[1], namespace=names[0]
        ):
            pytest.skip('the kernel has no virtual cables (veth)')
        for number, name in enumerate(names, 1):
            assert ip('addr', 'add', f'10.77.0.{number}/24', 'dev', 'cable', namespace=name)
            assert ip('link', 'set', 'lo', 'up', namespace=name)
            assert ip('link', 'set', 'cable', 'up', namespace=name)
        yield names
    finally:
        for name in names:
            ip('netns', 'del', name)


def start(folder: Path, names: tuple[str, str], config: str, *arguments: str) -> list[subprocess.Popen]:
    """Start the launcher on both machines; each writes into output0.txt or output1.txt."""
    env = {name: value for name, value in os.environ.items() if not name.startswith('TORCHELASTIC')}
    env |= {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), 'PYTHON': sys.executable, 'CUDA_VISIBLE_DEVICES': ''}
    env |= {'NNODES': '2', 'MASTER_ADDR': '10.77.0.1', 'PORT': '29511', 'GLOO_SOCKET_IFNAME': 'cable'}
    processes = []
    for rank, name in enumerate(names):
        command = ['ip', 'netns', 'exec', name, 'bash', str(ROOT / 'tools' / 'dist_train.sh'), config, '1']
        with (folder / f'output{rank}.txt').open('w') as output:
            processes.append(
                subprocess.Popen(
                    [*command, '--work-dir', 'runs', *arguments],
                    cwd=folder,
                    env={**env, 'NODE_RANK': str(rank)},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    return processes


@pytest.mark.slow
def test_a_cut_connection_ends_both_machines_with_a_sentence_and_the_run_is_resumed(
    machines: tuple[str, str], make_config: Callable[..., str], tmp_path: Path
) -> None:
    config = make_config(
        "default_hooks['checkpoint'].update(type='mmvit_ext.AtomicCheckpointHook', save_best=None)",
        'train_cfg.update(max_iters=100000, val_interval=100000)',
        f'env_cfg = dict(dist_cfg=dict(timeout={SECONDS}))',
    )
    processes = start(tmp_path, machines, config)
    try:
        deadline = time.monotonic() + 200
        while not (tmp_path / 'runs' / 'iter_2.pth').exists() and time.monotonic() < deadline:
            assert [process.poll() for process in processes] == [None, None], (tmp_path / 'output0.txt').read_text()
            time.sleep(0.1)
        assert ip('link', 'set', 'cable', 'down', namespace=machines[0])
        cut = time.monotonic()
        assert [process.wait(timeout=200) for process in processes] == [1, 1]
        assert time.monotonic() - cut < 5 * SECONDS
        for rank in range(2):
            text = (tmp_path / f'output{rank}.txt').read_text()
            assert f'train [rank {rank}]: error: the connection to another process of this run is lost' in text
            assert 'Traceback' not in text
        assert ip('link', 'set', 'cable', 'up', namespace=machines[0])
        last = int((tmp_path / 'runs' / 'last_checkpoint').read_text().rpartition('_')[2].removesuffix('.pth'))
        more = ('--resume', '--cfg-options', f'train_cfg.max_iters={last + 2}')
        processes = start(tmp_path, machines, config, *more)
        assert [process.wait(timeout=200) for process in processes] == [0, 0], (tmp_path / 'output0.txt').read_text()
    finally:
        for process in processes:
            process.kill()
    assert f'resumed epoch: 0, iter: {last}' in (tmp_path / 'output0.txt').read_text()
    assert (tmp_path / 'runs' / f'iter_{last + 2}.pth').is_file()


@pytest.mark.skipif(TORCH < (2, 5), reason='older torchrun waits for five minutes, whatever it is told')
def test_a_machine_that_is_missing_is_told(tmp_path: Path) -> None:
    env = {**os.environ, 'PYTHON': sys.executable, 'NNODES': '2', 'PET_RDZV_CONF': 'timeout=1'}
    env['PORT'] = str(20000 + (os.getpid() * 7 + 5) % 20000)
    command = ['bash', str(ROOT / 'tools' / 'dist_train.sh'), 'config.py', '1']
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1
    assert 'torchrun: error: the machines of this run have not met' in done.stderr
    assert 'Traceback' not in done.stderr
