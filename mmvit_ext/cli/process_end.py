"""How a process of a run ends: its exit code, and what its launcher makes of it."""

import atexit
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mmvit_ext.errors import EXIT_BAD_INPUT, EXIT_PREEMPTED

__all__ = ['end_process', 'tell_launcher']

FINAL_CODE_VARIABLE = 'MMVIT_EXT_FINAL_CODE'  # set by tools/torchrun.py


def tell_launcher(code: int) -> None:
    """Tell ``tools/torchrun.py``, through a file, with which exit code the whole run ends.

    Bad input ends the launcher at once: it would otherwise start the processes again, which find the same input.
    """
    path = os.environ.get(FINAL_CODE_VARIABLE)
    if not path or code not in (EXIT_BAD_INPUT, EXIT_PREEMPTED):
        return
    try:
        Path(path).write_text(str(code))
    except OSError as error:
        print(f'cannot write {path}: {error}', file=sys.stderr)
        return
    if code == EXIT_BAD_INPUT and int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', '0')):
        os.kill(os.getppid(), signal.SIGTERM)


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
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
