"""When a write is answered: on all, on two of three, or here; and whose grant is enough (S14, S15, D25, D26, D27)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sparrow.authority.types import Term
from sparrow.base.ids import Epoch, Lsn
from sparrow.dataplane.native import room as native_room
from sparrow.formats.links import FRAME_BATCH, SHIP_ACK
from sparrow.ports.dataplane import GateClosed, GateOpened, Membership
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, PAGE, PAGES, CoreCluster, CoreNode, core_cluster
from tests.support.core_files import superblock
from tests.support.core_peer import PEER, granted, held_open, needs_peer
from tests.support.descriptors import Relay
from tests.support.ship_peer import ack, link
from tests.support.waiting import until

#: Sense key, additional sense code and qualifier (SPC-4, SPACE ALLOCATION FAILED WRITE PROTECT).
NO_SPACE = (0x07, 0x27, 0x07)
#: How long the slowest ack is told, at least (replication/ship.pxd).
REMEMBERED_S = 0.5
TRIES = 10


@asynccontextmanager
async def of_three(
    *, one_of: bool = False, ack_local: bool = False
) -> AsyncIterator[tuple[CoreCluster, CoreNode, CoreNode, CoreNode, Term]]:
    """A primary with two followers in sync, open under a policy."""
    async with core_cluster(nodes=3) as cluster:
        a, b, c = cluster.nodes
        term = await cluster.open_term(a, followers=[b, c])
        await require(a, [] if one_of else [b, c], one_of=[b, c] if one_of else [], local=ack_local)
        yield cluster, a, b, c, term


async def require(
    primary: CoreNode,
    needed: list[CoreNode],
    *,
    one_of: list[CoreNode] | None = None,
    local: bool = False,
) -> Lsn:
    membership = Membership(
        needed=tuple(node.number for node in needed),
        one_of=tuple(node.number for node in one_of or []),
        writable=True,
        ack_local=local,
    )
    return await primary.plane.set_membership(DEMO, membership)


async def durable_lsn(node: CoreNode) -> Lsn:
    return (await node.plane.status(DEMO)).log.durable_lsn


# ---------------------------------------------------------------- sync


async def test_d26_what_was_sent_to_a_peer_that_dies_is_not_answered() -> None:
    async with of_three() as (cluster, a, _b, c, _term):
        client = await cluster.connect(a)
        await a.plane.drop_peer(DEMO, c.number)
        before = await a.commit_lsn()
        waiting = asyncio.create_task(client.write(1, page_of(1, 1)))

        async def logged() -> bool:
            return await durable_lsn(a) > before

        await until(logged)
        assert await a.commit_lsn() == before
        assert not waiting.done()
        await require(a, [_b])
        assert (await waiting).status == 0, "the line without it counts"


async def test_d26_what_a_peer_has_received_and_not_acknowledged_is_not_answered() -> None:
    """It reads what it is sent, and says nothing."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        term = await cluster.open_term(node)
        client = await cluster.connect(node)
        grants = await granted(node)
        await needs_peer(node)
        with held_open(grants), link() as peer:
            await node.wait(GateOpened)
            before = (await node.plane.status(DEMO)).log.last_lsn
            await node.plane.ship(DEMO, PEER, PEER, peer.theirs, joined_lsn=before, rebuild=None)
            waiting = asyncio.create_task(client.write(1, page_of(1, 1)))
            while (await peer.read_frame())[0].number("kind") != FRAME_BATCH:
                pass

            async def logged() -> bool:
                return await durable_lsn(node) > before

            await until(logged)
            assert await node.commit_lsn() == before
            assert not waiting.done()
            await peer.send(SHIP_ACK, ack(term, before + 1))
            assert (await waiting).status == 0


async def test_d25_a_peer_that_is_gone_still_counts_until_a_line_leaves_it_out() -> None:
    async with of_three() as (cluster, a, b, c, _term):
        client = await cluster.connect(a)
        for peer in (b, c):
            await a.plane.drop_peer(DEMO, peer.number)
        before = await a.commit_lsn()
        waiting = asyncio.create_task(client.write(1, page_of(1, 1)))

        async def logged() -> bool:
            return await durable_lsn(a) > before

        await until(logged)
        assert await a.commit_lsn() == before
        await a.plane.close_gate(DEMO, "superseded")
        assert (await waiting).status != 0


# ---------------------------------------------------------------- quorum


@pytest.mark.parametrize("away", ["b", "c"])
async def test_d27_one_peer_that_does_not_answer_holds_up_no_quorum(away: str) -> None:
    async with of_three(one_of=True) as (cluster, a, b, c, _term):
        client = await cluster.connect(a)
        await a.plane.drop_peer(DEMO, (b if away == "b" else c).number)
        for version in range(1, 5):
            assert (await client.write(1, page_of(1, version))).status == 0
        there = c if away == "b" else b
        assert await cluster.caught_up(a, there) == await a.commit_lsn()
        assert (await client.read(1)).data == page_of(1, 4)


async def test_s14_one_copy_is_no_quorum() -> None:
    async with of_three(one_of=True) as (cluster, a, b, c, _term):
        client = await cluster.connect(a)
        for peer in (b, c):
            await a.plane.drop_peer(DEMO, peer.number)
        before = await a.commit_lsn()
        waiting = asyncio.create_task(client.write(1, page_of(1, 1)))

        async def logged() -> bool:
            return await durable_lsn(a) > before

        await until(logged)
        assert await a.commit_lsn() == before
        await a.plane.close_gate(DEMO, "superseded")
        assert (await waiting).status != 0


async def test_s14_the_grant_of_one_peer_is_enough_and_of_none_is_not() -> None:
    async with of_three(one_of=True) as (cluster, a, b, c, _term):
        cluster.hold_grants(a, b, hold=True)

        async def b_grants_nothing() -> bool:
            peers = (await a.plane.status(DEMO)).peers
            return not next(peer for peer in peers if peer.slot == b.number).granted

        await until(b_grants_nothing)

        async def gate_open() -> bool:
            return (await a.plane.status(DEMO)).gate_open

        async def gate_closed() -> bool:
            return not await gate_open()

        # A machine that stands still for a second lets c's lapse too; it comes again, b's does not.
        await until(gate_open)
        cluster.hold_grants(a, c, hold=True)
        await until(gate_closed)
        assert {event.cause for event in a.events if isinstance(event, GateClosed)} == {"grant"}
        cluster.hold_grants(a, b, hold=False)
        await until(gate_open)


async def test_s14_a_shrink_counts_from_when_all_others_are_needed() -> None:
    """The commit LSN told at that moment is what each of them must have before the ask."""
    async with of_three(one_of=True) as (cluster, a, b, _c, term):
        client = await cluster.connect(a)
        await a.plane.drop_peer(DEMO, b.number)
        for version in range(1, 4):
            assert (await client.write(1, page_of(1, version))).status == 0
        frozen = await require(a, [b])
        assert frozen == await a.commit_lsn()
        assert (
            frozen
            > next(p for p in (await a.plane.status(DEMO)).peers if p.slot == b.number).acked_lsn
        )
        waiting = asyncio.create_task(client.write(1, page_of(1, 9)))

        async def logged() -> bool:
            return await durable_lsn(a) > frozen

        await until(logged)
        assert await a.commit_lsn() == frozen, "c alone is not enough any more"
        await cluster.join_and_ship(a, b, term)
        await a.plane.peer_acked(DEMO, b.number, frozen)
        assert (await waiting).status == 0


async def test_s14_nothing_inherited_commits_before_the_start_of_the_term_does() -> None:
    """An old entry on two of three may yet be cut; with the new term's start on them it may not."""
    async with core_cluster(nodes=3) as cluster:
        a, b, c = cluster.nodes
        await cluster.open_term(a, followers=[b])
        client = await cluster.connect(a)
        assert (await client.write(1, page_of(1, 1))).status == 0
        inherited = await cluster.caught_up(a, b)
        term = await b.plane.begin_term(DEMO, Epoch(2))
        await c.plane.fence(DEMO, term, b.replica)
        await require(b, [], one_of=[a, c])
        start = asyncio.create_task(b.plane.commit_inherited(DEMO))

        async def begun() -> bool:
            return await durable_lsn(b) > inherited

        await until(begun)
        before = await b.commit_lsn()
        assert before <= inherited
        await cluster.join_and_ship(b, c, term)
        lsn = await start
        assert lsn > inherited
        assert await b.commit_lsn() >= lsn


# ---------------------------------------------------------------- local


async def test_s15_local_answers_at_once_and_commits_when_all_have_it() -> None:
    async with of_three(ack_local=True) as (cluster, a, _b, c, term):
        client = await cluster.connect(a)
        committed = await cluster.caught_up(a, c)
        await a.plane.drop_peer(DEMO, c.number)
        for version in range(1, 5):
            assert (await client.write(1, page_of(1, version))).status == 0
        status = await a.plane.status(DEMO)
        assert status.log.commit_lsn == committed
        assert status.log.durable_lsn > committed, "the loss window"
        assert status.log.applied_lsn <= committed, "nothing uncommitted is applied"
        assert (await client.read(1)).data == page_of(1, 4), "a client reads what it wrote"
        assert await cluster.read_page(a, 1) != page_of(1, 4), "nobody else does"
        await cluster.join_and_ship(a, c, term)
        await a.plane.peer_acked(DEMO, c.number, status.log.durable_lsn)

        async def committed_all() -> bool:
            return await a.commit_lsn() == status.log.durable_lsn

        await until(committed_all)
        assert await cluster.read_page(a, 1) == page_of(1, 4)


async def test_s15_what_was_answered_early_is_not_applied() -> None:
    """The end of the volume in the core applies everything it may."""
    async with of_three(ack_local=True) as (cluster, a, _b, c, _term):
        client = await cluster.connect(a)
        committed = await cluster.caught_up(a, c)
        await a.plane.drop_peer(DEMO, c.number)
        assert (await client.write(1, page_of(1, 1))).status == 0
        await a.plane.close_replica(DEMO)
        assert superblock(a.files()).number("applied_lsn") <= committed
        assert not any((a.files() / "extents").read_bytes()[PAGE : 2 * PAGE])


@pytest.mark.parametrize("attempt", range(12))
async def test_a_close_commits_nothing_that_a_needed_peer_lacks(attempt: int) -> None:
    """The core is about to look at what may commit when the close lets the peers go, and nobody is needed any more."""
    async with of_three() as (cluster, a, b, c, _term):
        client = await cluster.connect(a)
        committed = await cluster.caught_up(a, c)
        await a.plane.drop_peer(DEMO, c.number)
        writing = asyncio.create_task(client.write(1, page_of(1, 1)))

        async def logged() -> bool:
            return await durable_lsn(a) > committed

        await until(logged)
        # Told at one time, so that the last of these and the close are most often heard in one turn.
        same = [require(a, [b, c]) for _ in range(32)]
        await asyncio.gather(*same, a.plane.close_replica(DEMO), return_exceptions=True)
        assert superblock(a.files()).number("applied_lsn") <= committed
        assert not any((a.files() / "extents").read_bytes()[PAGE : 2 * PAGE])
        with contextlib.suppress(ConnectionError, EOFError):
            assert (await writing).status != 0


async def test_s15_after_a_failover_the_window_is_gone_and_what_was_committed_is_there() -> None:
    async with of_three(ack_local=True) as (cluster, a, b, c, _term):
        client = await cluster.connect(a)
        assert (await client.write(1, page_of(1, 1))).status == 0
        await cluster.caught_up(a, b)
        for peer in (b, c):
            await a.plane.drop_peer(DEMO, peer.number)
        assert (await client.write(1, page_of(1, 2))).status == 0
        term = await b.plane.begin_term(DEMO, Epoch(2))
        for follower in (a, c):
            await follower.plane.fence(DEMO, term, b.replica)
        for follower in (a, c):
            await cluster.join_and_ship(b, follower, term)
        await cluster.set_needed(b, [a, c])
        await b.plane.commit_inherited(DEMO)
        await cluster.assert_same(b, a)
        assert await cluster.read_page(a, 1) == page_of(1, 1)


async def test_a_write_needs_room_where_it_may_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two one is enough: the room of the one that has more counts, and without any it would never commit."""

    monkeypatch.setattr(native_room, "HEADROOM_EVERY_S", 0.01)
    async with of_three(one_of=True) as (cluster, a, b, c, _term):
        client = await cluster.connect(a)
        assert (await client.write(0, page_of(0, 1))).status == 0
        new = iter(range(1, PAGES))

        async def refused() -> bool:
            page = next(new)
            answer = await client.write(page, page_of(page, 1))
            return answer.status != 0 and tuple(answer.sense) == NO_SPACE

        async def taken() -> bool:
            return not await refused()

        for node in (b, c):
            monkeypatch.setattr(node.plane._machine, "room_pages", lambda _files: 0)
        await until(refused)
        assert (await client.write(0, page_of(0, 2))).status == 0, "it has a place"
        monkeypatch.setattr(c.plane._machine, "room_pages", lambda _files: 1 << 20)
        await until(taken)


# ---------------------------------------------------------------- L6, L9: how long things take


async def test_l6_the_core_tells_how_long_a_peer_owes_and_how_slow_its_acks_were() -> None:
    async with core_cluster(nodes=2) as cluster:
        a, b = cluster.nodes
        term = await cluster.open_term(a, followers=[b])
        ours, near = socket.socketpair()
        far, theirs = socket.socketpair()
        for end in (ours, near, far, theirs):
            end.setblocking(False)
        relay = Relay(near, far)
        await a.plane.drop_peer(DEMO, b.number)
        log = (await a.plane.status(DEMO)).log
        await b.plane.fence(DEMO, term, a.replica)
        _, lsn, _ = await b.plane.join(DEMO, term, log)
        await b.plane.receive(DEMO, theirs.detach(), term)
        await a.plane.ship(DEMO, b.number, b.number, ours.detach(), joined_lsn=lsn)
        client = await cluster.connect(a)
        assert (await client.write(1, page_of(1, 1))).status == 0
        (quick,) = (await a.plane.status(DEMO)).peers
        assert quick.lag_ms == 0
        # Of that one write, however slow this disk is just now; the next is to be slower by far.
        slow_ms = quick.worst_ack_ms + 350

        async def owes() -> bool:
            return (await a.plane.status(DEMO)).peers[0].lag_ms >= slow_ms

        async def own_is_done() -> bool:
            return (await a.plane.status(DEMO)).own_lag_ms == 0

        for _ in range(TRIES):
            relay.held = True
            waiting = asyncio.create_task(client.write(1, page_of(1, 2)))
            await until(owes)
            await until(own_is_done)
            released = time.monotonic()
            relay.held = False
            assert (await waiting).status == 0
            (slow,) = (await a.plane.status(DEMO)).peers
            assert slow.lag_ms == 0
            if time.monotonic() - released < REMEMBERED_S:
                break
            # The machine stood still for so long that it may be forgotten by now.
        else:
            raise AssertionError("no answer within the time in which an ack is remembered")
        assert slow.worst_ack_ms >= slow_ms

        async def forgotten() -> bool:
            return (await a.plane.status(DEMO)).peers[0].worst_ack_ms < slow_ms

        await until(forgotten)
        relay.close()
