"""Waiting for what can only be looked at, with a deadline."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

WAIT_S = 30.0


async def until(
    holds: Callable[[], bool | Awaitable[bool]], *, within_s: float = WAIT_S, every_s: float = 0.01
) -> None:
    """Look again and again until something holds. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            found = holds()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(every_s)


def wait_for(holds: Callable[[], bool], within_s: float = WAIT_S) -> None:
    """The same for tests that have no loop. Raises TimeoutError."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not happen within {within_s:g} s")
        # Another process's files, logs and answers: nothing tells that they changed.
        time.sleep(0.02)
