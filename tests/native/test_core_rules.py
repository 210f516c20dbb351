"""Rules of the data path one by one, each with the other side of a link, or a disk, played by hand.

Most of them hold up no ordinary run: they matter when something is late, lost, foreign or damaged. Planted faults
(``make mutants-data``) show that each of these tests fails when its rule is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sparrow.authority.types import Term
from sparrow.base.errors import SparrowError
from sparrow.base.ids import Epoch, Lsn, ReplicaId
from sparrow.formats.links import (
    SHIP_ACK,
    SHIP_FRAME,
    VERDICT_GRANTED,
    VERDICT_NEWER,
    VERDICT_NOT_PROMISED,
)
from sparrow.formats.superblock import SUPERBLOCK, SUPERBLOCK_BYTES
from sparrow.formats.wal import BATCH, ENTRY
from sparrow.ports.dataplane import (
    DiskFailed,
    GateClosed,
    GateOpened,
    GrantLinkLost,
    Membership,
    PeerLost,
    PeerRebuilt,
    PrimaryLost,
    RebuildKind,
    RebuildPlan,
    SessionEnded,
)
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, PAGE, PAGES, CoreCluster, CoreNode, core_cluster
from tests.support.core_files import batches, reworded, superblock
from tests.support.grant_peer import GrantPeer
from tests.support.needs import needs_program, needs_root
from tests.support.places import disk_directory, small_file_system
from tests.support.ship_peer import ack, commit_frame, link
from tests.support.waiting import until

OTHER = ReplicaId("r9")
#: Slot and node key of a peer that a test plays.
PEER = 5
PATH_ERROR = (0x02, 0x04, 0x0A)
#: UNIT ATTENTION, asymmetric access state changed: told once, before what the new state has to say.
ACCESS_CHANGED = (0x06, 0x2A, 0x06)
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
#: Long enough for anything that wrongly happens at once.
MOMENT_S = 0.2


async def alone(cluster: CoreCluster, node: CoreNode) -> Term:
    """Primary by itself, with an open gate."""
    return await cluster.open_term(node)


async def needs_peer(node: CoreNode) -> None:
    await node.plane.set_membership(DEMO, Membership(needed=(PEER,), writable=True))


# ---------------------------------------------------------------- commit and views


@asynccontextmanager
async def frozen(path: Path) -> AsyncIterator[None]:
    """Writes to this file system wait."""
    fd = os.open(path, os.O_RDONLY)
    try:
        await asyncio.to_thread(fcntl.ioctl, fd, FIFREEZE, 0)
        try:
            yield
        finally:
            await asyncio.to_thread(fcntl.ioctl, fd, FITHAW, 0)
    finally:
        os.close(fd)


@pytest.fixture
def place() -> Iterator[Path]:
    with disk_directory("rules") as path:
        yield path


@needs_root()
@needs_program("mkfs.ext4")
@pytest.mark.parametrize("ack_local", [False, True], ids=["sync", "local"])
async def test_a_write_is_acknowledged_when_the_own_disk_has_it(
    place: Path, ack_local: bool
) -> None:
    """The follower has it already; the primary's own disk is slow. So it is under every policy."""
    with small_file_system(place, "slow", 160 << 20) as mount:
        async with core_cluster(nodes=0) as cluster:
            primary = await cluster._start(0, mount)
            follower = await cluster.add_node()
            for node in (primary, follower):
                await cluster.make_replica(node)
            await cluster.open_term(primary, followers=[follower])
            await cluster.set_needed(primary, [follower], ack_local=ack_local)
            client = await cluster.connect(primary)
            assert (await client.write(1, page_of(1, 1))).status == 0
            await cluster.caught_up(primary, follower)
            had = (await follower.plane.status(DEMO)).log.durable_lsn

            async def follower_has_it() -> bool:
                return (await follower.plane.status(DEMO)).log.durable_lsn > had

            async with frozen(mount):
                writing = asyncio.create_task(client.write(1, page_of(1, 2)))
                await until(follower_has_it)
                await asyncio.sleep(MOMENT_S)
                assert not writing.done()
            assert (await writing).status == 0


async def test_a_log_write_that_fails_is_not_acknowledged() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        client = await cluster.connect(node)
        # From here on the log's descriptor cannot be written to.
        wal = os.open(node.files() / "wal", os.O_RDONLY)
        os.dup2(wal, node.plane._volumes[DEMO].files.wal_fd)
        os.close(wal)
        assert (await client.write(1, page_of(1, 1))).status != 0
        assert (await node.wait(DiskFailed)).file == "wal"


async def test_a_read_never_sees_what_is_not_committed() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        client, other = await cluster.connect(node), await cluster.connect(node)
        assert (await client.write(1, page_of(1, 1))).status == 0
        grants = await granted(node)
        await needs_peer(node)
        with held_open(grants):
            await node.wait(GateOpened)
            head = (await node.plane.status(DEMO)).log.last_lsn
            writing = asyncio.create_task(client.write(1, page_of(1, 2)))

            async def logged() -> bool:
                return (await node.plane.status(DEMO)).log.last_lsn > head

            await until(logged)
            assert (await other.read(1)).data == page_of(1, 1)
            assert not writing.done()
        await writing


async def test_nothing_inherited_commits_before_the_term_has_begun_in_the_log() -> None:
    """Two of three have it, and the third may have the start of a term that is newer, and be adopted after all."""
    async with core_cluster(nodes=3) as cluster:
        donor, primary, peer = cluster.nodes
        inherited = await a_log(cluster, donor, (1, 2))
        term = await primary.plane.begin_term(DEMO, Epoch(2))
        last = await primary.plane.append_log(DEMO, b"".join(inherited))
        committed = await primary.commit_lsn()
        assert committed < last
        await peer.plane.fence(DEMO, term, primary.replica)
        await cluster.join_and_ship(primary, peer, term)
        one_of_two = Membership(needed=(), one_of=(peer.number, PEER), writable=True)
        await primary.plane.set_membership(DEMO, one_of_two)
        await primary.plane.peer_acked(DEMO, peer.number, Lsn(last))
        await asyncio.sleep(MOMENT_S)
        assert await primary.commit_lsn() == committed
        assert await primary.plane.commit_inherited(DEMO) == last + 1
        assert await primary.commit_lsn() == last + 1


async def test_nothing_is_applied_before_it_is_committed() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        client = await cluster.connect(node)
        assert (await client.write(1, page_of(1, 1))).status == 0
        committed = await node.commit_lsn()
        grants = await granted(node)
        await needs_peer(node)
        with held_open(grants):
            await node.wait(GateOpened)
            writing = asyncio.create_task(client.write(1, page_of(1, 2)))

            async def durable() -> bool:
                return (await node.plane.status(DEMO)).log.durable_lsn > committed

            await until(durable)
        # The end of the volume in the core applies everything it may.
        await node.plane.close_replica(DEMO)
        with contextlib.suppress(ConnectionError, AssertionError, OSError):
            await writing
        assert superblock(node.files()).number("applied_lsn") <= committed
        assert (node.files() / "extents").read_bytes()[PAGE : 2 * PAGE] == page_of(1, 1)


async def test_the_newest_version_of_a_page_is_applied() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        client = await cluster.connect(node)
        for version in (1, 2, 3):
            assert (await client.write(1, page_of(1, version))).status == 0
        await node.plane.close_replica(DEMO)
        assert (node.files() / "extents").read_bytes()[PAGE : 2 * PAGE] == page_of(1, 3)


# ---------------------------------------------------------------- acks, as a follower gives them


async def shipping(cluster: CoreCluster, node: CoreNode, theirs: int, *, rebuild: bool) -> Term:
    """A primary with a link to a peer that the test plays."""
    term = await alone(cluster, node)
    joined = Lsn(0) if rebuild else (await node.plane.status(DEMO)).log.last_lsn
    plan = RebuildPlan(kind=RebuildKind.FULL) if rebuild else None
    await node.plane.ship(DEMO, PEER, PEER, theirs, joined_lsn=joined, rebuild=plan)
    return term


async def test_s7_a_peer_counts_when_its_copy_is_whole() -> None:
    """Until then neither what it joined at nor what it has of the live lane."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        with link() as peer:
            term = await shipping(cluster, node, peer.theirs, rebuild=True)
            head = (await node.plane.status(DEMO)).log.last_lsn
            waiting = asyncio.create_task(node.plane.peer_acked(DEMO, PEER, head))
            await peer.send(SHIP_ACK, ack(term, head))
            await asyncio.sleep(MOMENT_S)
            assert not waiting.done()
            assert not node.heard(PeerRebuilt)
        with pytest.raises(SparrowError):
            await waiting


@pytest.mark.parametrize("flaw", ["term", "check", "beyond"])
async def test_an_ack_that_cannot_be_meant_ends_the_link(flaw: str) -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        with link() as peer:
            term = await shipping(cluster, node, peer.theirs, rebuild=False)
            head = (await node.plane.status(DEMO)).log.last_lsn
            await peer.send(SHIP_ACK, ack(term, head))
            await node.plane.peer_acked(DEMO, PEER, head)
            if flaw == "term":
                later = Term(epoch=Epoch(term.epoch + 1), start=term.start)
                await peer.send(SHIP_ACK, ack(later, head))
            elif flaw == "check":
                await peer.send(SHIP_ACK, ack(term, head), flip="durable_lsn")
            else:
                await peer.send(SHIP_ACK, ack(term, head + 1))
            assert (await node.wait(PeerLost)).cause == "protocol"


# ---------------------------------------------------------------- frames, as a primary sends them


@pytest.mark.parametrize("flaw", ["term", "check"])
async def test_a_frame_that_cannot_be_meant_ends_the_link(flaw: str) -> None:
    term = Term(epoch=Epoch(3), start=1)
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, term, OTHER)
        with link() as primary:
            await node.plane.receive(DEMO, primary.theirs, term)
            await primary.send(SHIP_FRAME, commit_frame(term))
            if flaw == "term":
                older = Term(epoch=Epoch(2), start=term.start)
                await primary.send(SHIP_FRAME, commit_frame(older))
            else:
                await primary.send(SHIP_FRAME, commit_frame(term, 1), flip="commit_lsn")
            assert (await node.wait(PrimaryLost)).cause == "protocol"


async def a_log(cluster: CoreCluster, node: CoreNode, versions: tuple[int, ...]) -> list[bytes]:
    """Its batches one by one: the term start, then one write of page 1 for each version."""
    await alone(cluster, node)
    client = await cluster.connect(node)
    for version in versions:
        assert (await client.write(1, page_of(1, version))).status == 0
    await node.plane.close_replica(DEMO)
    log = (node.files() / "wal").read_bytes()
    return [log[batch.offset : batch.offset + batch.size] for batch in batches(node.files())]


async def test_a_batch_with_a_flipped_bit_is_not_taken() -> None:
    async with core_cluster(nodes=2) as cluster:
        donor, node = cluster.nodes
        start, write = await a_log(cluster, donor, (1,))
        await node.plane.begin_term(DEMO, Epoch(5))
        assert await node.plane.append_log(DEMO, start) == 1
        damaged = bytearray(write)
        damaged[PAGE + 7] ^= 1
        with pytest.raises(SparrowError):
            await node.plane.append_log(DEMO, bytes(damaged))
        assert await node.plane.append_log(DEMO, write) == 2


async def test_a_batch_that_does_not_follow_is_not_taken() -> None:
    """The same term and the right LSN, of another history."""
    async with core_cluster(nodes=3) as cluster:
        one, other, node = cluster.nodes
        first = await a_log(cluster, one, (1, 2))
        second = await a_log(cluster, other, (3, 4))
        await node.plane.begin_term(DEMO, Epoch(5))
        assert await node.plane.append_log(DEMO, first[0] + first[1]) == 2
        with pytest.raises(SparrowError):
            await node.plane.append_log(DEMO, second[2])
        assert await node.plane.append_log(DEMO, first[2]) == 3


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        pytest.param(BATCH.offset_of("term_epoch"), 0, id="older than what it follows"),
        pytest.param(BATCH.offset_of("durable_floor"), 2, id="durable before it was written"),
        pytest.param(BATCH.size + ENTRY.offset_of("first_page"), PAGES, id="beyond the end"),
    ],
)
async def test_a_batch_that_cannot_be_meant_is_not_taken(offset: int, value: int) -> None:
    """Whole, the next one, with right checksums: what it says cannot be."""
    async with core_cluster(nodes=2) as cluster:
        donor, node = cluster.nodes
        start, write = await a_log(cluster, donor, (1,))
        await node.plane.begin_term(DEMO, Epoch(5))
        assert await node.plane.append_log(DEMO, start) == 1
        with pytest.raises(SparrowError):
            await node.plane.append_log(DEMO, reworded(write, offset, value))
        assert await node.plane.append_log(DEMO, write) == 2


async def test_nothing_that_is_not_here_is_committed_here() -> None:
    """A follower hears of commits before it has the batches."""
    term = Term(epoch=Epoch(3), start=1)
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, term, OTHER)
        with link() as primary:
            await node.plane.receive(DEMO, primary.theirs, term)
            await primary.send(SHIP_FRAME, commit_frame(term, 9))
            # Frames are taken in order: when this one has ended the link, the other was taken.
            await primary.send(SHIP_FRAME, commit_frame(term, 9), flip="commit_lsn")
            await node.wait(PrimaryLost)
        assert await node.commit_lsn() == 0


# ---------------------------------------------------------------- grants


async def granted(node: CoreNode) -> GrantPeer:
    """The other end of the grant link to the played peer; nothing is granted yet."""
    peer = GrantPeer(DEMO)
    await node.plane.grant_ask_link(PEER, peer.theirs)
    with link() as ship:
        # A peer is on a node once it was shipped to.
        head = (await node.plane.status(DEMO)).log.last_lsn
        await node.plane.ship(DEMO, PEER, PEER, ship.theirs, joined_lsn=head, rebuild=None)
    return peer


@contextlib.contextmanager
def held_open(peer: GrantPeer) -> Iterator[None]:
    """Grants whatever is asked, on a thread, until the end of the block."""

    def answer() -> None:
        with contextlib.suppress(OSError, AssertionError):
            while True:
                peer.grant(peer.asked())

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield
    finally:
        peer._socket.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        peer.close()


async def test_a_right_counts_from_when_it_was_asked_for() -> None:
    """The answer was under way for long: what is left of the grant is short (S12)."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        peer = await granted(node)
        await needs_peer(node)
        asked = await asyncio.to_thread(peer.asked)
        await asyncio.sleep(0.5)
        peer.grant(asked)
        await node.wait(GateOpened)
        # The first one is of the moment when the peer became needed.
        for _ in range(2):
            closed = await node.wait(GateClosed, cause="grant")
        # A second, less a hundredth for clocks that drift, less 5 ms.
        assert closed.deadline_ns == asked.stamp + 985_000_000
        peer.close()


async def test_only_the_answer_to_the_newest_ask_is_a_grant() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        peer = await granted(node)
        await needs_peer(node)
        asked = await asyncio.to_thread(peer.asked)
        newer = type(asked)(stamp=asked.stamp + 10**9, head=asked.head, entries=asked.entries)
        peer.grant(newer)
        assert (await node.wait(GrantLinkLost)).node_key == PEER
        assert not node.heard(GateOpened)
        peer.close()


async def test_a_release_cancels_no_grant_that_was_asked_for_later() -> None:
    term, next_term = Term(epoch=Epoch(3), start=1), Term(epoch=Epoch(4), start=1)
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, term, OTHER)
        peer = GrantPeer(DEMO)
        await node.plane.grant_serve_link(peer.theirs)
        assert await asyncio.to_thread(peer.ask, term, 200) == VERDICT_GRANTED
        peer.release(term, 150)
        # Answered behind the release, and grants nothing itself.
        assert await asyncio.to_thread(peer.ask, next_term, 300) == VERDICT_NOT_PROMISED
        report = await node.plane.fence(DEMO, next_term, ReplicaId("r8"))
        assert report.promise_ms > report.older_promise_ms
        assert report.promised_to == term
        peer.close()


async def test_a_grant_is_for_the_promised_term_only() -> None:
    term = Term(epoch=Epoch(3), start=1)
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, term, OTHER)
        peer = GrantPeer(DEMO)
        await node.plane.grant_serve_link(peer.theirs)
        assert await asyncio.to_thread(peer.ask, term, 1) == VERDICT_GRANTED
        later = Term(epoch=Epoch(4), start=1)
        assert await asyncio.to_thread(peer.ask, later, 2) == VERDICT_NOT_PROMISED
        peer.close()


@needs_root()
@needs_program("mkfs.ext4")
async def test_nothing_is_granted_before_the_promise_is_on_the_disk(place: Path) -> None:
    term = Term(epoch=Epoch(3), start=1)
    with small_file_system(place, "slow", 160 << 20) as mount:
        async with core_cluster(nodes=0) as cluster:
            node = await cluster._start(0, mount)
            await cluster.make_replica(node)
            peer = GrantPeer(DEMO)
            await node.plane.grant_serve_link(peer.theirs)
            stamps = itertools.count(1)

            async def refuses_older() -> bool:
                older = Term(epoch=Epoch(2), start=1)
                return await asyncio.to_thread(peer.ask, older, next(stamps)) == VERDICT_NEWER

            async with frozen(mount):
                fencing = asyncio.create_task(node.plane.fence(DEMO, term, OTHER))
                await until(refuses_older)
                verdict = await asyncio.to_thread(peer.ask, term, next(stamps))
                assert verdict == VERDICT_NOT_PROMISED
                assert not fencing.done()
            await fencing
            assert await asyncio.to_thread(peer.ask, term, next(stamps)) == VERDICT_GRANTED
            peer.close()


# ---------------------------------------------------------------- what is on the disk


async def test_a_promise_that_cannot_be_kept_is_not_given() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        # From here on the superblock's descriptor cannot be written to.
        read_only = os.open(node.files() / "superblock", os.O_RDONLY)
        os.dup2(read_only, node.plane._volumes[DEMO].files.superblock_fd)
        os.close(read_only)
        with pytest.raises(SparrowError):
            await node.plane.fence(DEMO, Term(epoch=Epoch(3), start=1), OTHER)
        assert (await node.wait(DiskFailed)).file == "superblock"


async def test_a_replica_whose_disk_failed_begins_no_term_and_joins_nobody() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        client = await cluster.connect(node)
        wal = os.open(node.files() / "wal", os.O_RDONLY)
        os.dup2(wal, node.plane._volumes[DEMO].files.wal_fd)
        os.close(wal)
        assert (await client.write(1, page_of(1, 1))).status != 0
        await node.wait(DiskFailed)
        with pytest.raises(SparrowError):
            await node.plane.begin_term(DEMO, Epoch(2))
        with pytest.raises(SparrowError):
            await node.plane.fence(DEMO, Term(epoch=Epoch(3), start=1), OTHER)


async def test_a_batch_of_another_history_never_follows() -> None:
    """The same term, LSN, size and place: only what each batch says of the one before it tells them apart."""
    async with core_cluster(nodes=2) as cluster:
        one, other = cluster.nodes
        for node, versions in ((one, (1, 2)), (other, (3, 4))):
            await a_log(cluster, node, versions)
        last = batches(one.files())[-1]
        foreign = batches(other.files())[-1]
        assert (foreign.offset, foreign.size, foreign.first_lsn) == (
            last.offset,
            last.size,
            last.first_lsn,
        )
        content = (other.files() / "wal").read_bytes()[last.offset : last.offset + last.size]
        with (one.files() / "wal").open("r+b") as log:
            log.seek(last.offset)
            log.write(content)
        report = await one.plane.open_replica(DEMO)
        # It is not taken for this log's own: the log goes, and with it nothing, for all of it is applied.
        assert report.let_go_to_lsn == last.last_lsn


async def test_the_log_keeps_what_is_not_applied() -> None:
    """However full it is: a peer holds up every commit, so nothing may be applied."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        grants = await granted(node)
        await needs_peer(node)
        with held_open(grants):
            await node.wait(GateOpened)
            committed = await node.commit_lsn()
            # 80 writes of 256 KiB at once; the ring has 16 MiB.
            loads = [
                await cluster.load(node, pages=pages, depth=40, run=64)
                for pages in (range(4096), range(4096, 8192))
            ]
            await until(lambda: sum(load.written_bytes for load in loads) >= 20 << 20)
            await asyncio.sleep(2 * MOMENT_S)
            log = (await node.plane.status(DEMO)).log
            assert log.last_lsn > committed + 30
            assert (log.last_lsn - committed) * 65 * PAGE < 16 << 20
            assert log.commit_lsn == committed
            assert log.oldest_lsn <= committed + 1
        for load in loads:
            await load.stop()


async def test_the_log_is_kept_for_a_peer_that_reads_it() -> None:
    """Up to four fifths of the ring; a round of the flusher at three quarters lets nothing of it go."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        with link(buffer_bytes=4096) as peer:
            await shipping(cluster, node, peer.theirs, rebuild=False)
            began = (await node.plane.status(DEMO)).log.last_lsn
            client = await cluster.connect(node)
            # 65 blocks each: 12.3 of 16 MiB.
            for turn in range(48):
                data = b"".join(page_of(turn * 64 + i, 1) for i in range(64))
                assert (await client.write(turn * 64, data)).status == 0

            async def applied() -> bool:
                log = (await node.plane.status(DEMO)).log
                return log.applied_lsn == log.last_lsn

            await until(applied)
            assert (await node.plane.status(DEMO)).log.oldest_lsn <= began + 3


async def test_both_superblock_copies_hold_a_promise() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, Term(epoch=Epoch(9), start=1), OTHER)
        both = (node.files() / "superblock").read_bytes()
        for at in (0, SUPERBLOCK_BYTES):
            copy = SUPERBLOCK.unpack(both[at : at + SUPERBLOCK_BYTES])
            assert copy.number("promised_epoch") == 9


async def test_a_log_that_ends_below_what_is_applied_is_let_go() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        client = await cluster.connect(node)
        for version in (1, 2):
            assert (await client.write(1, page_of(1, version))).status == 0
        await node.plane.close_replica(DEMO)
        last = batches(node.files())[-1]
        assert superblock(node.files()).number("applied_lsn") == last.last_lsn
        with (node.files() / "wal").open("r+b") as wal:
            wal.seek(last.offset)
            wal.write(bytes(last.size))
        report = await node.plane.open_replica(DEMO)
        # All of it is in the extents, so the log is let go and no LSN of it is given again.
        assert report.let_go_to_lsn == last.last_lsn
        assert report.log.last_lsn == last.last_lsn


# ---------------------------------------------------------------- sessions


async def test_no_session_lives_from_one_term_into_a_later_one() -> None:
    """A write that its initiator had done elsewhere meanwhile, and overwritten, may still be under way on it.

    A session of an initiator that waits for this replica to become primary lives on: nothing was sent on it before.
    """
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        old = await cluster.connect(node)
        assert (await old.write(1, page_of(1, 1))).status == 0
        await node.plane.fence(DEMO, Term(epoch=Epoch(2), start=1), OTHER)
        assert (await old.read(1)).sense == ACCESS_CHANGED
        assert (await old.read(1)).sense == PATH_ERROR
        waiting = await cluster.connect(node)
        assert (await waiting.read(1)).sense == PATH_ERROR
        await cluster.open_term(node, epoch=3)
        assert (await node.wait(SessionEnded)).cause == "volume"
        with pytest.raises((ConnectionError, AssertionError)):
            assert (await old.write(1, page_of(1, 2))).status == 0
        assert (await waiting.read(1)).sense == ACCESS_CHANGED
        assert (await waiting.read(1)).data == page_of(1, 1)
