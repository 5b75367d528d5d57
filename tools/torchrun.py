#!/usr/bin/env python
"""PyTorch's torchrun without its own traceback: what a process wrote about its failure stays the last thing to read.

Takes the arguments of torchrun and passes the exit code of the process that failed first on, where torchrun gives 1.
"""

import sys
from collections.abc import Sequence

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        run.main(argv)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(f'torchrun: rank {rank} failed with exit code {failure.exitcode}, see above', file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 1
    except (KeyboardInterrupt, SignalException):
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
