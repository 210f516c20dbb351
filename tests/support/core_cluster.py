"""Several native data planes in one process, linked by socket pairs: the node's part is played by the test.

    async with core_cluster(nodes=2) as cluster:
        a, b = cluster.nodes
        term = await cluster.open_term(a, followers=[b])
        client = await cluster.connect(a)
        await client.write(3, b"x" * 4096)

``open_term`` does what a node does at an opening, in its order: promise, fences, joins, links, membership, term start,
grants, gate. Each step is a method of its own, so that a test can leave one out or do it twice. A crash is played by
``snapshot``: the replica's files are copied while the core goes on writing, and another data plane opens the copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeVar, cast
from unittest import mock

from sparrow.authority.types import Line, Lineage, Member, Term
from sparrow.base.ids import EndpointVersion, Epoch, Lsn, NodeId, ReplicaId, VolumeId
from sparrow.dataplane import machine
from sparrow.dataplane.machine import CoreSizes
from sparrow.dataplane.native.plane import NativeDataPlane
from sparrow.dataplane.wal_device import WalDevice
from sparrow.formats.crc32c import crc32c
from sparrow.formats.layout import Record
from sparrow.formats.superblock import SUPERBLOCK, SUPERBLOCK_BYTES
from sparrow.formats.wal import BATCH
from sparrow.ports.dataplane import (
    CoreEvent,
    CoreLeaked,
    DigestOutcome,
    GateOpened,
    JoinOutcome,
    Membership,
    OpenReport,
    PeerLost,
    PeerRebuilt,
    RebuildPlan,
    RecoverySettings,
    SessionParameters,
)
from tests.support import crash_copy
from tests.support.front_bed import (
    COMMAND,
    FINAL,
    RESPONSE,
    WRITES,
    Bed,
    Peer,
    Result,
    write_16,
)
from tests.support.places import disk_directory
from tests.support.waiting import until

E = TypeVar("E", bound=CoreEvent)

PAGE: Final = 4096
#: 64 MiB, so the log has its smallest size, 16 MiB, and wraps soon.
VOLUME_BYTES: Final = 64 << 20
PAGES: Final = VOLUME_BYTES // PAGE
POOL_PAGES: Final = 24576
WAIT_S: Final = 15.0
DEMO: Final = VolumeId("demo")
IN_ONE_PDU: Final = 1 << 20
REBUILDS_MAX: Final = 5


@dataclass(slots=True)
class CoreNode:
    """One data plane with the events it sent."""

    number: int
    pool: Path
    plane: NativeDataPlane
    replica: ReplicaId
    events: list[CoreEvent] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    pages_at_start: int = 0

    @property
    def free_pages(self) -> int:
        return int(self.plane._core.free_pages)

    def files(self, volume: VolumeId = DEMO) -> Path:
        """The directory of its replica."""
        return next((self.pool / "volumes" / volume).iterdir())

    def hear(self, event: CoreEvent) -> None:
        self.events.append(event)
        self.changed.set()

    async def wait(self, kind: type[E] | tuple[type[E], ...], **fields: object) -> E:
        """The oldest event of a kind with these fields; taken, so that the next wait gives a later one."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and all(
                        getattr(event, name) == value for name, value in fields.items()
                    ):
                        self.events.remove(event)
                        return event
                self.changed.clear()
                await self.changed.wait()

    def forget(self, kind: tuple[type[Any], ...], *, slot: int) -> None:
        """Drop events about a peer that came before what is waited for next."""
        self.events[:] = [
            e for e in self.events if not (isinstance(e, kind) and getattr(e, "slot", None) == slot)
        ]

    def heard(self, kind: type[Any]) -> bool:
        return any(isinstance(event, kind) for event in self.events)

    async def commit_lsn(self) -> Lsn:
        return (await self.plane.status(DEMO)).log.commit_lsn


#: UNIT ATTENTION, power on: the session is new.
POWER_ON: Final = (0x06, 0x29, 0x00)


class Client:
    """An initiator after its login, whose blocking calls run on threads."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    async def write(self, page: int, data: bytes) -> Result:
        """From a page, or block, on; returns with the answer, whatever its status is."""
        async with asyncio.timeout(WAIT_S):
            return await asyncio.to_thread(self.peer.write, page, data)

    async def read(self, page: int, count: int = 1) -> Result:
        async with asyncio.timeout(WAIT_S):
            return await asyncio.to_thread(self.peer.read, page, count)

    async def unmap(self, *ranges: tuple[int, int]) -> Result:
        """Pages and how many."""
        async with asyncio.timeout(WAIT_S):
            return await asyncio.to_thread(self.peer.unmap, *ranges)

    async def command(self, cdb: bytes, data: bytes = b"", *, expected: int = 0) -> Result:
        """Any SCSI command."""

        def run() -> Result:
            return self.peer.finish(self.peer.command(cdb, data=data, expected=expected))

        async with asyncio.timeout(WAIT_S):
            return await asyncio.to_thread(run)

    def close(self) -> None:
        self.peer.socket.close()


class Load:
    """Writes in flight on one session, from a thread, until told to stop; knows what was acknowledged.

    Page ``n`` holds ``page_of(n, version)``. ``acked`` is the newest version that was answered, ``sent`` the newest
    that was sent; each page has one write in flight at most. ``rate`` bounds bytes per second.
    """

    def __init__(
        self,
        peer: Peer,
        *,
        pages: Sequence[int],
        depth: int = 8,
        run: int = 1,
        limit: int = 1 << 30,
        rate: int = 1 << 30,
    ) -> None:
        self.acked: dict[int, int] = {}
        self.sent: dict[int, int] = {}
        self.written_bytes = 0
        self.failed: Result | None = None
        self._peer = peer
        self._starts = [page for page in pages if page % run == 0]
        self._depth = depth
        self._run_pages = run
        self._limit = limit
        self._rate = rate
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        flying: dict[int, int] = {}
        turn = version = 0
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while True:
                while len(flying) < self._depth and not self._stopping.is_set():
                    if self.written_bytes >= self._limit:
                        self._stopping.set()
                        break
                    start = self._starts[turn % len(self._starts)]
                    turn += 1
                    if start in flying.values():
                        continue
                    version += 1
                    flying[self._send(start, version)] = start
                if not flying:
                    return
                ahead_s = self.written_bytes / self._rate - (time.monotonic() - began)
                if ahead_s > 0:
                    self._stopping.wait(ahead_s)
                answer = self._peer.receive()
                start = flying.pop(answer.itt)
                assert answer.opcode == RESPONSE
                if answer.status:
                    self.failed = Result(answer.status, b"", 0, 0, answer.sense, [answer])
                    self._stopping.set()
                    continue
                for page in range(start, start + self._run_pages):
                    self.acked[page] = self.sent[page]

    def _send(self, start: int, version: int) -> int:
        data = b"".join(page_of(start + i, version) for i in range(self._run_pages))
        for page in range(start, start + self._run_pages):
            self.sent[page] = version
        self.written_bytes += len(data)
        return self._peer.request(
            COMMAND,
            flags=FINAL | WRITES | 1,
            word20=len(data),
            specific=write_16(start, self._run_pages),
            data=data,
        )

    async def wait_written(self, count: int) -> None:
        """Returns when so many bytes were sent, or the load has ended."""
        await until(
            lambda: self.written_bytes >= count or not self._thread.is_alive(), within_s=WAIT_S
        )

    async def stop(self) -> None:
        """No new writes; returns when every one in flight was answered."""
        self._stopping.set()
        async with asyncio.timeout(WAIT_S):
            await asyncio.to_thread(self._thread.join)

    def seen(self) -> dict[int, int]:
        """What was acknowledged by now."""
        return dict(self.acked)


def page_of(page: int, version: int) -> bytes:
    """The content of one version of one page."""
    return struct.pack("<QQ", page, version) * (PAGE // 16)


def version_of(page: int, data: bytes) -> int:
    """Which version this is, 0 for a hole. Fails when it is none."""
    if not any(data):
        return 0
    version = int.from_bytes(data[8:16], "little")
    assert data == page_of(page, version), f"page {page} holds what nobody wrote"
    return version


class CoreCluster:
    """Nodes, and what the control side does with them."""

    def __init__(
        self,
        place: Path,
        *,
        pool_pages: int,
        share_from: int | None,
        wal_device: WalDevice | None,
        block_size: int = PAGE,
        sizes: CoreSizes | None = None,
        recovery: RecoverySettings | None = None,
    ) -> None:
        self.block_size = block_size
        self.nodes: list[CoreNode] = []
        self.clients: list[Client] = []
        self._place = place
        self._pool_pages = pool_pages
        self._sizes = sizes
        self._recovery = recovery
        self._share_from = share_from
        self._wal_device = wal_device
        self._relays: dict[tuple[int, int], Relay] = {}
        self._next_session = 1

    async def add_node(self, place: Path | None = None) -> CoreNode:
        """A started data plane with an empty pool, in the cluster's directory unless in this one."""
        number = len(self.nodes)
        pool = (place or self._place) / f"n{number}"
        pool.mkdir()
        return await self._start(number, pool)

    async def _start(self, number: int, pool: Path) -> CoreNode:
        plane = NativeDataPlane(
            pool,
            node_id=f"n{number}",
            pool_pages=self._pool_pages,
            sizes=self._sizes,
            recovery=self._recovery,
            share_from=self._share_from,
            wal_device=self._wal_device,
        )
        node = CoreNode(number=number, pool=pool, plane=plane, replica=ReplicaId(f"r{number}"))
        node.pages_at_start = node.free_pages
        plane.start(node.hear)
        self.nodes.append(node)
        return node

    async def make_replica(self, node: CoreNode) -> OpenReport:
        await node.plane.format_replica(
            DEMO, node.replica, size_bytes=VOLUME_BYTES, block_size=self.block_size
        )
        return await node.plane.open_replica(DEMO)

    # opening, step by step

    async def open_term(
        self,
        primary: CoreNode,
        *,
        followers: Sequence[CoreNode] = (),
        epoch: int = 1,
        volume: VolumeId = DEMO,
    ) -> Term:
        """A whole opening; the primary's log must be the longest. Returns when the gate is open."""
        term = await primary.plane.begin_term(volume, Epoch(epoch))
        waits = [0]
        for follower in followers:
            report = await follower.plane.fence(volume, term, primary.replica)
            waits.append(report.promise_ms)
        for follower in followers:
            await self.join_and_ship(primary, follower, term)
        await self.set_needed(primary, followers, volume=volume)
        await primary.plane.commit_inherited(volume)
        for follower in followers:
            await self.grant_link(primary, follower)
        await primary.plane.open_gate(volume, wait_ms=max(waits))
        await primary.wait(GateOpened, term=term)
        return term

    async def join_and_ship(self, primary: CoreNode, follower: CoreNode, term: Term) -> Lsn:
        log = (await primary.plane.status(DEMO)).log
        outcome, lsn, check = await follower.plane.join(DEMO, term, log)
        assert outcome is JoinOutcome.JOINED, outcome
        assert await primary.plane.check_at(DEMO, lsn) == check
        await self.ship(primary, follower, term, joined_lsn=lsn)
        return lsn

    async def ship(
        self,
        primary: CoreNode,
        follower: CoreNode,
        term: Term,
        *,
        joined_lsn: Lsn,
        rebuild: RebuildPlan | None = None,
    ) -> None:
        ours, theirs = tcp_pair()
        await follower.plane.receive(DEMO, theirs, term)
        await primary.plane.ship(
            DEMO,
            follower.number,
            follower.number,
            ours,
            joined_lsn=joined_lsn,
            rebuild=rebuild,
            uuid=(await follower.plane.status(DEMO)).log.uuid,
        )

    async def prepare(self, primary: CoreNode, follower: CoreNode, term: Term) -> RebuildPlan:
        """Let it keep what it may, by what the primary knows of it."""
        await follower.plane.fence(DEMO, term, primary.replica)
        ours = await primary.plane.status(DEMO)
        known = ours.absence((await follower.plane.status(DEMO)).log.uuid)
        changed_from = None if known is None else known.from_lsn
        return await follower.plane.prepare_rebuild(DEMO, term, ours.log, changed_from)

    async def begin_rebuild(self, primary: CoreNode, follower: CoreNode, term: Term) -> RebuildPlan:
        """Prepare it and connect the lanes."""
        plan = await self.prepare(primary, follower, term)
        # What an earlier copy came to says nothing of this one.
        primary.forget((PeerRebuilt, PeerLost), slot=follower.number)
        await self.ship(primary, follower, term, joined_lsn=plan.joined_lsn, rebuild=plan)
        return plan

    async def rebuild(self, primary: CoreNode, follower: CoreNode, term: Term) -> None:
        """Copy and wait until it is whole; begun again when the log it needed was overwritten meanwhile."""
        for _ in range(REBUILDS_MAX):
            await self.begin_rebuild(primary, follower, term)
            ended = await primary.wait((PeerRebuilt, PeerLost), slot=follower.number)
            if isinstance(ended, PeerRebuilt):
                return
            assert ended.cause == "recycled", ended
        raise AssertionError("the log is overwritten faster than it is copied")

    async def set_needed(
        self,
        primary: CoreNode,
        followers: Sequence[CoreNode],
        *,
        writable: bool = True,
        ack_local: bool = False,
        volume: VolumeId = DEMO,
    ) -> Lsn:
        needed = tuple(follower.number for follower in followers)
        return await primary.plane.set_membership(
            volume, Membership(needed=needed, writable=writable, ack_local=ack_local)
        )

    async def grant_link(self, asking: CoreNode, granting: CoreNode) -> None:
        """One grant connection per pair and direction, through a relay that ``hold_grants`` can stop."""
        pair = (asking.number, granting.number)
        if pair in self._relays:
            return
        ours, near = socket.socketpair()
        far, theirs = socket.socketpair()
        for end in (ours, near, far, theirs):
            end.setblocking(False)
        self._relays[pair] = Relay(near, far)
        await granting.plane.grant_serve_link(theirs.detach())
        await asking.plane.grant_ask_link(granting.number, ours.detach())

    def hold_grants(self, asking: CoreNode, granting: CoreNode, *, hold: bool) -> None:
        """Let nothing of their grant connection through, or let it through again."""
        self._relays[asking.number, granting.number].held = hold

    async def set_line(self, in_sync: Sequence[CoreNode], *, epoch: int, version: int) -> Line:
        """Every node with a replica acts on a line; the first of ``in_sync`` is primary."""
        found = []
        for node in self.nodes:
            log = (await node.plane.status(DEMO)).log
            found.append(
                Member(
                    replica_id=node.replica,
                    node_id=NodeId(f"n{node.number}"),
                    uuid=log.uuid,
                    data_addr=f"n{node.number}:1",
                    ctrl_addr=f"n{node.number}:2",
                )
            )
        line = Line(
            volume_id=DEMO,
            lineage=Lineage(epoch=Epoch(epoch), endpoint_version=EndpointVersion(version)),
            primary=in_sync[0].replica,
            members=tuple(found),
            in_sync=tuple(sorted(node.replica for node in in_sync)),
            size_bytes=VOLUME_BYTES,
            block_size=PAGE,
            replication_factor=len(found),
            min_in_sync=1,
            master_generation=1,
            write_seq=epoch * 100 + version,
        )
        for node in self.nodes:
            await node.plane.set_line(DEMO, line, ())
        return line

    # clients

    async def connect(
        self, node: CoreNode, volume: VolumeId = DEMO, *, nexus: bytes = b""
    ) -> Client:
        """A session in full-feature phase on that node."""
        ours, theirs = socket.socketpair()
        ours.settimeout(WAIT_S)
        theirs.setblocking(False)
        key, self._next_session = self._next_session, self._next_session + 1
        client = Client(
            Peer(
                cast(Bed, SimpleNamespace(block_size=self.block_size)),
                ours,
                key,
                {"first_burst": IN_ONE_PDU},
            )
        )
        self.clients.append(client)
        await node.plane.adopt_session(
            volume,
            theirs.detach(),
            SessionParameters(
                session_key=key,
                tsih=key,
                cid=0,
                exp_cmd_sn=1,
                stat_sn=1,
                initiator_recv_bytes_max=IN_ONE_PDU,
                target_recv_bytes_max=IN_ONE_PDU,
                max_burst_bytes=IN_ONE_PDU,
                first_burst_bytes=IN_ONE_PDU,
                max_outstanding_r2t=1,
                initial_r2t=False,
                immediate_data=True,
                header_digest=False,
                data_digest=False,
                reinstated=False,
                pending=b"",
                nexus=nexus,
            ),
        )
        # Whoever begins a session is told so, with the first command, and asks again.
        assert (await client.command(bytes(6))).sense == POWER_ON
        return client

    async def load(self, node: CoreNode, **options: Any) -> Load:
        """A session that writes until told to stop."""
        return Load((await self.connect(node)).peer, **options)

    # looking

    async def caught_up(self, primary: CoreNode, follower: CoreNode) -> Lsn:
        """Wait until the follower has and knows to be committed what the primary has committed; gives that LSN."""
        lsn = await primary.commit_lsn()

        async def heard() -> bool:
            return await follower.commit_lsn() >= lsn

        await until(heard, within_s=WAIT_S, every_s=0.005)
        return lsn

    async def digests(self, node: CoreNode, lsn: Lsn, volume: VolumeId = DEMO) -> bytes:
        """Of the whole volume as of one LSN."""
        parts = []
        for first in range(0, PAGES, 256):
            part = await node.plane.page_digests(
                volume, at_lsn=lsn, first_page=first, page_count=256
            )
            assert part.outcome is DigestOutcome.READY, (part.outcome, part.damaged_pages)
            parts.append(part.digests)
        return b"".join(parts)

    async def assert_same(self, primary: CoreNode, follower: CoreNode) -> None:
        """Both hold the same pages. Nothing is being written."""
        lsn = await self.caught_up(primary, follower)
        assert await self.digests(primary, lsn) == await self.digests(follower, lsn)

    async def read_page(
        self, node: CoreNode, page: int, *, at_least: int = 0, volume: VolumeId = DEMO
    ) -> bytes:
        return (await node.plane.read_page(volume, page, at_least_lsn=Lsn(at_least)))[1]

    # ends

    async def snapshot(
        self, node: CoreNode, to: CoreNode, name: str, *, volume: VolumeId = DEMO
    ) -> VolumeId:
        """What a crash at this moment could leave, copied into another pool while the core goes on."""
        target = to.pool / "volumes" / name / node.replica
        places = (
            SUPERBLOCK.offset_of("tail_offset"),
            SUPERBLOCK.offset_of("tail_lsn"),
            BATCH.offset_of("first_lsn"),
        )
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            "-IS",
            crash_copy.__file__,
            node.files(volume),
            target,
            *map(str, places),
        )
        try:
            async with asyncio.timeout(WAIT_S):
                assert await program.wait() == 0
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
        return VolumeId(name)

    async def stop_node(self, node: CoreNode) -> None:
        """Stop its data plane. Everything it took must be put back."""
        for relay in self._relays.values():
            relay.held = False
        await node.plane.stop()
        leaks = [event.held for event in node.events if isinstance(event, CoreLeaked)]
        assert leaks == [], f"{node.replica} stopped with something in its hands"

    async def close(self) -> None:
        for client in self.clients:
            client.close()
        async with asyncio.timeout(4 * WAIT_S):
            for node in self.nodes:
                await self.stop_node(node)
        for relay in self._relays.values():
            relay.close()


class Relay:
    """Carries bytes between two sockets while it is not held; what comes meanwhile waits."""

    def __init__(self, one: socket.socket, other: socket.socket) -> None:
        self._held = False
        self._loop = asyncio.get_running_loop()
        self._pairs = ((one, other), (other, one))
        self._closed = False
        self._listen()

    @property
    def held(self) -> bool:
        return self._held

    @held.setter
    def held(self, held: bool) -> None:
        if held == self._held or self._closed:
            return
        self._held = held
        if held:
            for source, _ in self._pairs:
                self._loop.remove_reader(source)
        else:
            self._listen()

    def _listen(self) -> None:
        for source, target in self._pairs:
            self._loop.add_reader(source, self._carry, source, target)

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            data = source.recv(1 << 16)
            if data:
                # A grant is far smaller than a socket's buffer.
                target.sendall(data)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for source, _ in self._pairs:
            self._loop.remove_reader(source)
            source.close()


def tcp_pair() -> tuple[int, int]:
    """Two descriptors of one TCP connection, non-blocking, owned by the caller."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    for end in (one, other):
        end.setblocking(False)
    return one.detach(), other.detach()


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch in a log file."""

    offset: int
    size: int
    fields: Record

    @property
    def first_lsn(self) -> int:
        return self.fields.number("first_lsn")

    @property
    def last_lsn(self) -> int:
        return self.first_lsn + self.fields.number("entry_count") - 1


def batches(files: Path) -> list[Batch]:
    """The batches of a closed replica's log, oldest first, found as recovery finds them."""
    log = (files / "wal").read_bytes()
    head = superblock(files)
    at, lsn, parent = head.number("tail_offset"), head.number("tail_lsn"), head.number("tail_check")
    found: list[Batch] = []
    while True:
        for offset in dict.fromkeys((at, 0)):
            fields = BATCH.unpack(log[offset : offset + BATCH.size].ljust(BATCH.size, b"\0"))
            if fields.number("first_lsn") == lsn + 1 and fields.number("parent") == parent:
                size = (fields.number("header_blocks") + fields.number("page_count")) * PAGE
                found.append(Batch(offset=offset, size=size, fields=fields))
                at, lsn, parent = offset + size, found[-1].last_lsn, fields.number("check")
                break
        else:
            return found


def superblock(files: Path) -> Record:
    """Copy 0."""
    return SUPERBLOCK.unpack((files / "superblock").read_bytes()[:SUPERBLOCK_BYTES])


def flip_bit(file: Path, offset: int) -> None:
    """Damage one byte on the disk, behind everybody's back and cache."""
    with file.open("r+b") as opened:
        (byte,) = os.pread(opened.fileno(), 1, offset)
        os.pwrite(opened.fileno(), bytes([byte ^ 0x10]), offset)
        os.fsync(opened.fileno())


def reworded(batch: bytes, offset: int, value: int) -> bytes:
    """The batch with another number (u64) in its header, and the checksum that goes with it."""
    head = bytearray(batch[:PAGE])
    struct.pack_into("<Q", head, offset, value)
    struct.pack_into("<I", head, BATCH.offset_of("check"), 0)
    struct.pack_into("<I", head, BATCH.offset_of("check"), crc32c(bytes(head)))
    return bytes(head) + batch[PAGE:]


def copy_replica(source: Path, pool: Path, name: str) -> VolumeId:
    """A replica's files under another volume's name; what they hold names the volume they are of."""
    shutil.copytree(source, pool / "volumes" / name / source.name)
    return VolumeId(name)


def copy_log(source: Path, pool: Path, copy: VolumeId) -> Path:
    """The log alone once more into a copy made before: a crash before anything else was written. Answers its folder."""
    files = pool / "volumes" / copy / source.name
    shutil.copyfile(source / "wal", files / "wal")
    return files


@contextmanager
def no_hold_off() -> Iterator[None]:
    """Data planes that begin as if no process had granted anything here before."""
    with mock.patch.object(machine, "HOLD_OFF_S", 0.0):
        yield


def open_files() -> dict[int, str]:
    """Every descriptor of this process and what it is of."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found[int(path.name)] = str(path.readlink())
    return found


@contextmanager
def no_open_file_left() -> Iterator[None]:
    """What is opened inside is closed inside; a failure inside is told instead."""
    before = open_files()
    yield
    left = {number: name for number, name in open_files().items() if before.get(number) != name}
    assert left == {}, "descriptors were left open"


@asynccontextmanager
async def core_cluster(
    *,
    nodes: int,
    pool_pages: int = POOL_PAGES,
    block_size: int = PAGE,
    blank: bool = False,
    share_from: int | None = None,
    wal_device: WalDevice | None = None,
    sizes: CoreSizes | None = None,
    recovery: RecoverySettings | None = None,
) -> AsyncIterator[CoreCluster]:
    """Data planes, each with an open blank replica unless ``blank``."""
    with disk_directory("cores") as place, no_hold_off(), no_open_file_left():
        cluster = CoreCluster(
            place,
            pool_pages=pool_pages,
            share_from=share_from,
            wal_device=wal_device,
            block_size=block_size,
            sizes=sizes,
            recovery=recovery,
        )
        try:
            for _ in range(nodes):
                node = await cluster.add_node()
                if not blank:
                    await cluster.make_replica(node)
            yield cluster
        finally:
            await cluster.close()
