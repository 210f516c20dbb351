"""The log's way: from the primary that appends, to peers that make it durable, and back as commits."""

from __future__ import annotations

import asyncio
from typing import Any

from sparrow.authority.types import ReplicaState, Term
from sparrow.base.errors import DamagedData, NotFound, StaleEpoch, Unavailable
from sparrow.base.ids import NO_LINK, LinkId, Lsn, ReplicaUuid, VolumeId
from sparrow.dataplane.model.grants import Grants
from sparrow.dataplane.model.links import End
from sparrow.dataplane.model.log import Batch, ModelLog, decode_batches
from sparrow.dataplane.model.state import ModelPeer, ModelVolume, acked, age_ms, reached, wake
from sparrow.ports.dataplane import (
    Membership,
    NewerEpochSeen,
    PeerLost,
    PeerRebuilt,
    PrimaryLost,
    RebuildKind,
    RebuildPlan,
    ReservationsChanged,
    VolumeResized,
)


class Shipping(Grants):
    """The sides of the primary and of the follower."""

    async def set_membership(self, volume_id: VolumeId, membership: Membership) -> Lsn:
        volume = self._volume(volume_id)
        volume.needed, volume.writable = membership.needed, membership.writable
        volume.one_of, volume.ack_local = membership.one_of, membership.ack_local
        frozen = volume.commit
        self._advance(volume_id, volume)
        self._look_at_gate(volume_id, volume)
        return frozen

    async def ship(
        self,
        volume_id: VolumeId,
        slot: int,
        node_key: int,
        fd: int,
        *,
        joined_lsn: Lsn,
        rebuild: RebuildPlan | None = None,
        uuid: ReplicaUuid | None = None,
        link: LinkId = NO_LINK,
    ) -> None:
        volume = self._volume(volume_id)
        missed: set[int] | None = None
        if rebuild is not None and rebuild.kind is RebuildKind.DELTA:
            known = volume.files.absences.get(uuid or ReplicaUuid(""))
            if known is None or known[0] > rebuild.from_lsn:
                raise NotFound("What the peer misses is not known here.")
            missed = known[1] | volume.files.log.touched(volume.files.applied, volume.commit)
        old = volume.peers.pop(slot, None)
        if old is not None:
            old.end.on_lost = None
            old.end.close()
        end = self._end(fd)
        peer = ModelPeer(
            node_key=node_key,
            link=link,
            end=end,
            shipped=joined_lsn,
            heard_at=self._clock(),
            acked=joined_lsn,
        )
        volume.peers[slot] = peer
        volume.node_of[slot] = node_key
        log = volume.files.log
        if rebuild is not None:
            peer.rebuilding, peer.acked, peer.plan = True, Lsn(0), rebuild
            as_of = volume.commit
            rows = [r for r in log.rows() if r.first_lsn <= as_of]
            pages: dict[int, bytes | None] = dict(log.view(as_of))
            if missed is not None:
                # A page without data says so: what the peer holds there must not survive.
                pages = {page: pages.get(page) for page in sorted(missed)}
            content = (pages, missed is not None, volume.served, log.table_at(as_of))
            end.send(("base", volume.term, as_of, log.check_at(as_of), rows, content))
            peer.shipped = as_of
        end.attach(
            lambda message: self._on_ack(volume_id, slot, peer, message),
            lambda cause: self._on_peer_lost(volume_id, slot, peer, cause),
        )
        self._ship_new(volume, peer)
        self._advance(volume_id, volume)

    async def receive(self, volume_id: VolumeId, fd: int, term: Term) -> None:
        volume = self._volume(volume_id)
        if volume.files.promised_epoch > term.epoch:
            raise StaleEpoch(f"Epoch {volume.files.promised_epoch} is promised.")
        end = self._end(fd)
        if volume.feed is not None:
            volume.feed.on_lost = None
            volume.feed.close()
        volume.feed, volume.feed_term = end, term
        volume.heard_at = self._clock()
        end.attach(
            lambda message: self._on_frame(volume_id, volume, end, term, message),
            lambda cause: self._on_primary_lost(volume_id, volume, end, term, cause),
        )

    async def drop_peer(self, volume_id: VolumeId, slot: int) -> None:
        peer = self._volume(volume_id).peers.pop(slot, None)
        if peer is not None:
            peer.end.on_lost = None
            peer.end.close()
            self._fail_waiters(peer)

    async def peer_acked(self, volume_id: VolumeId, slot: int, lsn: Lsn) -> None:
        peer = self._volume(volume_id).peers.get(slot)
        if peer is None:
            raise Unavailable("The peer has no link.")
        if peer.acked >= lsn:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        peer.waiters.append((lsn, waiter))
        await waiter

    def _log_entry(
        self,
        volume_id: VolumeId,
        volume: ModelVolume,
        page: int | None,
        data: bytes,
        *,
        zeros: int = 0,
        size: int = 0,
    ) -> Lsn:
        log = volume.files.log
        self._before_write(volume_id, volume)
        if self.lose_own_writes and log.undurable_after is None:
            log.undurable_after = log.last_lsn
        log.append(
            Batch(
                term=volume.term,
                lsn=Lsn(log.last_lsn + 1),
                parent=log.last_check,
                page=page,
                data=data,
                zeros=zeros,
                size=size,
            )
        )
        volume.appended.append((log.last_lsn, self._clock()))
        for peer in volume.peers.values():
            self._ship_new(volume, peer)
        return log.last_lsn

    def _before_write(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        """Entries are about to be appended; here they are durable at once."""

    def _flushed(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        """More of the log is durable."""
        files = volume.files
        if volume.primary:
            self._advance(volume_id, volume)
        elif volume.feed is not None and files.promised_epoch <= volume.feed_term.epoch:
            files.apply(Lsn(max(files.applied, min(volume.commit, files.log.durable_lsn))))
            volume.feed.send(("ack", volume.feed_term, files.log.durable_lsn))

    def _ship_new(self, volume: ModelVolume, peer: ModelPeer) -> None:
        log = volume.files.log
        data = log.read(Lsn(peer.shipped + 1), bytes_max=1 << 30)
        peer.shipped = log.last_lsn
        peer.end.send(("batches", volume.term, volume.commit, data))

    async def _committed(self, volume_id: VolumeId, volume: ModelVolume, lsn: Lsn) -> None:
        self._advance(volume_id, volume)
        if volume.commit < lsn:
            await reached(volume.commit_waiters, lsn)

    async def _answered(self, volume_id: VolumeId, volume: ModelVolume, lsn: Lsn) -> None:
        """A write is done: committed, or durable here where that is enough."""
        self._advance(volume_id, volume)
        if max(volume.commit, volume.answered) < lsn:
            await reached(volume.answer_waiters, lsn)

    def _advance(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        """Move the commit LSN to what every needed peer has acknowledged."""
        if not volume.primary or volume.term_start == 0:
            return
        durable = volume.files.log.durable_lsn
        ends = [durable, *(acked(volume, slot) for slot in volume.needed)]
        if volume.one_of:
            ends.append(max(acked(volume, slot) for slot in volume.one_of))
        reached = min(ends)
        if not volume.writable:
            reached = min(reached, volume.inherited)
        if reached > volume.commit and reached >= volume.term_start:
            self._commit(volume_id, volume, reached)
        if volume.ack_local and volume.writable and volume.commit >= volume.term_start:
            volume.answered = max(volume.answered, durable)
            volume.answer_waiters = wake(volume.answer_waiters, volume.answered)

    def _commit(self, volume_id: VolumeId, volume: ModelVolume, reached: Lsn) -> None:
        volume.commit = reached
        volume.files.apply(reached)
        self._serve(volume_id, volume)
        for peer in volume.peers.values():
            peer.end.send(("batches", volume.term, volume.commit, b""))
        volume.commit_waiters = wake(volume.commit_waiters, reached)
        volume.answer_waiters = wake(volume.answer_waiters, reached)

    def _serve(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        """The commit LSN moved: clients may use what was added up to there, and tables up to there count."""
        for lsn, table in volume.files.log.tables:
            if volume.table_told < lsn <= volume.commit:
                volume.table_told = lsn
                self._emit(ReservationsChanged(volume_id=volume_id, lsn=lsn, table=table))
        size = max(volume.served, volume.files.log.size_at(volume.commit))
        if size != volume.served:
            volume.served = size
            self._emit(VolumeResized(volume_id=volume_id, size_bytes=size))

    def _on_ack(self, volume_id: VolumeId, slot: int, peer: ModelPeer, message: Any) -> None:
        volume = self._volumes.get(volume_id)
        if volume is None or volume.peers.get(slot) is not peer:
            return
        peer.heard_at = self._clock()
        kind, term, lsn = message
        if kind == "newer":
            self._emit(NewerEpochSeen(volume_id=volume_id, epoch=lsn))
            return
        if term != volume.term:
            return
        if kind == "rebuilt":
            peer.rebuilding = False
            self._emit(
                PeerRebuilt(volume_id=volume_id, slot=slot, link=peer.link, term=term, lsn=lsn)
            )
        if lsn > peer.acked:
            took_ms = age_ms(volume, peer.acked, peer.heard_at)
            peer.paces.append((peer.heard_at, took_ms / 1000))
        peer.acked = max(peer.acked, lsn)
        for wanted, waiter in peer.waiters:
            if wanted <= peer.acked and not waiter.done():
                waiter.set_result(None)
        peer.waiters = [(w, f) for w, f in peer.waiters if not f.done()]
        self._advance(volume_id, volume)

    def _on_peer_lost(self, volume_id: VolumeId, slot: int, peer: ModelPeer, cause: str) -> None:
        volume = self._volumes.get(volume_id)
        if volume is None or volume.peers.get(slot) is not peer:
            return
        del volume.peers[slot]
        self._fail_waiters(peer)
        self._emit(
            PeerLost(volume_id=volume_id, slot=slot, link=peer.link, term=volume.term, cause=cause)
        )

    def _on_frame(
        self, volume_id: VolumeId, volume: ModelVolume, end: End, term: Term, message: Any
    ) -> None:
        files = volume.files
        volume.heard_at = self._clock()
        if files.promised_epoch > term.epoch:
            end.send(("newer", term, files.promised_epoch))
            return
        if message[0] == "base":
            _kind, _term, as_of, check, rows, (pages, kept, size, table) = message
            if files.state is not ReplicaState.REBUILDING or (kept and files.kept_from is None):
                end.close()
                return
            if kept:
                pages = {**files.kept, **pages}
            pages = {page: data for page, data in pages.items() if data is not None}
            files.kept, files.kept_from = {}, None
            files.log = ModelLog(
                base_lsn=as_of,
                base_check=check,
                base_rows=tuple(rows),
                pages=pages,
                sizes=[(Lsn(0), size)],
                tables=[table] if table[0] else [],
            )
            files.damaged.clear()
            files.applied = volume.commit = as_of
            self._serve(volume_id, volume)
            files.state = ReplicaState.CLEAN
            end.send(("rebuilt", term, as_of))
            return
        _kind, _term, commit, data = message
        if data:
            self._before_write(volume_id, volume)
        try:
            for batch in decode_batches(data):
                files.log.append(batch)
        except DamagedData:
            end.close()
            return
        volume.commit = max(volume.commit, Lsn(min(commit, files.log.last_lsn)))
        self._serve(volume_id, volume)
        durable = files.log.durable_lsn
        files.apply(Lsn(max(files.applied, min(volume.commit, durable))))
        end.send(("ack", term, durable))

    def _on_primary_lost(
        self, volume_id: VolumeId, volume: ModelVolume, end: End, term: Term, cause: str
    ) -> None:
        if volume.feed is end:
            volume.feed = None
            self._emit(PrimaryLost(volume_id=volume_id, term=term, cause=cause))
