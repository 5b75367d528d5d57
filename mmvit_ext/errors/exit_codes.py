"""Exit codes of the commands."""

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell expects
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: not done, try again
