"""Run a command: what it raises becomes one sentence on stderr and an exit code."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence

from mmvit_ext.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED

__all__ = ['run_command']

TRACEBACK_VARIABLE = 'MMVIT_EXT_TRACEBACK'


def _is_first_process() -> bool:
    rank = os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', '0'))
    return not rank.isdigit() or int(rank) == 0


def run_command(
    command: Callable[[Sequence[str] | None], int | None],
    argv: Sequence[str] | None = None,
    *,
    name: str,
    after_interrupt: str = '',
) -> int:
    """Run a command and turn what it raises into an exit code.

    Args:
        command: Takes the argument list (``None``: ``sys.argv[1:]``) and returns an exit code, ``None`` for 0.
        argv: The argument list.
        name: The command's name, written before an error.
        after_interrupt: What to do after an interrupt, told to the user.

    Returns:
        The command's own code; 2 for bad input, with one sentence on stderr; 130 when interrupted; 1 for an unknown
        failure, with its traceback. ``--traceback`` or a non-empty ``MMVIT_EXT_TRACEBACK`` shows every traceback.
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        return int(command(argv) or 0)
    except KeyboardInterrupt:
        if _is_first_process():
            remedy = f'; {after_interrupt}' if after_interrupt else ''
            print(f'{name}: interrupted{remedy}', file=sys.stderr, flush=True)
        return EXIT_INTERRUPTED
    except Exception as error:
        from mmvit_ext.errors.failures import describe_failure  # mmengine, which `mmvit --help` should not wait for

        sentence = describe_failure(error)
        if sentence is None or '--traceback' in words or os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        if sentence is None:
            return 1
        # A folder can be missing on one machine only, a bad image is met by one process only.
        if _is_first_process() or not getattr(error, 'same_on_every_process', False):
            sys.stdout.flush()
            rank = f' [rank {os.environ["RANK"]}]' if int(os.environ.get('WORLD_SIZE', '1')) > 1 else ''
            print(f'{name}{rank}: error: {sentence}', file=sys.stderr, flush=True)
        return EXIT_BAD_INPUT
