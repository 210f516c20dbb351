"""Several native data planes in one process, linked by socket pairs: the node's part is played by the test.

    async with core_cluster(nodes=2) as cluster:
        a, b = cluster.nodes
        term = await cluster.open_term(a, followers=[b])
        client = await cluster.connect(a)
        await client.write(3, b"x" * 4096)

``open_term`` does what a node does at an opening, in its order: promise, fences, joins, links, membership, term start,
grants, gate. Each step is a method of its own, so that a test can leave one out or do it twice. A crash is played by
``snapshot``: the replica's files are copied while the core goes on writing, and another data plane opens the copy.
Clients and loads are those of ``core_client.py``; ``core_files.py`` reads and damages the files of a closed replica.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeVar, cast
from unittest import mock

from sparrow.authority.types import AckPolicy, Line, Lineage, Member, Term
from sparrow.base.constants import REPAIR_S
from sparrow.base.ids import EndpointVersion, Epoch, Lsn, NodeId, ReplicaId, VolumeId
from sparrow.dataplane import machine
from sparrow.dataplane.machine import CoreSizes
from sparrow.dataplane.native.plane import NativeDataPlane
from sparrow.dataplane.wal_device import WalDevice
from sparrow.formats.superblock import SUPERBLOCK
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
from tests.support.core_client import NO_END, POWER_ON, WAIT_S, Client, Load
from tests.support.descriptors import no_open_file_left, tcp_pair
from tests.support.front_bed import Bed, Peer
from tests.support.grant_relays import GrantRelays
from tests.support.places import disk_directory
from tests.support.waiting import until

E = TypeVar("E", bound=CoreEvent)

PAGE: Final = 4096
#: 64 MiB, so the log has its smallest size, 16 MiB, and wraps soon.
VOLUME_BYTES: Final = 64 << 20
PAGES: Final = VOLUME_BYTES // PAGE
POOL_PAGES: Final = 24576
DEMO: Final = VolumeId("demo")
IN_ONE_PDU: Final = 1 << 20
REBUILDS_MAX: Final = 5
#: Of a log of 16 MiB, what a peer may be behind and is still fed from it.
REACH_BYTES: Final = 4 << 20
#: Half of it.
COPY_BYTES: Final = 8 << 20
LOOK_S: Final = 0.005
#: A busy machine does not stand still for that long less a quarter, after which grants are renewed. What is answered
#: while the gate is shut is the path error, whatever became of it.
CALM_GRANT_S: Final = 3.0
#: Longer than any client of these tests waits.
LONG_HOLD_S: Final = 90.0


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


class CoreCluster:
    """Nodes, and what the control side does with them."""

    def __init__(
        self,
        place: Path,
        *,
        pool_pages: int,
        share_from: int | None,
        wal_device: WalDevice | None,
        flush_file: Path | None = None,
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
        self._flush_file = flush_file
        self._grants = GrantRelays()
        self._next_session = 1

    async def add_node(
        self, place: Path | None = None, *, sizes: CoreSizes | None = None
    ) -> CoreNode:
        """A started data plane with an empty pool, in the cluster's directory of its sizes, unless given others."""
        number = len(self.nodes)
        pool = (place or self._place) / f"n{number}"
        pool.mkdir()
        return await self._start(number, pool, sizes or self._sizes)

    async def _start(self, number: int, pool: Path, sizes: CoreSizes | None) -> CoreNode:
        plane = NativeDataPlane(
            pool,
            node_id=f"n{number}",
            pool_pages=self._pool_pages,
            sizes=sizes,
            recovery=self._recovery,
            share_from=self._share_from,
            wal_device=self._wal_device,
            flush_file=self._flush_file,
        )
        node = CoreNode(number=number, pool=pool, plane=plane, replica=ReplicaId(f"r{number}"))
        node.pages_at_start = node.free_pages

        def hear(event: CoreEvent) -> None:
            node.hear(event)
            self._grants.heard(number, event)

        self._grants.add(number, plane)
        plane.start(hear)
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

    @asynccontextmanager
    async def in_reach(self, primary: CoreNode, peer: CoreNode, load: Load) -> AsyncIterator[None]:
        """A load goes on as fast as this peer is fed, so that the log has all it lacks, whatever of both is slow.

        Every write of the load is one entry, and hardly anything else is written meanwhile.
        """
        log = (await primary.plane.status(DEMO)).log
        before = log.last_lsn - load.written_bytes // load.run_bytes

        async def follow() -> None:
            while True:
                peers = (await primary.plane.status(DEMO)).peers
                fed = max((one.shipped_lsn for one in peers if one.slot == peer.number), default=0)
                load.allow(max(0, fed - before) * load.run_bytes + REACH_BYTES)
                await asyncio.sleep(LOOK_S)

        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            following.cancel()
            load.allow(NO_END)

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
        """One grant connection per pair and direction, which ``hold_grants`` can stop."""
        await self._grants.link((asking.number, granting.number))

    def hold_grants(self, asking: CoreNode, granting: CoreNode, *, hold: bool) -> None:
        """Let nothing of their grant connection through, or let it through again."""
        self._grants.hold((asking.number, granting.number), hold=hold)

    async def set_line(
        self,
        in_sync: Sequence[CoreNode],
        *,
        epoch: int,
        version: int,
        ack: AckPolicy = AckPolicy.SYNC,
    ) -> Line:
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
            ack=ack,
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
        self,
        node: CoreNode,
        to: CoreNode,
        name: str,
        *,
        volume: VolumeId = DEMO,
        beside: Sequence[Load] = (),
    ) -> VolumeId:
        """What a crash at this moment could leave, copied into another pool while the core goes on.

        A copy is begun again when its beginning was overwritten, which a slow one always is: ``beside`` it loads write
        half of the log at most.
        """
        for load in beside:
            load.allow(load.written_bytes + COPY_BYTES)
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
            for load in beside:
                load.allow(NO_END)
        return VolumeId(name)

    async def stop_node(self, node: CoreNode) -> None:
        """Stop its data plane. Everything it took must be put back."""
        await self._grants.leave(node.number)
        await node.plane.stop()
        leaks = [event.held for event in node.events if isinstance(event, CoreLeaked)]
        assert leaks == [], f"{node.replica} stopped with something in its hands"

    async def close(self) -> None:
        for client in self.clients:
            client.close()
        async with asyncio.timeout(4 * WAIT_S):
            for node in self.nodes:
                await self.stop_node(node)
        self._grants.close()


@contextmanager
def no_hold_off() -> Iterator[None]:
    """Data planes that begin as if no process had granted anything here before."""
    with mock.patch.object(machine, "HOLD_OFF_S", 0.0):
        yield


@contextmanager
def grants_of(seconds: float) -> Iterator[None]:
    """Data planes whose grants run so long."""
    with mock.patch.object(machine, "GRANT_S", seconds):
        yield


@contextmanager
def held_for(seconds: float) -> Iterator[None]:
    """Data planes in which a command waits so long for what may come back."""
    with mock.patch.object(machine, "FENCE_HOLD_S", seconds):
        yield


@contextmanager
def repairs_within(seconds: float) -> Iterator[None]:
    """Data planes in which what meets damage waits so long for a repair."""
    with mock.patch.object(machine, "REPAIR_S", seconds):
        yield


@asynccontextmanager
async def core_cluster(
    *,
    nodes: int,
    pool_pages: int = POOL_PAGES,
    block_size: int = PAGE,
    blank: bool = False,
    share_from: int | None = None,
    wal_device: WalDevice | None = None,
    flush_file: Path | None = None,
    sizes: CoreSizes | None = None,
    recovery: RecoverySettings | None = None,
    grant_s: float = CALM_GRANT_S,
    hold_s: float = LONG_HOLD_S,
    repair_s: float = REPAIR_S,
) -> AsyncIterator[CoreCluster]:
    """Data planes, each with an open blank replica unless ``blank``.

    Grants run longer than a busy machine stands still, so that no gate closes unless a test wants it; so does what
    waits for a repair where a test says so. Should a gate close all the same, commands are held, unless ``hold_s`` is
    what nodes have (``FENCE_HOLD_S``): only for tests of what comes after the hold.
    """
    with (
        disk_directory("cores") as place,
        no_hold_off(),
        grants_of(grant_s),
        held_for(hold_s),
        repairs_within(repair_s),
        no_open_file_left(),
    ):
        cluster = CoreCluster(
            place,
            pool_pages=pool_pages,
            share_from=share_from,
            wal_device=wal_device,
            flush_file=flush_file,
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
