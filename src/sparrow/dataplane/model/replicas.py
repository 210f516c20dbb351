"""Replicas from format to delete, and how they are."""

from __future__ import annotations

from collections.abc import Mapping

from sparrow.authority.types import ReplicaState
from sparrow.base.errors import StaleEpoch, StorageError
from sparrow.base.ids import ReplicaId, ReplicaUuid, VolumeId
from sparrow.dataplane.model.shipping import Shipping
from sparrow.dataplane.model.state import PACE_S, ModelFiles, ModelVolume, age_ms
from sparrow.ports.dataplane import Absence, OpenReport, PeerPhase, PeerStatus, VolumeStatus


class Replicas(Shipping):
    """From format to delete."""

    async def format_replica(
        self, volume_id: VolumeId, replica_id: ReplicaId, *, size_bytes: int, block_size: int
    ) -> ReplicaUuid:
        if volume_id in self.pool.files:
            raise StorageError(f"{volume_id} has files already.")
        identity = ReplicaUuid(self._make_uuid())
        self.pool.files[volume_id] = ModelFiles(
            replica_id=replica_id, uuid=identity, size_bytes=size_bytes, block_size=block_size
        )
        return identity

    def replicas(self) -> Mapping[VolumeId, ReplicaId]:
        return {one: self.pool.files[one].replica_id for one in sorted(self.pool.files)}

    async def open_replica(self, volume_id: VolumeId) -> OpenReport:
        files = self.pool.files[volume_id]
        volume = ModelVolume(files=files, commit=files.applied)
        volume.served = max(files.size_bytes, files.log.size_at(volume.commit))
        self._volumes[volume_id] = volume
        torn, files.log.torn = files.log.torn, False
        return OpenReport(
            replica_id=files.replica_id,
            size_bytes=volume.served,
            block_size=files.block_size,
            log=self._summary(volume),
            promised_epoch=files.promised_epoch,
            promised_primary=files.promised_primary,
            line=files.line,
            pending=files.pending,
            torn_after_lsn=files.log.last_lsn if torn else None,
            damaged_after_lsn=None,
            superblock_damaged=files.suspect,
        )

    async def close_replica(self, volume_id: VolumeId) -> None:
        volume = self._volume(volume_id)
        self._close_for_good(volume_id, volume, "command")
        self._drop_links(volume_id, volume)
        volume.files.log.flush()
        del self._volumes[volume_id]

    async def delete_replica(self, volume_id: VolumeId) -> None:
        if volume_id in self._volumes:
            await self.close_replica(volume_id)
        self.pool.files.pop(volume_id, None)

    async def status(self, volume_id: VolumeId) -> VolumeStatus:
        volume = self._volume(volume_id)
        now = self._clock()
        silent = None if volume.feed is None or volume.heard_at is None else now - volume.heard_at
        return VolumeStatus(
            volume_id=volume_id,
            term=volume.term,
            promised_epoch=volume.files.promised_epoch,
            gate_open=volume.gate_open,
            log=self._summary(volume),
            disk_failed=False,
            pool_full=False,
            frozen=False,
            sessions=0,
            primary_silent_ms=None if silent is None else round(silent * 1000),
            peers=tuple(
                PeerStatus(
                    slot=slot,
                    phase=PeerPhase.REBUILDING if peer.rebuilding else PeerPhase.SHIPPING,
                    acked_lsn=peer.acked,
                    shipped_lsn=peer.shipped,
                    granted=volume.rights.get(peer.node_key, 0.0) > now,
                    silent_ms=round((now - peer.heard_at) * 1000),
                    base_pages_done=0,
                    base_pages_total=0,
                    lag_ms=age_ms(volume, peer.acked, now),
                    worst_ack_ms=round(
                        1000
                        * max((took for at, took in peer.paces if at > now - PACE_S), default=0)
                    ),
                    rebuild_kind=peer.plan.kind if peer.plan is not None else None,
                    log_bytes=0,
                    base_bytes=0,
                )
                for slot, peer in sorted(volume.peers.items())
            ),
            reads=0,
            writes=0,
            read_bytes=0,
            written_bytes=0,
            own_lag_ms=age_ms(volume, volume.files.log.durable_lsn, now),
            absences=tuple(
                Absence(uuid=uuid, from_lsn=from_lsn, changed_granules=len(pages))
                for uuid, (from_lsn, pages) in sorted(volume.files.absences.items())
            ),
        )

    async def statuses(self) -> dict[VolumeId, VolumeStatus]:
        return {volume_id: await self.status(volume_id) for volume_id in tuple(self._volumes)}

    async def resize(self, volume_id: VolumeId, size_bytes: int) -> None:
        volume = self._volume(volume_id)
        if not volume.primary or not volume.term_start or volume.commit < volume.term_start:
            raise StaleEpoch(f"{volume_id} is not open here.")
        if size_bytes < volume.served:
            raise StorageError(f"{volume_id} is longer than that.")
        if size_bytes > volume.served:
            lsn = self._log_entry(volume_id, volume, None, b"", size=size_bytes)
            await self._committed(volume_id, volume, lsn)

    async def set_state(self, volume_id: VolumeId, state: ReplicaState) -> None:
        self._volume(volume_id).files.state = state
