"""What holds for the whole suite."""

import signal

# A shell without job control starts background jobs with SIGINT ignored, and children inherit that: the tests that
# interrupt a run would then wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
