"""How a program that started others ends when it is told to."""

from __future__ import annotations

import signal
import sys


def end_on_sigterm() -> None:
    """A SIGTERM ends as Ctrl-C does: through every context, so no process and no file that is not wanted stays."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
