"""What the machine does to a run: full disks, few open files, jumping clocks, files that change, workers that end."""

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from mmvit_ext.config import adjust
from mmvit_ext.datasets.transforms import LoadImageFromFile
from mmvit_ext.engine.hooks import worker_timeout
from mmvit_ext.files import sole_use
from tests.tools.conftest import write_pair

ROOT = Path(__file__).resolve().parents[2]
Tool = Callable[..., tuple[int, str]]
Config = Callable[..., str]
ATOMIC = "default_hooks['checkpoint'].update(type='mmvit_ext.AtomicCheckpointHook', save_best=None)"
NO_VAL = "train_cfg['val_interval'] = 1000"


def error_line(output: str, name: str = 'train') -> str:
    """The one sentence; nothing else may look like an error."""
    assert 'Traceback' not in output
    (line,) = [line for line in output.splitlines() if f'{name}: error: ' in line]
    return line


# Folders in use


def keep(folder: Path, pipe: Any) -> None:
    with sole_use(folder, '--out'):
        (folder / '.iter_7.abc.partial').write_text('being written')
        pipe.send(os.getpid())
        signal.pause()


@pytest.fixture
def used(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder that another process writes to, and its id."""
    fork = multiprocessing.get_context('fork')
    ours, theirs = fork.Pipe()
    process = fork.Process(target=keep, args=(tmp_path / 'used', theirs), daemon=True)
    process.start()
    assert ours.poll(30)
    yield tmp_path / 'used', ours.recv()
    process.kill()
    process.join()


def test_no_command_writes_into_a_folder_in_use(
    trained: Path, make_config: Config, run_tool: Tool, used: tuple[Path, int]
) -> None:
    folder, pid = used
    config, weights = trained / 'config.py', trained / 'work_dir' / 'iter_2.pth'
    before = sorted(folder.iterdir())
    for option, command in {
        '--work-dir': ('train', make_config(ATOMIC), '--work-dir', folder),
        '--out': ('predict', config, weights, trained / 'data' / 'images', '--out', folder),
        '--show-dir': ('test', config, weights, '--work-dir', folder.parent / 'logs', '--show-dir', folder, '--force'),
    }.items():
        code, output = run_tool(*command)
        assert code == 2
        assert f'{option} {folder} is in use by process {pid} on ' in error_line(output, command[0])
        assert sorted(folder.iterdir()) == before
    assert (folder / '.iter_7.abc.partial').read_text() == 'being written'


def test_a_checkpoint_is_tested_while_its_folder_is_in_use(
    trained: Path, run_tool: Tool, used: tuple[Path, int]
) -> None:
    weights = trained / 'work_dir' / 'iter_2.pth'
    assert run_tool('test', trained / 'config.py', weights, '--work-dir', used[0])[0] == 0


# Workers


@pytest.fixture
def in_a_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Lets the workers of a data loader send themselves a signal at their third image."""

    def choose(number: int) -> None:
        load, seen = LoadImageFromFile.transform, []

        def transform(self: LoadImageFromFile, results: dict) -> dict | None:
            seen.append(results)
            if get_worker_info() is not None and len(seen) > 2:
                if number == signal.SIGABRT:  # pytest's own handler has been seen to send it again without end
                    signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return load(self, results)

        monkeypatch.setattr(LoadImageFromFile, 'transform', transform)

    yield choose
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    signal.signal(signal.SIGCHLD, handler)


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGABRT])
def test_a_worker_that_dies_ends_the_run_with_a_sentence_and_a_code_that_is_tried_again(
    number: int, make_config: Config, run_tool: Tool, in_a_worker: Callable[[int], None]
) -> None:
    in_a_worker(number)
    code, output = run_tool('train', make_config(NO_VAL, "train_dataloader['num_workers'] = 1"))
    assert code == 1
    assert 'a data loader worker was killed' in error_line(output)


@pytest.mark.parametrize('clock', ["PyTorch's", 'ours'])
def test_a_worker_that_is_stopped_ends_the_run_in_time(
    clock: str,
    make_config: Config,
    run_tool: Tool,
    in_a_worker: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_a_worker(signal.SIGSTOP)
    timeout = 1
    if clock == 'ours':  # as where a worker is stopped after it has announced a batch, which PyTorch's does not end
        timeout = 500
        monkeypatch.setattr(worker_timeout, 'GRACE', 1 - timeout)
    config = make_config(NO_VAL, f'train_dataloader.update(num_workers=1, timeout={timeout})')
    code, output = run_tool('train', config)
    assert code == 1
    assert f'the data loader workers gave no batch for {timeout} seconds' in error_line(output)


def test_every_loader_with_workers_has_a_timeout_and_the_files_it_needs(
    make_config: Config, run_tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmvit_ext.engine.runner import load_run

    config = make_config("train_dataloader['num_workers'] = 2", 'val_dataloader = dict(val_dataloader, timeout=3)')
    cfg = load_run(config, {'val_dataloader.num_workers': 1}, 'training', (), None, 'none')
    assert (cfg.train_dataloader.timeout, cfg.val_dataloader.timeout) == (adjust.WORKER_TIMEOUT, 3)
    assert 'timeout' not in cfg.test_dataloader
    monkeypatch.setattr(adjust, 'open_files_limit', lambda: 32)
    code, output = run_tool('train', config)
    assert code == 2
    assert 'num_workers=2, and a process may open 32 files only' in error_line(output)
    assert run_tool('train', make_config())[0] == 0


def run_alone(tmp_path: Path, config: str, *arguments: str, first: str) -> subprocess.CompletedProcess:
    """The training command in a process of its own, after a line of the shell; ``$@`` is the command."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), config, '--work-dir', 'alone', *arguments]
    return subprocess.run(
        ['bash', '-c', first, 'bash', *command],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def may(*command: str) -> bool:
    """Whether the tests may do so here."""
    program = shutil.which(command[0])
    return (
        program is not None
        and subprocess.run([program, *command[1:]], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='shared memory is a file system on Linux only')
def test_full_shared_memory_is_told(make_config: Config, tmp_path: Path) -> None:
    if not may('unshare', '-m', 'mount', '-t', 'tmpfs', '-o', 'size=64k', 'none', '/dev/shm'):
        pytest.skip('mounting needs root')
    config = make_config(NO_VAL, 'train_dataloader.update(num_workers=2, batch_size=12, timeout=30)')
    mount = 'mount -t tmpfs -o size=64k none /dev/shm && exec "$@"'
    done = run_alone(tmp_path, config, first=f'exec unshare -m bash -c \'{mount}\' bash "$@"')
    assert done.returncode in (1, 2), done.stderr[-3000:]
    assert '/dev/shm' in error_line(done.stderr)


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A folder that holds that many kilobytes."""
    folder = tmp_path / 'small'
    folder.mkdir()

    def mount(kilobytes: int) -> Path:
        if not may('mount', '-t', 'tmpfs', '-o', f'size={kilobytes}k', 'none', str(folder)):
            pytest.skip('mounting needs root')
        return folder

    yield mount
    may('umount', '-l', str(folder))


def test_a_full_disk_ends_the_run_with_the_file_and_leaves_the_last_whole_checkpoint(
    make_config: Config, run_tool: Tool, small_disk: Callable[[int], Path]
) -> None:
    folder = small_disk(700)
    code, output = run_tool('train', make_config(ATOMIC, NO_VAL, "train_cfg['max_iters'] = 30"), '--work-dir', folder)
    assert code == 2
    assert f'the disk is full ({folder}' in error_line(output)
    last = Path((folder / 'last_checkpoint').read_text())
    assert 'optimizer' in torch.load(last, weights_only=False)
    assert not list(folder.glob('.*partial'))


def test_a_log_on_a_full_disk_ends_the_run_with_its_name(
    make_config: Config, run_tool: Tool, small_disk: Callable[[int], Path]
) -> None:
    folder = small_disk(40)
    hook = "default_hooks['checkpoint'].update(interval=100000, save_last=False, save_best=None)"
    config = make_config(hook, NO_VAL, "train_cfg['max_iters'] = 3000")
    code, output = run_tool('train', config, '--work-dir', folder)
    assert code == 2
    assert f'the disk is full ({folder}/' in error_line(output)
    assert 'Logging error' not in output


def test_a_full_disk_is_told_with_the_file_that_a_library_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmvit_ext.errors.failures import describe_failure

    def dump(file_path: str) -> None:
        raise OSError(errno.EDQUOT, 'Disk quota exceeded')

    with pytest.raises(OSError, match='quota') as caught:
        dump('logs/scalars.json')
    assert 'the disk is full (logs/scalars.json)' in str(describe_failure(caught.value))


# Clocks


def test_a_clock_that_goes_backwards_changes_nothing_but_the_times_in_the_log(
    make_config: Config, run_tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = time.time, iter(range(10**9))
    monkeypatch.setattr(time, 'time', lambda: real() - 3600 * next(calls))
    config = make_config(ATOMIC, NO_VAL, "train_cfg['max_iters'] = 3")
    assert run_tool('train', config, '--work-dir', 'runs')[0] == 0
    now = real()
    for age, name in enumerate(('iter_1.pth', 'iter_2.pth', 'iter_3.pth')):  # the newest file is the oldest checkpoint
        os.utime(tmp_path / 'runs' / name, (now - 1000 * age, now - 1000 * age))
    code, output = run_tool('train', config, '--work-dir', 'runs', '--resume', '--cfg-options', 'train_cfg.max_iters=4')
    assert code == 0
    assert 'resumed epoch: 0, iter: 3' in output


def test_a_run_that_is_stopped_goes_on(make_config: Config, run_tool: Tool, tmp_path: Path) -> None:
    watcher = 'import os, signal, sys, time; time.sleep(1); os.kill(int(sys.argv[1]), signal.SIGCONT)'
    load, seen = LoadImageFromFile.transform, []

    def transform(self: LoadImageFromFile, results: dict) -> dict | None:
        if not seen:
            seen.append(subprocess.Popen([sys.executable, '-c', watcher, str(os.getpid())]))
            os.kill(os.getpid(), signal.SIGSTOP)
        return load(self, results)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoadImageFromFile, 'transform', transform)
        assert run_tool('train', make_config(ATOMIC, NO_VAL), '--work-dir', 'runs')[0] == 0
    assert seen[0].wait(10) == 0
    assert (tmp_path / 'runs' / 'iter_2.pth').is_file()


# Images


@pytest.mark.parametrize('change', ['removed', 'cut off', 'emptied', 'another size'])
def test_an_image_that_changes_during_training_is_named(
    change: str, make_config: Config, run_tool: Tool, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, seen = LoadImageFromFile.transform, []

    def transform(self: LoadImageFromFile, results: dict) -> dict | None:
        seen.append(results)
        if len(seen) == 3:
            for path in (data_root / 'images').iterdir():
                if change == 'removed':
                    path.unlink()
                elif change == 'another size':
                    Image.fromarray(np.zeros((64, 33, 3), np.uint8)).save(path)
                else:
                    path.write_bytes(path.read_bytes()[: 100 if change == 'cut off' else 0])
        return load(self, results)

    monkeypatch.setattr(LoadImageFromFile, 'transform', transform)
    code, output = run_tool('train', make_config(NO_VAL, "train_cfg['max_iters'] = 9"))
    assert code == 2
    assert f'{data_root}/images/image_' in error_line(output)


@pytest.mark.parametrize('size', [(1, 20000), (20000, 1)])
def test_an_image_of_one_line_is_used_or_named(
    size: tuple[int, int], trained: Path, make_config: Config, run_tool: Tool, data_root: Path, tmp_path: Path
) -> None:
    shutil.rmtree(data_root)
    write_pair(data_root, 'line', 1, size)
    weights, image = trained / 'work_dir' / 'iter_2.pth', data_root / 'images' / 'line.png'
    assert run_tool('train', make_config('val_cfg = val_dataloader = val_evaluator = None'))[0] == 0
    code, output = run_tool('train', make_config())  # whose validation makes the image smaller, to less than a pixel
    assert code == 2
    assert str(image) in error_line(output)
    code, output = run_tool('predict', trained / 'config.py', weights, image, '--out', 'out', '--save-mask')
    assert code in (0, 2)
    assert 'Traceback' not in output
    if code == 0:
        assert Image.open(tmp_path / 'out' / 'labels' / 'line.png').size == size[::-1]
    else:
        assert str(image) in output
