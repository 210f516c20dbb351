"""Verbs that run a process: arguments go to its own settings, untouched."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sparrow.runtime.garbage import loading
from sparrow.runtime.parent import die_with_parent

#: typer: leave every argument to the process's settings (runtime.config), which read file and environment too.
PASS_ON: Final[dict[str, Any]] = {"allow_extra_args": True, "ignore_unknown_options": True}


def run_node(arguments: Sequence[str]) -> None:
    """``sparrow node run``: to its end, and exit with its status."""
    die_with_parent(os.environ)
    with loading():
        from sparrow.node.process import main  # noqa: PLC0415 - other verbs must not pay for the data plane

    sys.exit(main(arguments))


def run_master(arguments: Sequence[str]) -> None:
    """``sparrow master run``: to its end, and exit with its status."""
    die_with_parent(os.environ)
    with loading():
        from sparrow.master.app import main  # noqa: PLC0415 - other verbs must not pay for it

    sys.exit(main(arguments))


#: Verbs that run a process, and how.
PROCESSES: Final[Mapping[str, Callable[[Sequence[str]], None]]] = {
    "node run": run_node,
    "master run": run_master,
}
