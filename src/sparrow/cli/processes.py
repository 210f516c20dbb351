"""Verbs that run a process: arguments go to its own settings, untouched."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from sparrow.runtime.parent import die_with_parent

#: typer: leave every argument to the process's settings (runtime.config), which read file and environment too.
PASS_ON: Final[dict[str, Any]] = {"allow_extra_args": True, "ignore_unknown_options": True}


def run_process(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> None:
    """Run a process's entry to its end and exit with its status."""
    die_with_parent(os.environ)
    sys.exit(main(list(arguments)))
