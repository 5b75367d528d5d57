#!/usr/bin/env python
"""PyTorch's torchrun without its own traceback: what a process wrote about its failure stays the last thing to read.

Takes the arguments of torchrun and passes the exit code of the process that failed first on, where torchrun gives 1.
With --max-restarts the processes are started again when one of them dies, but not when one of them found bad input.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch.distributed
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

DistError = getattr(torch.distributed, 'DistError', RuntimeError)  # PyTorch 2.1 has no such name
FINAL_CODE_VARIABLE = 'MMVIT_EXT_FINAL_CODE'  # as in mmvit_ext.cli.command, which takes seconds to import


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    with tempfile.TemporaryDirectory(prefix='torchrun_') as folder:
        final_code = Path(folder) / 'code'
        os.environ[FINAL_CODE_VARIABLE] = str(final_code)
        # With --rdzv-backend=c10d every attempt gets a store of its own, in which no address of a dead process stands.
        os.environ.setdefault('TORCH_DISABLE_SHARE_RDZV_TCP_STORE', '1')
        try:
            run.main(argv)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            print(f'torchrun: rank {rank} failed with exit code {failure.exitcode}, see above', file=sys.stderr)
            return failure.exitcode if failure.exitcode > 0 else 1
        except DistError as error:
            reason = str(error).splitlines()[0]
            print(
                f'torchrun: error: the machines of this run have not met ({reason}): start it on each of NNODES '
                'machines with its own NODE_RANK, and the MASTER_ADDR and PORT of the first one',
                file=sys.stderr,
            )
            return 1
        except (KeyboardInterrupt, SignalException):
            # A process that saved before it ended, or that knows that starting again is of no use, left word.
            return int(final_code.read_text()) if final_code.is_file() else 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
