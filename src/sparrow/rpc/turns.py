"""Long work in the event loop, cut into turns so that heartbeats and other calls come in between."""

from __future__ import annotations

import asyncio
from typing import Final

#: Heartbeats of 1,000 nodes come every half millisecond; a turn holds up some ten of them.
TURN_S: Final = 0.005


class Turn:
    """The present turn of one piece of work. Between two turns anything may have changed."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + TURN_S

    async def rest(self) -> None:
        """Let others run when this turn has lasted long enough; call it after each small step."""
        if self._clock() >= self._until:
            await asyncio.sleep(0)
            self._until = self._clock() + TURN_S
