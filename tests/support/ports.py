"""Ports for what tests start: of this process alone, and below those that outgoing connections take.

A port that the kernel names (``bind`` to 0) is anybody's again once it is closed: the next connection of any process
may come from it. So what has to be known before it is bound, or is bound a second time, comes from here.
"""

from __future__ import annotations

import atexit
import os
import socket
from functools import cache
from typing import Final

HOST: Final = "127.0.0.1"
FIRST, END = 20000, 32000
#: Of one process that runs tests.
EACH: Final = 250


@cache
def _own() -> range:
    """Ports of this process alone, below the range that outgoing connections take theirs from.

    A killed node's port is free until the node is started again: nobody else may take it meanwhile, neither a
    connection nor the tests of another process. The claim is the name of an abstract Unix socket, which goes with the
    process and belongs to a network namespace as ports do.
    """
    slots = (END - FIRST) // EACH
    for number in range(slots):
        slot = (os.getpid() + number) % slots
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0sparrow-test-ports-{slot}")
        except OSError:
            claim.close()
            continue
        atexit.register(claim.close)
        first = FIRST + slot * EACH
        return range(first, first + EACH)
    raise OSError(f"{slots} processes claim ports for their tests already")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, which no other process gives to its tests; OSError when there are not as many."""
    found: list[int] = []
    for port in _own():
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports in {_own()}")


def free_base(count: int) -> int:
    """The first of ``count`` ports in a row that nobody listens on; OSError when there is no such row."""
    row = 0
    for port in _own():
        row = row + 1 if _is_free(port) else 0
        if row == count:
            return port - count + 1
    raise OSError(f"no {count} free ports in a row in {_own()}")
