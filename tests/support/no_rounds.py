"""The flusher of a core stands still for as long as a test wants: nothing is applied, however long that takes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sparrow.base.constants import PAGE_BYTES
from tests.support.core_cluster import DEMO, CoreNode
from tests.support.core_reservations import begun


@asynccontextmanager
async def no_rounds(node: CoreNode) -> AsyncIterator[None]:
    """No round begins on that node's replica, which must not be closed meanwhile; one under way ends.

    A scrub is at work, for which rounds wait, and its disk does not answer: it is an empty pipe.
    """
    disk, answer = os.pipe()
    try:
        checking = await begun(node, node.plane._call("check_sums", DEMO, a=0, b=disk))
        try:
            yield
        finally:
            with (node.files() / "sums").open("rb") as sums:
                os.write(answer, sums.read(PAGE_BYTES))
            os.close(answer)
            await checking
    finally:
        os.close(disk)
