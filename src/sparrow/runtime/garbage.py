"""The cyclic garbage collector of a process that holds millions of objects and must answer in time.

A full collection looks at every object that lives: 1.5 s for what 1,000 nodes report of 100,000 volumes
(``make bench-authority``), in which no heartbeat is taken. Nearly all of it lives until a newer fact takes its place,
and reference counts end it then. So what survived one full collection is set aside (``gc.freeze``), and each costs
only what came since the one before. What is set aside in a cycle and dies later is never found: of that there are the
tasks of connections that were open, a few kilobytes at each collection, and a collection comes only when some 70,000
more objects live than before.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Around the imports of a start: what they make stays, and looking for garbage in it takes a quarter of them.

    It stays for good, so no later collection looks at it either.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if collects:
            gc.enable()


def set_survivors_aside() -> None:
    """From now on, in this process: what lives now, and what survives a full collection, is not looked at again."""
    gc.freeze()
    if _after_collection not in gc.callbacks:
        gc.callbacks.append(_after_collection)


def _after_collection(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()
