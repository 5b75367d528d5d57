"""How processes end: exit codes, and no finalisation that a thread of the communication library can disturb."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmvit_ext.cli import command
from mmvit_ext.cli.command import end_process, tell_launcher

ROOT = Path(__file__).resolve().parents[2]


def test_a_process_of_a_distributed_run_ends_without_finalisation_but_with_its_exit_functions() -> None:
    script = '\n'.join(
        [
            'import atexit, os',
            'from mmvit_ext.cli.command import end_process',
            'class Late:',
            '    def __del__(self, write=os.write): write(2, b"finalised")',
            'late = Late()',
            'atexit.register(print, "exit function")',
            'end_process(lambda: 7)',
        ]
    )
    outputs = {}
    for world_size in ('1', '2'):
        env = {**os.environ, 'PYTHONPATH': str(ROOT), 'WORLD_SIZE': world_size}
        done = subprocess.run([sys.executable, '-c', script], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 7
        assert 'exit function' in done.stdout
        outputs[world_size] = done.stderr
    assert 'finalised' in outputs['1']
    assert 'finalised' not in outputs['2']


@pytest.mark.parametrize(('end', 'code'), [(None, 0), (75, 75), ('a message', 1)])
def test_the_code_of_an_exit_in_the_command_is_kept(end: object, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    monkeypatch.setattr(command, 'active_children', list)  # those of other tests stay

    def main() -> int:
        raise SystemExit(end)

    with pytest.raises(SystemExit) as raised:
        end_process(main)
    assert raised.value.code == code


@pytest.mark.parametrize(
    ('code', 'restarts', 'word', 'ended'),
    [(2, '3', '2', True), (2, '0', '2', False), (75, '3', '75', False), (1, '3', None, False), (0, '3', None, False)],
)
def test_only_bad_input_ends_the_launcher(
    code: int, restarts: str, word: str | None, ended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(command.os, 'kill', lambda *arguments: killed.append(arguments))
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', restarts)
    monkeypatch.setenv('MMVIT_EXT_FINAL_CODE', str(tmp_path / 'code'))
    tell_launcher(code)
    assert ((tmp_path / 'code').read_text() if (tmp_path / 'code').exists() else None) == word
    tell_launcher(code)  # of a second process, which finds the same
    assert killed == ([(os.getppid(), signal.SIGTERM)] if ended else [])
    monkeypatch.delenv('MMVIT_EXT_FINAL_CODE')
    tell_launcher(2)  # without our launcher nobody is ended
    assert len(killed) == ended
