"""The whole data plane: put together from its parts, its life, and what comes up from the core."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from sparrow._native.core import EVENTS
from sparrow.base.ids import NO_LINK, VolumeId
from sparrow.dataplane.events import PEER_EVENTS, SESSION_CAUSES, VOLUME_EVENTS, Mail
from sparrow.dataplane.native.clients import Clients
from sparrow.dataplane.native.peers import Peers
from sparrow.dataplane.native.repair import Repair
from sparrow.dataplane.native.replicas import Replicas
from sparrow.dataplane.native.terms import Terms
from sparrow.ports.dataplane import CoreEvent, CoreLeaked, GrantLinkLost, SessionEnded


class NativeDataPlane(Terms, Peers, Clients, Repair, Replicas):
    """``ports.DataPlane`` on the compiled core."""

    def start(self, on_event: Callable[[CoreEvent], None]) -> None:
        assert self._loop is None, "a data plane is started once"
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._machine.start(self._core, self._drain)
        self._room = self._loop.create_task(self._watch_room())

    async def stop(self) -> None:
        if self._loop is None:
            return
        for task in tuple(self._working):
            task.cancel()
        if self._room is not None:
            self._room.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._room
        for volume_id in tuple(self._volumes):
            await self.close_replica(volume_id)
        await self._send("stop", 0)
        await self._machine.stopped()
        self._drain()
        held = self._core.held()
        if held and self._on_event is not None:
            self._on_event(CoreLeaked(held=held))
        self._machine.close()
        self._core.close()
        self._loop = None

    def _drain(self) -> None:
        for mail in map(Mail._make, self._core.drain()):
            if mail.token:
                heard = self._heard.pop(mail.token, None)
                if heard is not None:
                    heard(mail)
                future = self._waiting.pop(mail.token, None)
                if future is not None and not future.done():
                    future.set_result(mail)
                continue
            try:
                event = self._event(mail)
                if event is not None and self._on_event is not None:
                    self._on_event(event)
            except Exception as error:  # noqa: BLE001
                # One event that cannot be taken must not take the answers behind it along.
                assert self._loop is not None, "started"
                self._loop.call_exception_handler(
                    {"message": f"Event {mail.kind} cannot be taken.", "exception": error}
                )

    def _event(self, mail: Mail) -> CoreEvent | None:
        kind = EVENTS[mail.kind]
        if kind == "grant_link_lost":
            return GrantLinkLost(node_key=mail.a)
        if kind == "session_ended":
            volume_id = self._sessions.pop(mail.a, VolumeId(""))
            cause = SESSION_CAUSES.get(mail.b, str(mail.b))
            return SessionEnded(volume_id=volume_id, session_key=mail.a, cause=cause)
        volume = self._by_index.get(mail.volume)
        if kind == "files_short":
            if volume is not None:
                self._spawn(self._lengthen(volume, mail.a))
            return None
        # A volume that was closed meanwhile has nobody to hear of it.
        if volume is None:
            return None
        if kind in PEER_EVENTS:
            link = volume.links.get(mail.a, NO_LINK)
            return PEER_EVENTS[kind](volume.volume_id, link, mail)
        return VOLUME_EVENTS[kind](volume.volume_id, mail)
