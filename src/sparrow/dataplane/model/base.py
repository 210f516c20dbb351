"""What every part of the twin uses: its volumes, its links, its events."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator

from sparrow.base.errors import NotFound, Unavailable
from sparrow.base.ids import Lsn, VolumeId
from sparrow.dataplane.model.links import End, Fabric
from sparrow.dataplane.model.state import ModelPeer, ModelPool, ModelVolume
from sparrow.frontends.reservations.machine import Notice
from sparrow.ports.dataplane import (
    CoreEvent,
    LogSummary,
    NbdParameters,
    QueueParameters,
    SessionParameters,
)


class Base:
    """What every part uses."""

    def __init__(
        self,
        node: str,
        pool: ModelPool,
        fabric: Fabric,
        clock: Callable[[], float] | None = None,
        make_uuid: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self.node = node
        self.pool = pool
        self.fabric = fabric
        self._make_uuid = make_uuid
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._volumes: dict[VolumeId, ModelVolume] = {}
        self._asking: dict[int, End] = {}
        self._on_event: Callable[[CoreEvent], None] = lambda _event: None
        self._started_at = 0.0
        self._ticker: asyncio.TimerHandle | None = None
        #: A test turns this on to keep local appends from being durable: they die with the twin.
        self.lose_own_writes = False
        self.sessions: dict[int, tuple[VolumeId, int, SessionParameters]] = {}
        self.queues: dict[int, tuple[VolumeId, int, QueueParameters]] = {}
        self.nbd_clients: dict[int, tuple[VolumeId, int, NbdParameters]] = {}
        self.answers: list[tuple[int, int, int, bytes, bytes]] = []
        self.attentions: list[tuple[int, Notice]] = []
        #: Sessions whose commands were ended.
        self.aborted: list[int] = []

    def _drop_links(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        for peer in self._take_peers(volume):
            peer.end.on_lost = None
            peer.end.close()
            self._fail_waiters(peer)
        if volume.feed is not None:
            volume.feed.on_lost = None
            volume.feed.close()
            volume.feed = None
        for _lsn, waiter in (*volume.commit_waiters, *volume.answer_waiters):
            if not waiter.done():
                waiter.set_exception(Unavailable(f"{volume_id} is not served here any more."))
        volume.commit_waiters.clear()
        volume.answer_waiters.clear()

    def _fail_waiters(self, peer: ModelPeer) -> None:
        for _lsn, waiter in peer.waiters:
            if not waiter.done():
                waiter.set_exception(Unavailable("The peer's link is lost."))

    def _take_peers(self, volume: ModelVolume) -> Iterator[ModelPeer]:
        while volume.peers:
            yield volume.peers.popitem()[1]

    def _summary(self, volume: ModelVolume) -> LogSummary:
        files = volume.files
        return LogSummary(
            uuid=files.uuid,
            terms=files.log.rows(),
            last_term=files.log.last_term,
            last_lsn=files.log.last_lsn,
            last_check=files.log.last_check,
            oldest_lsn=Lsn(files.log.base_lsn + 1),
            durable_lsn=files.log.durable_lsn,
            commit_lsn=volume.commit,
            applied_lsn=files.applied,
            must_reach_lsn=files.must_reach,
            state=files.state,
            suspect=files.suspect,
        )

    def _volume(self, volume_id: VolumeId) -> ModelVolume:
        volume = self._volumes.get(volume_id)
        if volume is None:
            raise NotFound(f"{volume_id} is not open here.")
        return volume

    def _end(self, fd: int) -> End:
        end = self.fabric.ends.get(fd)
        if end is None:
            raise Unavailable("The connection is closed already.")
        return end

    def _emit(self, event: CoreEvent) -> None:
        asyncio.get_running_loop().call_soon(self._on_event, event)
