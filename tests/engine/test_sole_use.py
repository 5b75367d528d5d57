"""One process at a time uses a folder: the lock, what it survives, and the commands that take it."""

import errno
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmvit_ext import files
from mmvit_ext.errors import UserError
from mmvit_ext.files import LOCK_NAME, sole_use

pytestmark = pytest.mark.skipif(files.fcntl is None, reason='folders are not locked on this system')
FORK = multiprocessing.get_context('fork')
Hold = Callable[..., int]


def hold_for_ever(folder: Path, pipe: object, with_worker: bool) -> None:
    with sole_use(folder, '--out'):
        worker = os.fork() if with_worker else None
        if worker != 0:
            pipe.send((os.getpid(), worker))
        signal.pause()


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Lets another process use a folder; returns its id."""
    started, workers = [], []

    def start(folder: Path, with_worker: bool = False) -> int:
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=hold_for_ever, args=(folder, theirs, with_worker), daemon=True)
        process.start()
        started.append(process)
        assert ours.poll(30)
        pid, worker = ours.recv()
        workers.append(worker)
        return pid

    yield start
    for process in started:
        process.kill()
        process.join()
    for worker in filter(None, workers):
        os.kill(worker, signal.SIGKILL)


def try_to_use(folder: Path) -> str:
    """What another process is told that uses a folder for a moment."""
    receiver, sender = FORK.Pipe()

    def use() -> None:
        try:
            with sole_use(folder, '--work-dir'):
                sender.send('free')
        except UserError as error:
            sender.send(str(error))

    process = FORK.Process(target=use)
    process.start()
    process.join(30)
    return receiver.recv() if receiver.poll() else 'nothing'


def test_the_second_process_is_told_which_one_uses_the_folder(hold: Hold, tmp_path: Path) -> None:
    pid = hold(tmp_path / 'runs')
    told = f'--work-dir .*runs is in use by process {pid} on .*choose another folder'
    with pytest.raises(UserError, match=told), sole_use(tmp_path / 'runs', '--work-dir'):
        pass
    assert (tmp_path / 'runs' / LOCK_NAME).exists()


def test_the_lock_ends_with_its_process_although_a_worker_of_it_lives_on(hold: Hold, tmp_path: Path) -> None:
    os.kill(hold(tmp_path, with_worker=True), signal.SIGKILL)
    for process in multiprocessing.active_children():
        process.join(10)
    assert (tmp_path / LOCK_NAME).read_text()
    with sole_use(tmp_path, '--out'):
        assert f'process {os.getpid()} on' in (tmp_path / LOCK_NAME).read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_process_keeps_its_folder(hold: Hold, tmp_path: Path) -> None:
    pid = hold(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    assert f'in use by process {pid}' in try_to_use(tmp_path)
    os.kill(pid, signal.SIGCONT)
    assert f'in use by process {pid}' in try_to_use(tmp_path)


def test_a_copied_folder_is_free(tmp_path: Path) -> None:
    with sole_use(tmp_path / 'runs', '--out'):
        subprocess.run(['cp', '-r', tmp_path / 'runs', tmp_path / 'copy'], check=True)
        assert (tmp_path / 'copy' / LOCK_NAME).exists()
        assert try_to_use(tmp_path / 'copy') == 'free'
        assert 'in use' in try_to_use(tmp_path / 'runs')


def test_a_process_may_use_its_folder_again_within(tmp_path: Path) -> None:
    with sole_use(tmp_path, '--out'):
        with sole_use(tmp_path / '..' / tmp_path.name, '--work-dir'):
            pass
        assert 'in use' in try_to_use(tmp_path)
    assert try_to_use(tmp_path) == 'free'


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_used(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lockf(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, 'lockf', lockf)
    with sole_use(tmp_path, '--out'):
        pass
    assert capsys.readouterr().err.startswith(f'{tmp_path}: its file system has no locks ({os.strerror(number)})')


@pytest.mark.parametrize('kind', ['link', 'folder'])
def test_what_is_no_lock_file_of_ours_is_left_alone(kind: str, tmp_path: Path) -> None:
    other = tmp_path / 'other.txt'
    other.write_text('mine')
    lock = tmp_path / 'runs' / LOCK_NAME
    lock.parent.mkdir()
    if kind == 'link':
        lock.symlink_to(other)
    else:
        lock.mkdir()
    with pytest.raises(UserError, match=rf'--out .*runs cannot be used: .*{LOCK_NAME}'), sole_use(lock.parent, '--out'):
        pass
    assert other.read_text() == 'mine'
    assert lock.exists()


def test_a_name_from_the_file_is_printed_without_control_characters(hold: Hold, tmp_path: Path) -> None:
    hold(tmp_path)
    (tmp_path / LOCK_NAME).write_bytes(b'\x1b[2Jprocess 7\r\n\xff')
    assert 'in use by [2Jprocess 7' in try_to_use(tmp_path)


def test_the_lock_file_of_a_successor_stays(tmp_path: Path) -> None:
    with sole_use(tmp_path, '--out'):
        (tmp_path / LOCK_NAME).unlink()
        (tmp_path / LOCK_NAME).write_text('of another process')
    assert (tmp_path / LOCK_NAME).read_text() == 'of another process'
