"""The error for bad input, exit codes, and what a failure says to the user."""

from .exit_codes import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_PREEMPTED
from .user_error import UserError, same_on_every_process

__all__ = ['EXIT_BAD_INPUT', 'EXIT_INTERRUPTED', 'EXIT_PREEMPTED', 'UserError', 'same_on_every_process']
