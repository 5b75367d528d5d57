"""Programs in processes of their own, forked from one that has imported PyTorch, mmengine and mmcv alone."""

import functools
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVER = """
import os, runpy, sys
import mmcv, mmengine.registry, torch

while folder := sys.stdin.readline().strip():
    child = os.fork()
    if not child:
        for number, name in enumerate(('output', 'errors'), 1):
            os.dup2(os.open(f'{folder}/{name}', os.O_WRONLY | os.O_CREAT), number)
        runpy.run_path(f'{folder}/program.py', run_name='__main__')
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Started with the first program; ends with this process, whose end closes its input."""
    command = [sys.executable, '-c', SERVER]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program; ``returncode``, ``stdout`` and ``stderr`` are as of ``python -c``."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / 'program.py').write_text(program)
        print(folder, file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(
            program, code, (folder / 'output').read_text(), (folder / 'errors').read_text()
        )


def free_port() -> int:
    """A port of this machine that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])
