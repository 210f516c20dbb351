"""The twin of one node, put together from its parts, and its life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sparrow.base.constants import GRANT_RENEW_S
from sparrow.base.ids import Lsn
from sparrow.dataplane.model.clients import Clients
from sparrow.dataplane.model.repair import Repair
from sparrow.dataplane.model.replicas import Replicas
from sparrow.dataplane.model.state import ModelFiles
from sparrow.dataplane.model.terms import Terms
from sparrow.ports.dataplane import CoreEvent


class ModelDataPlane(Replicas, Terms, Clients, Repair):
    """One node's twin. ``clock`` is the running loop's time unless given; ``make_uuid`` names new files."""

    def start(self, on_event: Callable[[CoreEvent], None]) -> None:
        self._on_event = on_event
        self._started_at = self._clock()
        self._tick()

    async def stop(self) -> None:
        self.kill()

    def kill(self) -> None:
        """The process dies: nothing volatile is left, peers see resets."""
        if self._ticker is not None:
            self._ticker.cancel()
        for volume in self._volumes.values():
            self._crash(volume.files)
        self._on_event = lambda _event: None
        self.fabric.kill(self.node)
        self._volumes.clear()

    def _crash(self, files: ModelFiles) -> None:
        """What is left of one replica when the process dies: what was durable."""
        files.log.crash(survives=Lsn(0))

    def _tick(self) -> None:
        """Ask for grants, look at deadlines."""
        loop = asyncio.get_running_loop()
        self._ticker = loop.call_later(GRANT_RENEW_S / 5, self._tick)
        now = self._clock()
        for end in list(self._asking.values()):
            wanted = [
                (v, vol.term)
                for v, vol in self._volumes.items()
                if vol.primary and not vol.released
            ]
            end.send(("ask", now, wanted))
        for volume_id, volume in self._volumes.items():
            self._look_at_gate(volume_id, volume)
