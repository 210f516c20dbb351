"""A stage on compiled cores: what a test does to one disk, one connection or one client of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from sparrow.authority.types import AckPolicy
from sparrow.base.constants import PAGE_BYTES
from sparrow.base.ids import Lsn, NodeId
from sparrow.dataplane.events import Mail
from sparrow.dataplane.virtual import SIZES, VirtualReplica
from sparrow.formats.layout import Record
from sparrow.formats.superblock import SUPERBLOCK, SUPERBLOCK_BYTES
from sparrow.frontends.nvme.subsystem import AnaState
from sparrow.node.nvme.views import ana_state
from sparrow.ports.dataplane import VolumeStatus
from sparrow.rpc.messages import ReadPageAnswer, ReadPageRequest
from sparrow.sim.clock import unheard
from sparrow.sim.compiled.checkers import CompiledCheckers
from sparrow.sim.compiled.client import RUN_MAX, BlockClient
from sparrow.sim.compiled.content import page_of
from sparrow.sim.compiled.faults import batches
from sparrow.sim.compiled.fencing import RECORDS
from sparrow.sim.compiled.plane import CompiledDataPlane, Inside
from sparrow.sim.compiled.world import CompiledWorld
from sparrow.sim.network import Network
from sparrow.sim.world import SIZE_BYTES
from tests.support.stage import Stage, V

SECOND_NS = 1_000_000_000


class StagedWorld(CompiledWorld):
    """Without read caches: what a schedule does to a disk is met by the next read."""

    sizes = SIZES


class CompiledStage(Stage):
    """Its world is a ``CompiledWorld``."""

    def __init__(
        self,
        rf: int = 2,
        min_in_sync: int = 1,
        seed: int = 1,
        nodes: int | None = None,
        *,
        ack: AckPolicy = AckPolicy.SYNC,
        kind: type[CompiledWorld] = StagedWorld,
    ) -> None:
        super().__init__(rf, min_in_sync, seed, nodes, ack=ack, kind=kind)

    @property
    def cluster(self) -> CompiledWorld:
        assert isinstance(self.world, CompiledWorld)
        return self.world

    @property
    def checkers(self) -> CompiledCheckers:
        assert isinstance(self.world.checkers, CompiledCheckers)
        return self.world.checkers

    @property
    def client(self) -> BlockClient:
        return self.cluster.block_clients()[V]

    def plane(self, name: NodeId) -> CompiledDataPlane:
        return self.cluster.plane_of(self.node(name))

    def look(self, name: NodeId) -> Inside:
        """What the core of a node holds of the volume now."""
        inside = self.plane(name).look(V)
        assert inside is not None, f"{name} has the volume not open"
        return inside

    def status(self, name: NodeId) -> VolumeStatus:
        """What the core of a node tells its own process now."""
        answer = self.node(name).process.spawn(self.plane(name).status(V), "status")
        self.until(answer.done)
        found: VolumeStatus = answer.result()
        return found

    def shown(self, name: NodeId) -> AnaState:
        """What a node tells hosts of its path now."""
        return ana_state(self.node(name).replicas.get(V), self.status(name))

    # ------------------------------------------------------------ disks

    def host(self, name: NodeId) -> int:
        return self.cluster.hosts[name]

    def slow_disk(self, name: NodeId, seconds: float) -> None:
        """Every operation of this disk takes up to so long."""
        self.cluster.room.faults(self.host(name), slow=1_000_000, slow_ns=int(seconds * SECOND_NS))

    def crowd(self, name: NodeId, left: int) -> None:
        """Somebody else's files leave so many pages of a node's pool."""
        room, host = self.cluster.room, self.host(name)
        pages = room.held(host) + left
        room.faults(host, capacity=pages)
        self.cluster.virtual_pool(name).capacity = pages

    def works_again(self, name: NodeId) -> None:
        self.cluster.room.faults(self.host(name))
        self.cluster.virtual_pool(name).capacity = None

    def files(self, name: NodeId) -> VirtualReplica:
        return self.cluster.virtual_pool(name).files[V]

    def superblock(self, name: NodeId, copy: int, *, platter: bool = False) -> Record:
        """One copy, as it lies there; ``platter``: as a loss of power would leave it."""
        fd = self.files(name).superblock_fd
        block = self.cluster.room.pread(
            fd, copy * SUPERBLOCK_BYTES, SUPERBLOCK_BYTES, platter=platter
        )
        return SUPERBLOCK.unpack(block)

    def rot(self, fd: int, at: int) -> None:
        """One bit of a file."""
        (byte,) = self.cluster.room.pread(fd, at, 1)
        self.cluster.room.pwrite(fd, at, bytes([byte ^ 1]))

    def rot_batch(self, name: NodeId, at: int) -> None:
        """One bit of one batch of a log, counted as in a list: -1 is the newest."""
        files = self.files(name)
        offset, _size = batches(self.cluster.room, files)[at]
        self.rot(files.wal_fd, offset + PAGE_BYTES // 2)

    def lose_power(self, *names: NodeId, strike: str = "lose") -> None:
        """Machines stop at one moment, and what was not flushed is gone, or torn."""
        for name in names:
            self.cluster.kill_node(name, silently=True, strike=strike)

    # ------------------------------------------------------------ connections

    def cut_cores(self, source: NodeId, target: NodeId) -> None:
        """Nothing goes from one core to the other; their control sides go on talking."""
        self.cluster.room.block(self.host(source), self.host(target))

    def open_cores(self, source: NodeId, target: NodeId) -> None:
        self.cluster.room.open(self.host(source), self.host(target))

    def stall_feed(self, name: NodeId, *, stalled: bool = True) -> None:
        """A node reads nothing more of what it is fed, or goes on: on that one connection."""
        self.cluster.room.stall(self.plane(name).fed_by[V], stalled)

    def cut_control(self, a: NodeId, b: NodeId) -> None:
        """The control sides hear nothing of each other; connections of the cores go on."""
        Network.block(self.world.network, a, b)
        Network.block(self.world.network, b, a)

    # ------------------------------------------------------------ a client of one's own

    def write(self, name: NodeId, page: int) -> tuple[int, asyncio.Future[Mail]]:
        """The value of a write that begins now, and its answer to come."""
        answer = self.client.write(self.plane(name), page, 1)
        assert answer is not None
        return max(self.client.runs), answer

    def turn(self, name: NodeId) -> None:
        """A core has its turn now: a write that is handed to it wakes nobody, and may share a batch with later ones."""
        self.status(name)

    def written(self, name: NodeId, page: int) -> int:
        """The same, answered well."""
        value, answer = self.write(name, page)
        self.until(answer.done)
        assert answer.result().rc == 0
        return value

    def log_went_round(self, name: NodeId) -> bool:
        """Whether the beginning of a log is gone."""
        plane = self.plane(name)
        return plane.direct.tail_lsn(plane._volumes[V].index) > 0

    def fill_log(self, name: NodeId) -> None:
        """Write until all that the log holds now is gone, so that who has no more than that is copied whole."""
        plane = self.plane(name)
        head = self.look(name).head
        while plane.direct.tail_lsn(plane._volumes[V].index) <= head:
            answers = [self.client.write(plane, first, RUN_MAX) for first in (0, 0)]
            self.until(lambda answers=answers: all(one is None or one.done() for one in answers))

    def fill_volume(self, name: NodeId) -> None:
        """Write every page that clients leave alone, so that a copy of the volume takes its time."""
        plane = self.plane(name)
        for first in range(0, SIZE_BYTES // PAGE_BYTES, RUN_MAX):
            run = range(first, first + RUN_MAX)
            if not self.client.pages.keys() & set(run):
                data = b"".join(page_of(page, 1) for page in run)
                # One of the two may be kept out by the other's reservation.
                answers = [
                    plane.submit(V, "write", first, RUN_MAX, data, nexus=one) for one in RECORDS
                ]
                self.until(lambda answers=answers: all(one.done() for one in answers))
                assert 0 in [one.result().rc for one in answers if one is not None]

    def last_read(self, name: NodeId, page: int) -> int:
        """What a read of this page gives."""
        answer = self.client.read(self.plane(name), page, 1)
        assert answer is not None
        self.until(answer.done)
        assert answer.result().rc == 0
        return self.client.pages[page].last_read

    def write_half(
        self, name: NodeId, page: int, *, upper: bool
    ) -> tuple[int, asyncio.Future[Mail]]:
        """The value of a write of half a page that begins now, and its answer to come."""
        answer = self.client.write_half(self.plane(name), page, upper=upper)
        assert answer is not None
        return max(self.client.runs), answer

    def halves_read(self, name: NodeId, page: int) -> tuple[int, int]:
        """What a read gives of the lower and the upper half of a page."""
        lower = self.last_read(name, page)
        return lower, self.client.upper[page].last_read

    def asked_for_page(self, asker: NodeId, peer: NodeId, page: int) -> ReadPageAnswer:
        """What one node's process is answered now when it asks another one for a page."""
        node = self.node(asker)
        member = next(one for one in self.line.members if one.node_id == peer)
        request = ReadPageRequest(
            volume_id=V, at_least_lsn=Lsn(self.look(asker).applied), page=page
        )
        call = node._around.calls.read_page(member.ctrl_addr, request, timeout_s=5.0)
        answer = node.process.spawn(call, "read_page")
        self.until(answer.done)
        found: ReadPageAnswer = answer.result()
        return found

    # ------------------------------------------------------------ the end

    def ends_well(self) -> None:
        """Everybody runs, all is well, and every in-sync replica holds the same, which is what clients were told."""
        for name in self.world.names:
            self.works_again(name)
            self.world.start_node(name)
        self.until(self.world.all_healthy, seconds=60)
        self.world.last_look()


@contextmanager
def compiled_stage(
    rf: int = 2,
    min_in_sync: int = 1,
    seed: int = 1,
    nodes: int | None = None,
    *,
    ack: AckPolicy = AckPolicy.SYNC,
    kind: type[CompiledWorld] = StagedWorld,
) -> Iterator[CompiledStage]:
    """A stage, taken down at the end."""
    built = CompiledStage(rf, min_in_sync, seed, nodes, ack=ack, kind=kind)
    try:
        yield built
    finally:
        with unheard():
            built.world.close()
            del built.world
