"""The error for bad input, exit codes, and what a failure says to the user."""

import errno

from .user_error import UserError, printable, same_on_every_process, say

__all__ = ['DISK_FULL', 'EXIT_BAD_INPUT', 'EXIT_INTERRUPTED', 'EXIT_PREEMPTED', 'UserError', 'printable']
__all__ += ['same_on_every_process', 'say']

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # error numbers of a full disk, and of a user's full share of it
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell expects
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: not done, try again
