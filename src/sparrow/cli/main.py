"""The command line's entry: processes without the rest of it, and errors as one sentence with an exit status.

Exit status 0: done; 2: the arguments are off; the others are the table of ``rpc.errors``.
"""

from __future__ import annotations

import os
import signal
import sys

# gRPC's C core prints its own lines about connections that our errors explain better.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from sparrow.base.errors import SparrowError
from sparrow.cli.processes import PROCESSES
from sparrow.runtime.garbage import loading


def main() -> None:
    """Run one command; what is expected to go wrong ends in a sentence, never in a traceback."""
    try:
        _run(sys.argv[1:])
    except SparrowError as error:
        from sparrow.rpc.errors import row_of  # noqa: PLC0415 - a start without errors must not wait for it

        print(f"Error: {error}", file=sys.stderr)
        if error.hint:
            print(error.hint, file=sys.stderr)
        sys.exit(row_of(error).exit_status)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _run(arguments: list[str]) -> None:
    """Run a verb; one that runs a process begins without the options of all others, which take a tenth of its start."""
    process = PROCESSES.get(" ".join(arguments[:2]))
    if process is not None and "--help" not in arguments:
        process(arguments[2:])
        return
    with loading():
        from sparrow.cli.root import app  # noqa: PLC0415 - see above

    app()
