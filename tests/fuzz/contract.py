"""Running a command on bad input, and what the user may expect of it whatever the input is."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

COMPUTING_LIMIT, TIME_LIMIT = 60, 300
"""Seconds of the processor's time that a case may take, and of the clock's where it waits for something."""
MEMORY_LIMIT = 2 * 2**30
"""Bytes that a case may need at its worst moment beyond what the process has had before."""


class Hang(BaseException):
    """The time is over; not an ``Exception``, so that no command takes it for a failure of its input."""


@dataclass(frozen=True)
class Result:
    """What a command did.

    Args:
        code: its exit code.
        output: everything that it wrote.
        seconds: how long it took.
        memory: bytes at its worst moment beyond those before, 0 where the system does not tell.
    """

    code: int
    output: str
    seconds: float
    memory: int


@contextmanager
def time_limit() -> Iterator[None]:
    """Raises :class:`Hang` in the block when it takes too long."""

    def end(number: int, _: object) -> None:
        raise Hang(f'still {"computing" if number == signal.SIGPROF else "waiting"}')

    before = {number: signal.signal(number, end) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, COMPUTING_LIMIT)
    signal.alarm(TIME_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _status(name: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    path = Path('/proc/self/status')
    match = re.search(rf'^{name}:\s+(\d+) kB', path.read_text(), re.MULTILINE) if path.exists() else None
    return int(match[1]) * 1024 if match else 0


def _forget_the_peak() -> None:
    with suppress(OSError):  # then a peak of before is counted, too, which only makes the limit stricter
        Path('/proc/self/clear_refs').write_text('5')


def run(command: Callable[[], tuple[int, str]]) -> Result:
    """Run a command under the time limit and watch its memory."""
    _forget_the_peak()
    before, start = _status('VmRSS'), time.monotonic()
    with time_limit():
        code, output = command()
    return Result(code, output, time.monotonic() - start, _status('VmHWM') - before)


def breaches(result: Result, names: tuple[str, ...]) -> list[str]:
    """What of the contract a run has not kept.

    Args:
        result: of the run.
        names: one of which a complaint has to contain: the file, or the key of the config.
    """
    found = []
    if result.code not in (0, 2):
        found.append(f'exit code {result.code}')
    if 'Traceback' in result.output:
        found.append('a traceback')
    errors = [line for line in result.output.splitlines() if re.match(r'\w+: error: ', line)]
    if result.code == 2 and len(errors) != 1:
        found.append(f'{len(errors)} complaints')
    if result.code == 2 and not any(name in result.output[result.output.find(': error: ') :] for name in names):
        found.append(f'a complaint that names none of {names}')
    if result.memory > MEMORY_LIMIT:
        found.append(f'{result.memory / 2**20:.0f} MiB')
    return found
