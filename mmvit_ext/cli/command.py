"""Run a command: what it raises becomes one sentence on stderr and an exit code, which its launcher is told."""

import argparse
import atexit
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import active_children
from pathlib import Path
from typing import Any, NoReturn

from mmvit_ext.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_PREEMPTED, UserError, printable, say

__all__ = ['Parser', 'end_process', 'run_command', 'tell_launcher']

TRACEBACK_VARIABLE = 'MMVIT_EXT_TRACEBACK'
FINAL_CODE_VARIABLE = 'MMVIT_EXT_FINAL_CODE'  # set by tools/torchrun.py


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, without its control characters, and takes no cut names of options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{'allow_abbrev': False, **kwargs})

    def error(self, message: str) -> NoReturn:
        help_line = f'`{self.prog} --help` says what is taken'
        self.exit(EXIT_BAD_INPUT, f'{self.prog}: error: {printable(message)}; {help_line}\n')


def _is_first_process() -> bool:
    rank = os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', '0'))
    return not rank.isdigit() or int(rank) == 0


def run_command(
    command: Callable[[Sequence[str]], int | None], argv: Sequence[str], *, name: str, after_interrupt: str = ''
) -> int:
    """Run a command and turn what it raises into an exit code.

    That is the command's own code; 2 for bad input; 130 when interrupted, which is told with ``after_interrupt``; 1 for
    a lost process or connection, and for an unknown failure, with its traceback.
    """
    try:
        return int(command(argv) or 0)
    except KeyboardInterrupt:
        if _is_first_process():
            say(f'{name}: interrupted{"; " if after_interrupt else ""}{after_interrupt}', sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        sentence: str | None = str(error)
        code = EXIT_BAD_INPUT
        if not isinstance(error, UserError):
            # here because of mmengine, which `mmvit --help` should not wait for
            from mmvit_ext.errors.failures import describe_failure, describe_outage

            sentence, code = describe_failure(error), 1 if describe_outage(error) else EXIT_BAD_INPUT
        if sentence is None or '--traceback' in argv or os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        if sentence is None:
            return 1
        # A folder can be missing on one machine only, a bad image is met by one process only.
        if _is_first_process() or not getattr(error, 'same_on_every_process', False):
            sys.stdout.flush()
            rank = f' [rank {os.environ["RANK"]}]' if int(os.environ.get('WORLD_SIZE', '1')) > 1 else ''
            say(f'{name}{rank}: error: {sentence}', sys.stderr)
        return code


def tell_launcher(code: int) -> None:
    """Tell ``tools/torchrun.py``, through a file, how the run ends; bad input ends it at once, without restarts."""
    path = os.environ.get(FINAL_CODE_VARIABLE)
    if not path or code not in (EXIT_BAD_INPUT, EXIT_PREEMPTED):
        return
    try:
        Path(path).write_text(str(code))
        if code == EXIT_BAD_INPUT and int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', '0')):
            # one process only: a second signal would interrupt the launcher while it logs the first
            Path(f'{path}.ended').touch(exist_ok=False)
            os.kill(os.getppid(), signal.SIGTERM)
    except FileExistsError:
        return
    except OSError as error:
        say(f'cannot write {path}: {error}', sys.stderr)


def end_process(main: Callable[[], int]) -> NoReturn:
    """Run a command and end the process with its exit code.

    A process of a distributed run skips Python's finalisation, though not the functions registered for its exit. A
    thread of the gloo backend may still be releasing the last reduced tensors; if it asks for Python's lock during the
    finalisation, the process aborts ("terminate called without an active exception") after all its work is done.
    """
    try:
        code = main()
    except SystemExit as end:  # of the argument parser, or of a preemption
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    tell_launcher(code)
    if hasattr(signal, 'SIGCHLD') and (workers := active_children()):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler raises an error for each
        for worker in workers:
            worker.kill()  # one that is stopped or hangs would be waited for
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
