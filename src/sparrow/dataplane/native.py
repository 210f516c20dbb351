"""The native twin of the data plane: commands become mail to a reactor, mail from it becomes answers and events.

One reactor; every volume of the node lives there. Its thread, its ring and the files below it are the machine's
(``dataplane/machine.py``), so that the same commands drive the core inside the simulator.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import struct
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sparrow._native.core import COMMANDS, EVENTS, nbd_config, queue_config, session_config
from sparrow.authority.record import decode_line, encode_line
from sparrow.authority.types import Line, ReplicaState, Term
from sparrow.base.errors import (
    DamagedData,
    EpochConflict,
    LocalProtocolError,
    NotFound,
    OutcomeUnknown,
    SparrowError,
    StaleEpoch,
    StorageError,
    Unavailable,
    Withdrawn,
)
from sparrow.base.ids import Epoch, Lsn, ReplicaId, ReplicaUuid, VolumeId
from sparrow.dataplane import durability
from sparrow.dataplane import files as replica_files
from sparrow.dataplane.decode import (
    NONE_U64,
    STATE_NUMBERS,
    decode_fence,
    decode_status,
    decode_statuses,
    decode_summary,
    words_of,
)
from sparrow.dataplane.events import GATE_NUMBERS, SESSION_CAUSES, VOLUME_EVENTS, Mail
from sparrow.dataplane.machine import POOL_PAGES, CoreSizes, KernelMachine, Machine
from sparrow.dataplane.wal_device import WalDevice
from sparrow.formats.absences import ABSENCES_MAX
from sparrow.frontends.reservations.machine import Notice
from sparrow.ports.dataplane import (
    AtRest,
    BatchCheck,
    CoreEvent,
    CoreLeaked,
    DigestOutcome,
    FenceReport,
    GrantLinkLost,
    JoinOutcome,
    LogSummary,
    Membership,
    NbdParameters,
    OpenReport,
    PageDigests,
    QueueParameters,
    RebuildKind,
    RebuildPlan,
    RecoverySettings,
    SessionEnded,
    SessionParameters,
    SumsCheck,
    SumsImage,
    SumsMended,
    VolumeStatus,
)

VOLUMES_MAX: Final = 1023
#: Room is looked at this often, and before the first command of a volume.
HEADROOM_EVERY_S: Final = 1.0
#: Files that could not be made longer, for want of room mostly, are tried again after this.
GROW_AGAIN_S: Final = 1.0

JOIN_OUTCOMES: Final = {
    1: JoinOutcome.JOINED,
    2: JoinOutcome.NO_COMMON_POINT,
    3: JoinOutcome.QUARANTINED,
}
AT_REST: Final = {1: AtRest.WHOLE, 2: AtRest.REWRITTEN, 3: AtRest.DAMAGED}
DIGEST_OUTCOMES: Final = {
    1: DigestOutcome.READY,
    2: DigestOutcome.BEHIND,
    3: DigestOutcome.PASSED,
    4: DigestOutcome.DAMAGED,
}
#: As ``Attention`` of front/iscsi/session.pxd has them.
ATTENTIONS: Final = {
    Notice.RESERVATIONS_PREEMPTED: 32,
    Notice.RESERVATIONS_RELEASED: 64,
    Notice.REGISTRATIONS_PREEMPTED: 128,
}
assert set(ATTENTIONS) == set(Notice)


@dataclass(slots=True, kw_only=True)
class OpenVolume:
    """A volume that is in the core."""

    volume_id: VolumeId
    index: int
    replica_id: ReplicaId
    uuid: ReplicaUuid
    files: replica_files.ReplicaFiles
    #: Opened by the first step of a scrub.
    direct: replica_files.DirectFiles | None = None
    #: Volumes of one file system share its room.
    file_system: int
    #: What the core said of it last; it says nothing again that is still so.
    status: VolumeStatus | None = None


class NativeDataPlane:
    """``ports.DataPlane`` on the compiled core. ``pool`` is the directory that holds ``volumes/``.

    ``share_from`` says from how many log writes on flushes are shared; None lets the logs' device decide.
    ``wal_device`` holds the logs; without one each is a file beside its replica's other files. A ``machine``
    stands in for pool, device and this process's kernel. ``hold_off`` is how long nothing opens after the start,
    seconds; None for the usual. ``cache_pages`` is what the read cache may keep.
    """

    def __init__(
        self,
        pool: Path,
        *,
        node_id: str = "",
        pool_pages: int = POOL_PAGES,
        cache_pages: int = 0,
        share_from: int | None = None,
        wal_device: WalDevice | None = None,
        machine: Machine | None = None,
        sizes: CoreSizes | None = None,
        hold_off: float | None = None,
        recovery: RecoverySettings | None = None,
    ) -> None:
        self._machine = machine or KernelMachine(
            pool,
            name=f"reactor {node_id}".strip(),
            wal_device=wal_device,
            hold_off=hold_off,
        )
        recovery = recovery or RecoverySettings()
        self._core = self._machine.make_core(
            replace(
                sizes or CoreSizes(pages=pool_pages, cache_pages=cache_pages),
                rebuild_rate=recovery.rebuild_rate_mib << 20,
                rebuild_stretch_percent=recovery.rebuild_stretch_percent,
                wal_pin_percent=recovery.wal_pin_percent,
            ),
            share_from=durability.share_from(pool if wal_device is None else wal_device.path)
            if share_from is None
            else share_from,
        )
        self._volumes: dict[VolumeId, OpenVolume] = {}
        self._by_index: dict[int, OpenVolume] = {}
        self._sessions: dict[int, VolumeId] = {}
        self._waiting: dict[int, asyncio.Future[Mail]] = {}
        self._next_token = 1
        self._next_index = 1
        #: Serial of the newest answer about all volumes that was taken; 0 for none.
        self._taken = 0
        #: What it told then; None when a volume has come or gone since, or said something new.
        self._statuses: dict[VolumeId, VolumeStatus] | None = None
        #: Of each file system, the pages it had left when that was told last, and what the core had told by then.
        self._told_room: dict[int, tuple[int, dict[VolumeId, VolumeStatus]]] = {}
        self._on_event: Callable[[CoreEvent], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room: asyncio.Task[None] | None = None
        self._working: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ life

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

    # ------------------------------------------------------------------ mail

    async def _send(
        self,
        command: str,
        volume: int,
        *,
        a: int = 0,
        b: int = 0,
        c: int = 0,
        d: int = 0,
        flags: int = 0,
        data: bytes = b"",
        socket_fd: int = -1,
    ) -> Mail:
        """Post it and wait. ``socket_fd`` is closed when the core does not get it."""
        assert self._loop is not None, "started"
        token = self._next_token
        self._next_token += 1
        future: asyncio.Future[Mail] = self._loop.create_future()
        self._waiting[token] = future
        if not self._core.post(COMMANDS[command], volume, token, a, b, c, d, flags, data):
            del self._waiting[token]
            self._close_socket(socket_fd)
            raise Unavailable("The core has more commands than it can take at once.")
        return await future

    def _close_socket(self, fd: int) -> None:
        if fd >= 0:
            self._machine.close_socket(fd)

    def _tell(
        self, command: str, *, a: int, b: int, c: int = 0, d: int = 0, data: bytes = b""
    ) -> None:
        """A command nobody waits for; lost only when the core is hopelessly behind, then the session times out."""
        self._core.post(COMMANDS[command], 0, 0, a, b, c, d, 0, data)

    def _drain(self) -> None:
        for mail in map(Mail._make, self._core.drain()):
            if mail.token:
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
        return None if volume is None else VOLUME_EVENTS[kind](volume.volume_id, mail)

    def _open(self, volume_id: VolumeId) -> OpenVolume:
        volume = self._volumes.get(volume_id)
        if volume is None:
            raise NotFound(f"Volume {volume_id!r} has no open replica on this node.")
        return volume

    async def _call(
        self,
        command: str,
        volume_id: VolumeId,
        *,
        a: int = 0,
        b: int = 0,
        c: int = 0,
        d: int = 0,
        flags: int = 0,
        data: bytes = b"",
        socket_fd: int = -1,
    ) -> Mail:
        """A command to a volume; its errors as exceptions. A socket is the core's, or closed, whatever happens."""
        if volume_id not in self._volumes:
            self._close_socket(socket_fd)
        volume = self._open(volume_id)
        answer = await self._send(
            command, volume.index, a=a, b=b, c=c, d=d, flags=flags, data=data, socket_fd=socket_fd
        )
        if answer.rc < 0:
            raise _error(command, volume_id, answer)
        return answer

    # ------------------------------------------------------------------ replicas

    async def format_replica(
        self, volume_id: VolumeId, replica_id: ReplicaId, *, size_bytes: int, block_size: int
    ) -> ReplicaUuid:
        return await self._machine.format(
            volume_id, replica_id, size_bytes=size_bytes, block_size=block_size
        )

    def replicas(self) -> tuple[VolumeId, ...]:
        return self._machine.replicas()

    async def open_replica(self, volume_id: VolumeId) -> OpenReport:
        if volume_id in self._volumes:
            raise LocalProtocolError(f"Volume {volume_id!r} is open already.")
        files = await self._machine.open(volume_id)
        volume = OpenVolume(
            volume_id=volume_id,
            index=self._free_index(),
            replica_id=ReplicaId(files.folder.name),
            uuid=ReplicaUuid(files.fields.blob("uuid").hex()),
            files=files,
            file_system=self._machine.file_system(files),
        )
        self._by_index[volume.index] = volume
        answer = await self._send(
            "open",
            volume.index,
            a=files.superblock_fd,
            b=files.wal_fd,
            c=files.extents_fd,
            d=files.sums_fd,
            flags=1 if files.suspect else 0,
            data=files.superblock
            + struct.pack(
                "<3Q", self._machine.held_bytes(files), files.absences_fd, files.extents_direct_fd
            )
            + files.absences,
        )
        if answer.rc < 0:
            del self._by_index[volume.index]
            files.close()
            if answer.rc == -errno.EBADMSG:
                raise DamagedData(
                    f"The table of reservations of volume {volume_id!r} is not what its superblock says.",
                    hint="Whom it kept out nobody here knows; another replica has it. Rebuild this one.",
                )
            raise StorageError(
                f"The log of volume {volume_id!r} could not be read: {os.strerror(-answer.rc)}."
            )
        self._volumes[volume_id] = volume
        self._statuses = None
        await self._tell_room([volume], self._machine.room_pages(volume.files))
        fields = files.fields
        line, pending = _decode_saved(fields.blob("line")[: fields.number("line_bytes")])
        if line is not None:
            # A crash may have come between the line and the maps that follow from it.
            await self._set_absent(volume, line)
        return OpenReport(
            replica_id=volume.replica_id,
            size_bytes=words_of(answer.payload)[-1],
            block_size=fields.number("block_size"),
            log=decode_summary(words_of(answer.payload), volume.uuid),
            promised_epoch=Epoch(fields.number("promised_epoch")),
            promised_primary=replica_files.replica_text(fields.blob("promised_primary")),
            line=line,
            pending=pending,
            torn_after_lsn=None if answer.a == NONE_U64 else Lsn(answer.a),
            damaged_after_lsn=None if answer.b == NONE_U64 else Lsn(answer.b),
            let_go_to_lsn=Lsn(answer.c) if answer.c else None,
            completed_blocks=words_of(answer.payload)[-2],
            superblock_damaged=files.suspect,
        )

    def _free_index(self) -> int:
        for _ in range(VOLUMES_MAX):
            index = self._next_index
            self._next_index = index % VOLUMES_MAX + 1
            if index not in self._by_index:
                return index
        raise Unavailable(f"A node holds at most {VOLUMES_MAX} replicas.")

    async def close_replica(self, volume_id: VolumeId) -> None:
        volume = self._volumes.pop(volume_id, None)
        if volume is None:
            return
        self._statuses = None
        await self._send("close", volume.index)
        self._by_index.pop(volume.index, None)
        volume.files.close()
        if volume.direct is not None:
            volume.direct.close()

    async def delete_replica(self, volume_id: VolumeId) -> None:
        await self.close_replica(volume_id)
        await self._machine.delete(volume_id)

    async def status(self, volume_id: VolumeId) -> VolumeStatus:
        answer = await self._call("status", volume_id)
        return decode_status(answer.payload, volume_id, self._open(volume_id).uuid)

    async def statuses(self) -> dict[VolumeId, VolumeStatus]:
        answer = await self._send("statuses", 0, a=self._taken)
        if answer.rc < 0:
            raise _error("statuses", VolumeId(""), answer)
        for index, told in decode_statuses(answer.payload):
            volume = self._by_index.get(index)
            if volume is not None:
                volume.status = decode_status(told, volume.volume_id, volume.uuid)
                self._statuses = None
        self._taken = answer.a
        if self._statuses is None:
            self._statuses = {
                volume_id: volume.status
                for volume_id, volume in self._volumes.items()
                if volume.status is not None
            }
        return self._statuses

    async def resize(self, volume_id: VolumeId, size_bytes: int) -> None:
        volume = self._open(volume_id)
        try:
            await self._machine.lengthen(volume.files, size_bytes)
        except OSError as error:
            raise StorageError(
                f"The files of volume {volume_id!r} cannot be made longer: {error.strerror}."
            ) from error
        await self._call("grown", volume_id, a=size_bytes)
        await self._call("resize", volume_id, a=size_bytes)

    async def reservations(self, volume_id: VolumeId) -> tuple[Lsn, bytes | None]:
        answer = await self._call("reservations", volume_id)
        return Lsn(answer.a), answer.payload or None

    async def log_reservations(
        self,
        volume_id: VolumeId,
        expected_lsn: Lsn,
        table: bytes,
        *,
        session_key: int = 0,
        tag: int = 0,
        by_ns: int = 0,
    ) -> Lsn | None:
        answer = await self._call(
            "log_reservations",
            volume_id,
            a=expected_lsn,
            b=session_key,
            c=tag,
            d=by_ns,
            data=table,
        )
        return Lsn(answer.a) if answer.a else None

    async def _lengthen(self, volume: OpenVolume, size_bytes: int) -> None:
        """A resize came from the primary: nothing more is taken from it until the files are as long."""
        while self._volumes.get(volume.volume_id) is volume:
            try:
                await self._machine.lengthen(volume.files, size_bytes)
                await self._call("grown", volume.volume_id, a=size_bytes)
            except (SparrowError, OSError):
                await asyncio.sleep(GROW_AGAIN_S)
                continue
            return

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        assert self._loop is not None, "started"
        task = self._loop.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def set_state(self, volume_id: VolumeId, state: ReplicaState) -> None:
        await self._call("set_state", volume_id, a=STATE_NUMBERS[state])

    # ------------------------------------------------------------------ lines and terms

    async def set_line(
        self, volume_id: VolumeId, line: Line, pending: tuple[ReplicaId, ...]
    ) -> None:
        text = json.dumps(
            {"line": encode_line(line), "pending": list(pending)}, separators=(",", ":")
        )
        await self._call("set_line", volume_id, data=text.encode())
        await self._set_absent(self._open(volume_id), line)

    async def _set_absent(self, volume: OpenVolume, line: Line) -> None:
        """Whom this replica keeps a map of: nobody, unless it is in sync itself and knows what changes."""
        absent = [
            bytes.fromhex(member.uuid)
            for member in line.members
            if member.replica_id not in line.in_sync and member.replica_id != volume.replica_id
        ]
        own = line.member(volume.replica_id)
        if own is None or own.uuid != volume.uuid or volume.replica_id not in line.in_sync:
            absent = []
        await self._call("set_absent", volume.volume_id, data=b"".join(absent[:ABSENCES_MAX]))

    async def fence(self, volume_id: VolumeId, term: Term, primary: ReplicaId) -> FenceReport:
        answer = await self._call(
            "fence",
            volume_id,
            a=term.epoch,
            b=term.start,
            data=replica_files.replica_bytes(primary),
        )
        uuid = self._open(volume_id).uuid
        return decode_fence(
            words_of(answer.payload), uuid, term, promise_ns=answer.a, older_ns=answer.b
        )

    async def begin_term(self, volume_id: VolumeId, epoch: Epoch) -> Term:
        own = self._open(volume_id).replica_id
        answer = await self._call(
            "begin_term", volume_id, a=epoch, data=replica_files.replica_bytes(own)
        )
        return Term(epoch=epoch, start=answer.a)

    async def read_log(self, volume_id: VolumeId, from_lsn: Lsn, *, bytes_max: int) -> bytes:
        return (await self._call("read_log", volume_id, a=from_lsn, b=bytes_max)).payload

    async def append_log(self, volume_id: VolumeId, batches: bytes) -> Lsn:
        return Lsn((await self._call("append_log", volume_id, data=batches)).a)

    async def check_at(self, volume_id: VolumeId, lsn: Lsn) -> int | None:
        answer = await self._call("check_at", volume_id, a=lsn)
        return answer.b if answer.a else None

    async def join(
        self, volume_id: VolumeId, term: Term, primary: LogSummary
    ) -> tuple[JoinOutcome, Lsn, int]:
        answer = await self._call(
            "join",
            volume_id,
            a=term.epoch,
            b=term.start,
            c=primary.last_lsn,
            data=_term_rows(primary),
        )
        return JOIN_OUTCOMES[answer.a], Lsn(answer.b), answer.c

    async def prepare_rebuild(
        self, volume_id: VolumeId, term: Term, primary: LogSummary, changed_from: Lsn | None
    ) -> RebuildPlan:
        offer = NONE_U64 if changed_from is None else changed_from
        answer = await self._call(
            "prepare",
            volume_id,
            a=term.epoch,
            b=term.start,
            c=primary.last_lsn,
            d=primary.oldest_lsn,
            data=struct.pack("<2Q", offer, primary.commit_lsn) + _term_rows(primary),
        )
        kind = RebuildKind(answer.a)
        if kind is RebuildKind.FULL:
            await self._machine.empty(self._open(volume_id).files)
        if kind is not RebuildKind.RESUMED:
            await self._call("prepared", volume_id)
        cursor, from_lsn, base_lsn, patched, pages = words_of(answer.payload)
        return RebuildPlan(
            kind=kind,
            joined_lsn=Lsn(answer.b),
            cursor=cursor,
            from_lsn=Lsn(from_lsn),
            base_lsn=Lsn(base_lsn),
            patched=patched,
            pages=pages,
        )

    async def commit_inherited(self, volume_id: VolumeId) -> Lsn:
        return Lsn((await self._call("commit_inherited", volume_id)).a)

    # ------------------------------------------------------------------ peers

    async def set_membership(self, volume_id: VolumeId, membership: Membership) -> Lsn:
        mask = sum(1 << slot for slot in membership.needed)
        answer = await self._call(
            "set_membership",
            volume_id,
            a=mask,
            b=int(membership.writable),
            c=sum(1 << slot for slot in membership.one_of),
            flags=int(membership.ack_local),
        )
        return Lsn(answer.a)

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
    ) -> None:
        plan = b""
        if rebuild is not None:
            plan = struct.pack(
                "<7Q",
                rebuild.kind,
                rebuild.joined_lsn,
                rebuild.cursor,
                rebuild.from_lsn,
                rebuild.base_lsn,
                rebuild.patched,
                rebuild.pages,
            ) + bytes.fromhex(uuid or "").rjust(16, b"\0")
        await self._call(
            "ship", volume_id, a=slot, b=node_key, c=fd, d=joined_lsn, data=plan, socket_fd=fd
        )

    async def receive(self, volume_id: VolumeId, fd: int, term: Term) -> None:
        await self._call("receive", volume_id, a=fd, b=term.epoch, c=term.start, socket_fd=fd)

    async def drop_peer(self, volume_id: VolumeId, slot: int) -> None:
        await self._call("drop_peer", volume_id, a=slot)

    async def peer_acked(self, volume_id: VolumeId, slot: int, lsn: Lsn) -> None:
        await self._call("peer_acked", volume_id, a=slot, b=lsn)

    async def grant_ask_link(self, node_key: int, fd: int) -> None:
        await self._send("grant_link", 0, a=fd, b=1, c=node_key, socket_fd=fd)

    async def grant_serve_link(self, fd: int) -> None:
        await self._send("grant_link", 0, a=fd, b=0, socket_fd=fd)

    # ------------------------------------------------------------------ gate

    async def open_gate(self, volume_id: VolumeId, *, wait_ms: int) -> None:
        await self._call("open_gate", volume_id, a=max(0, wait_ms))

    async def close_gate(self, volume_id: VolumeId, cause: str) -> None:
        await self._call(
            "close_gate", volume_id, a=GATE_NUMBERS.get(cause, GATE_NUMBERS["command"])
        )

    # ------------------------------------------------------------------ frontends

    async def adopt_session(self, volume_id: VolumeId, fd: int, session: SessionParameters) -> None:
        config = session_config(
            key=session.session_key,
            tsih=session.tsih,
            cid=session.cid,
            exp_cmd_sn=session.exp_cmd_sn,
            stat_sn=session.stat_sn,
            queue_depth=0,
            initiator_recv_bytes_max=session.initiator_recv_bytes_max,
            target_recv_bytes_max=session.target_recv_bytes_max,
            max_burst_bytes=session.max_burst_bytes,
            first_burst_bytes=session.first_burst_bytes,
            max_outstanding_r2t=session.max_outstanding_r2t,
            initial_r2t=session.initial_r2t,
            immediate_data=session.immediate_data,
            header_digest=session.header_digest,
            data_digest=session.data_digest,
            reinstated=session.reinstated,
            nexus=session.nexus,
        )
        self._sessions[session.session_key] = volume_id
        try:
            await self._call(
                "adopt_session", volume_id, a=fd, data=config + session.pending, socket_fd=fd
            )
        except SparrowError:
            self._sessions.pop(session.session_key, None)
            raise

    async def adopt_queue(self, volume_id: VolumeId, fd: int, queue: QueueParameters) -> None:
        config = queue_config(
            key=queue.session_key,
            depth=queue.entries,
            sq_head=queue.sq_head,
            data_align=queue.data_align,
            flow_control=queue.flow_control,
            header_digest=queue.header_digest,
            data_digest=queue.data_digest,
            nexus=queue.nexus,
        )
        self._sessions[queue.session_key] = volume_id
        try:
            await self._call(
                "adopt_queue", volume_id, a=fd, data=config + queue.pending, socket_fd=fd
            )
        except SparrowError:
            self._sessions.pop(queue.session_key, None)
            raise

    async def adopt_nbd(self, volume_id: VolumeId, fd: int, client: NbdParameters) -> None:
        config = nbd_config(
            key=client.session_key,
            structured=client.structured,
            allocation=client.context is not None,
            context=client.context or 0,
        )
        self._sessions[client.session_key] = volume_id
        try:
            await self._call(
                "adopt_nbd", volume_id, a=fd, data=config + client.pending, socket_fd=fd
            )
        except SparrowError:
            self._sessions.pop(client.session_key, None)
            raise

    def answer(
        self, session_key: int, tag: int, *, status: int, sense: bytes, data_in: bytes
    ) -> None:
        self._tell("answer", a=session_key, b=tag, c=status, d=len(sense), data=sense + data_in)

    def answer_raw(self, session_key: int, tag: int, header: bytes, data: bytes) -> None:
        self._tell("answer_raw", a=session_key, b=tag, data=header + data)

    def raise_attention(self, session_key: int, notice: Notice) -> None:
        self._tell("attention", a=session_key, b=ATTENTIONS[notice])

    async def abort_commands(self, session_key: int) -> None:
        await self._send("preempted", 0, a=session_key)

    async def pin_command(self, session_key: int, tag: int) -> bool:
        rc = (await self._send("pin", 0, a=session_key, b=tag)).rc
        if rc == -errno.EBUSY:
            raise LocalProtocolError(f"Command {tag} of session {session_key} is pinned already.")
        return rc == 0

    async def unpin_command(self, session_key: int) -> None:
        await self._send("unpin", 0, a=session_key)

    async def end_session(self, session_key: int, *, leave_ms: int = 0) -> None:
        await self._send("end_session", 0, a=session_key, b=leave_ms)

    async def abort_command(self, session_key: int, command_id: int) -> bool:
        return bool((await self._send("abort_command", 0, a=session_key, b=command_id)).a)

    async def page_states(
        self, volume_id: VolumeId, *, first_page: int, page_count: int
    ) -> tuple[tuple[int, bool], ...]:
        answer = await self._call("page_states", volume_id, a=first_page, b=page_count)
        return tuple((word >> 1, bool(word & 1)) for word in words_of(answer.payload))

    # ------------------------------------------------------------------ verification and repair

    async def page_digests(
        self, volume_id: VolumeId, *, at_lsn: Lsn, first_page: int, page_count: int
    ) -> PageDigests:
        answer = await self._call("digests", volume_id, a=at_lsn, b=first_page, c=page_count)
        outcome = DIGEST_OUTCOMES[answer.a]
        damaged = words_of(answer.payload) if outcome is DigestOutcome.DAMAGED else ()
        return PageDigests(
            outcome=outcome,
            digests=answer.payload if outcome is DigestOutcome.READY else b"",
            commit_lsn=Lsn(answer.b),
            applied_lsn=Lsn(answer.c),
            damaged_pages=damaged,
        )

    async def read_page(
        self, volume_id: VolumeId, page: int, *, at_least_lsn: Lsn
    ) -> tuple[Lsn, bytes]:
        answer = await self._call("read_page", volume_id, a=page, b=at_least_lsn)
        return Lsn(answer.a), answer.payload

    async def repair_page(
        self, volume_id: VolumeId, page: int, as_of_lsn: Lsn, data: bytes | None
    ) -> bool:
        answer = await self._call("repair_page", volume_id, a=page, b=as_of_lsn, data=data or b"")
        return bool(answer.a)

    async def read_sums(self, volume_id: VolumeId, block: int, *, at_lsn: Lsn) -> SumsImage:
        answer = await self._call("read_sums", volume_id, a=block, b=at_lsn)
        return SumsImage(
            outcome=DIGEST_OUTCOMES[answer.a], block=answer.payload, commit_lsn=Lsn(answer.b)
        )

    async def mend_sums(
        self, volume_id: VolumeId, block: int, at_lsn: Lsn, images: tuple[bytes, ...]
    ) -> SumsMended:
        answer = await self._call("mend_sums", volume_id, a=block, b=at_lsn, data=b"".join(images))
        return SumsMended(outcome=DIGEST_OUTCOMES[answer.a], lost_pages=answer.b)

    async def _direct(self, volume_id: VolumeId) -> replica_files.DirectFiles:
        volume = self._open(volume_id)
        if volume.direct is None:
            opened = await asyncio.to_thread(replica_files.open_direct, volume.files.folder)
            if self._volumes.get(volume_id) is not volume:
                opened.close()
                return await self._direct(volume_id)
            # One scrub runs at a time, so nobody else opened them meanwhile.
            volume.direct = opened
        return volume.direct

    async def check_superblock(self, volume_id: VolumeId) -> AtRest:
        files = self._open(volume_id).files
        if await asyncio.to_thread(replica_files.superblock_whole, files.folder):
            if await asyncio.to_thread(replica_files.table_whole, files.folder):
                return AtRest.WHOLE
            await self._call("mend_table", volume_id)
            return AtRest.REWRITTEN
        if (await self.status(volume_id)).log.suspect:
            raise Unavailable(
                f"Volume {volume_id!r} has to rejoin before its superblock is mended."
            )
        await self._call("mend_superblock", volume_id)
        return AtRest.REWRITTEN

    async def check_sums(self, volume_id: VolumeId, block: int) -> SumsCheck:
        direct = await self._direct(volume_id)
        answer = await self._call("check_sums", volume_id, a=block, b=direct.sums_fd)
        return SumsCheck(state=AT_REST[answer.a], lost_pages=answer.b)

    async def check_pages(
        self, volume_id: VolumeId, first_page: int, page_count: int
    ) -> int | None:
        direct = await self._direct(volume_id)
        answer = await self._call(
            "check_pages", volume_id, a=first_page, b=page_count, c=direct.extents_fd
        )
        return None if answer.a else answer.b

    async def check_batch(self, volume_id: VolumeId, lsn: Lsn) -> BatchCheck | None:
        answer = await self._call("check_batch", volume_id, a=lsn)
        if answer.a == 0:
            return None
        return BatchCheck(next_lsn=Lsn(answer.a), state=AT_REST[answer.b], size_bytes=answer.c)

    async def mend_batch(self, volume_id: VolumeId, first_lsn: Lsn, batches: bytes | None) -> bool:
        answer = await self._call("mend_batch", volume_id, a=first_lsn, data=batches or b"")
        return answer.a != 0

    # ------------------------------------------------------------------ room

    async def _watch_room(self) -> None:
        """Tell the core how many pages each file system still takes; acks carry it to the primary.

        Not again when it is as many as before and no volume has said anything new since: the core takes off what it
        uses, and what it uses shows in some volume's LSNs.
        """
        while True:
            await asyncio.sleep(HEADROOM_EVERY_S)
            sharing: dict[int, list[OpenVolume]] = {}
            for volume in self._volumes.values():
                sharing.setdefault(volume.file_system, []).append(volume)
            for file_system, volumes in sharing.items():
                with contextlib.suppress(SparrowError, OSError):
                    await self._look_at_room(file_system, volumes)

    async def _look_at_room(self, file_system: int, volumes: Sequence[OpenVolume]) -> None:
        """What is kept as told is what the core has taken: a telling that failed is tried again at the next look."""
        pages, known = self._machine.room_pages(volumes[0].files), self._statuses
        told = self._told_room.pop(file_system, None)
        if told is None or told[0] != pages or told[1] is not known:
            await self._tell_room(volumes, pages)
        if known is not None:
            self._told_room[file_system] = (pages, known)

    async def _tell_room(self, volumes: Sequence[OpenVolume], pages: int) -> None:
        """Of volumes of one file system; one that was closed meanwhile is passed over."""
        alive = [one for one in volumes if self._volumes.get(one.volume_id) is one]
        if not alive:
            return
        indices = struct.pack(f"<{len(alive)}I", *(one.index for one in alive))
        await self._send("set_headroom", 0, a=pages, data=indices)


def _term_rows(log: LogSummary) -> bytes:
    """A log's terms as commands carry them."""
    return b"".join(
        struct.pack("<4Q", row.term.epoch, row.term.start, row.first_lsn, row.last_lsn)
        for row in log.terms
    )


def _decode_saved(blob: bytes) -> tuple[Line | None, tuple[ReplicaId, ...]]:
    if not blob:
        return None, ()
    saved = json.loads(blob)
    return decode_line(saved["line"]), tuple(ReplicaId(name) for name in saved["pending"])


def _error(command: str, volume_id: VolumeId, answer: Mail) -> SparrowError:
    code = -answer.rc
    if code == errno.ESTALE:
        return StaleEpoch(
            f"Volume {volume_id!r}: {command} refused, epoch {answer.a} is promised here."
        )
    if code == errno.EPROTO and command in ("fence", "begin_term"):
        return EpochConflict(
            f"Volume {volume_id!r}: epoch {answer.a} is promised to another primary here."
        )
    if code == errno.EBUSY and command == "log_reservations":
        return OutcomeUnknown(
            f"Volume {volume_id!r}: a change of reservations is logged and has not committed in time."
        )
    if code == errno.ECANCELED and command == "log_reservations":
        return Withdrawn(f"Volume {volume_id!r}: the command was taken back, or it is too late.")
    if code == errno.ENOENT:
        return NotFound(f"Volume {volume_id!r}: {command} asked for what is not here any more.")
    if code in (errno.EPIPE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC):
        return Unavailable(
            f"Volume {volume_id!r}: {command} cannot be done now ({os.strerror(code)})."
        )
    if code in (errno.EBADMSG, errno.EPROTO):
        return DamagedData(f"Volume {volume_id!r}: {command} met bytes that do not belong there.")
    return StorageError(f"Volume {volume_id!r}: {command} failed: {os.strerror(code)}.")
