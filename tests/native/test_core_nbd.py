"""NBD on the native data plane: real allocation, real holding, writes of any bytes, from the log to the extents."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from types import SimpleNamespace
from typing import Any
from unittest import mock

from sparrow.base.constants import FENCE_HOLD_S
from sparrow.base.ids import Lsn
from sparrow.dataplane import machine
from sparrow.dataplane.machine import CoreSizes
from sparrow.formats.nbd import NBD_EPERM
from sparrow.formats.reservations import (
    RESERVATION_EXCLUSIVE_ACCESS,
    RESERVATION_KIND_NVME,
    RESERVATION_WRITE_EXCLUSIVE,
    ReservationNexus,
    ReservationRegistrant,
    ReservationTable,
    encode_table,
)
from sparrow.formats.sums import PAGES_PER_BLOCK
from sparrow.ports.dataplane import GateClosed, NbdParameters, PoolFull, SessionEnded, SumsDamaged
from tests.support.core_client import WAIT_S
from tests.support.core_cluster import DEMO, PAGE, VOLUME_BYTES, CoreNode, core_cluster
from tests.support.core_files import flip_bit
from tests.support.nbd_bed import (
    EINVAL,
    EIO,
    ENOSPC,
    ESHUTDOWN,
    FAST,
    FLUSH,
    HOLE_ZERO,
    NO_HOLE,
    READ,
    REQ_ONE,
    STATUS,
    TRIM,
    WRITE,
    ZEROES,
    Conversation,
    Reply,
)
from tests.support.needs import needs_io_uring
from tests.support.waiting import until

pytestmark = needs_io_uring()

KEY = 1 << 56


class Client:
    """A client in transmission phase whose requests are awaited."""

    def __init__(self, sock: socket.socket) -> None:
        self.talk = Conversation(sock, structured=True)

    async def ask(self, *request: Any, **more: Any) -> Reply:
        return await asyncio.to_thread(self.talk.ask, *request, **more)

    async def good(self, *request: Any, **more: Any) -> Reply:
        return await asyncio.to_thread(self.talk.good, *request, **more)


async def connect(node: CoreNode, key: int = KEY) -> Client:
    ours, theirs = socket.socketpair()
    ours.settimeout(WAIT_S)
    theirs.setblocking(False)
    parameters = NbdParameters(session_key=key, structured=True, context=1, pending=b"")
    await node.plane.adopt_nbd(DEMO, theirs.detach(), parameters)
    return Client(ours)


async def applied(node: CoreNode) -> None:
    async def done() -> bool:
        log = (await node.plane.status(DEMO)).log
        return log.applied_lsn == log.commit_lsn

    await until(done)


async def extents(client: Client, offset: int, length: int) -> list[tuple[int, int]]:
    """(length, state) of a range, asked for as often as it takes, equal neighbours put together."""
    found: list[tuple[int, int]] = []
    end = offset + length
    while offset < end:
        for size, state in (await client.good(STATUS, offset, end - offset)).extents:
            offset += size
            if found and found[-1][1] == state:
                found[-1] = (found[-1][0] + size, state)
            else:
                found.append((size, state))
    return found


async def test_allocation_is_told_from_the_log_and_from_the_extents() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await connect(node)
        with client.talk.socket:
            assert await extents(client, 0, VOLUME_BYTES) == [(VOLUME_BYTES, HOLE_ZERO)]
            await client.good(WRITE, 10 * PAGE + 100, data=b"x" * 5000)
            await client.good(ZEROES, 20 * PAGE, 3 * PAGE, flags=NO_HOLE)
            await client.good(ZEROES, 30 * PAGE, 3 * PAGE, flags=FAST)
            expected = [
                (10 * PAGE, HOLE_ZERO),
                (2 * PAGE, 0),
                (8 * PAGE, HOLE_ZERO),
                (3 * PAGE, 0),
                (VOLUME_BYTES - 23 * PAGE, HOLE_ZERO),
            ]
            assert await extents(client, 0, VOLUME_BYTES) == expected
            await applied(node)
            assert await extents(client, 0, VOLUME_BYTES) == expected
            one = await client.good(STATUS, 10 * PAGE + 5, 100 * PAGE, flags=REQ_ONE)
            assert one.extents == [(2 * PAGE - 5, 0)]
            await client.good(TRIM, 0, VOLUME_BYTES)
            assert await extents(client, 0, VOLUME_BYTES) == [(VOLUME_BYTES, HOLE_ZERO)]
            await applied(node)
            assert await extents(client, 0, VOLUME_BYTES) == [(VOLUME_BYTES, HOLE_ZERO)]
            assert (await client.good(READ, 0, 40 * PAGE)).data == bytes(40 * PAGE)


async def test_requests_of_any_bytes_side_by_side_leave_what_a_plain_array_has() -> None:
    dice = random.Random(3)
    span = 64 * PAGE
    want = bytearray(span)
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await connect(primary)
        talk = client.talk

        def write_all() -> None:
            """Neighbours of each other's pages, all under way at once; no two share a byte."""
            for _ in range(12):
                cuts = sorted({0, span, *(dice.randrange(span) for _ in range(60))})
                cookies = []
                for begin, end in itertools.pairwise(cuts):
                    kind = dice.choice([WRITE, WRITE, ZEROES, None])
                    if kind == WRITE:
                        want[begin:end] = data = dice.randbytes(end - begin)
                        cookies.append(talk.start(WRITE, begin, data=data))
                    elif kind == ZEROES:
                        want[begin:end] = bytes(end - begin)
                        flags = dice.choice([0, NO_HOLE, FAST])
                        cookies.append(talk.start(ZEROES, begin, end - begin, flags=flags))
                assert all(talk.reply(cookie).error == 0 for cookie in cookies)
                assert talk.good(READ, 0, span).data == want

        with talk.socket:
            await asyncio.to_thread(write_all)
        await applied(primary)
        await cluster.assert_same(primary, follower)


async def test_reads_that_come_together_each_get_their_own_wherever_their_pages_are() -> None:
    """More at once than are told of before they begin, of pages in the log, in memory, on the disk and nowhere.

    Writes and absurd places are among them.
    """
    dice = random.Random(5)
    end = 512 * PAGE
    sizes = CoreSizes(pages=6144, cache_pages=128)
    async with core_cluster(nodes=1, sizes=sizes) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await connect(node)
        talk = client.talk
        want = bytearray(end)

        def ask_together(requests: list[tuple[int, int]]) -> None:
            """READs of up to two pages, sent as one; every ninth is followed by a WRITE nobody reads now."""
            sent: list[bytes] = []
            expected: dict[int, bytes | None] = {}
            writes = []
            with mock.patch.object(talk, "send_raw", sent.append):
                for at, (offset, length) in enumerate(requests):
                    good = offset + length <= VOLUME_BYTES
                    data = bytes(want[offset : offset + length]).ljust(length, b"\0")
                    expected[talk.start(READ, offset, length)] = data if good else None
                    if at % 9 == 8:
                        writes.append(talk.start(WRITE, end + at * PAGE, data=dice.randbytes(700)))
            talk.send_raw(b"".join(sent))
            for cookie, there in expected.items():
                reply = talk.reply(cookie)
                assert reply.error == (EINVAL if there is None else 0)
                assert reply.data == (there or b"")
            assert all(talk.reply(cookie).error == 0 for cookie in writes)

        with talk.socket:
            for _ in range(6):
                for _ in range(40):
                    first = dice.randrange(512) * PAGE
                    data = dice.randbytes(PAGE)
                    want[first : first + PAGE] = data
                    await client.good(WRITE, first, data=data)
                requests = [
                    (dice.randrange(end - 2 * PAGE), dice.choice([0, 1, 512, PAGE, 2 * PAGE]))
                    for _ in range(90)
                ]
                requests[7] = (VOLUME_BYTES, PAGE)
                requests[40] = ((1 << 64) - PAGE, PAGE)
                requests[41] = (VOLUME_BYTES - PAGE, PAGE)
                await asyncio.to_thread(ask_together, requests)
                await applied(node)
                await asyncio.to_thread(ask_together, requests)


async def test_requests_are_held_while_the_gate_may_return_and_answered_then() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await connect(primary)
        with client.talk.socket:
            cluster.hold_grants(primary, follower, hold=True)
            await primary.wait(GateClosed)
            cookies = [
                client.talk.start(WRITE, 0, data=b"a" * PAGE),
                client.talk.start(STATUS, 0, PAGE),
            ]
            cluster.hold_grants(primary, follower, hold=False)
            for cookie in cookies:
                assert (await asyncio.to_thread(client.talk.reply, cookie)).error == 0
            assert (await client.good(READ, 0, PAGE)).data == b"a" * PAGE


async def test_requests_held_too_long_end_with_eshutdown_and_so_does_the_connection() -> None:
    async with core_cluster(nodes=2, hold_s=FENCE_HOLD_S) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await connect(primary)
        with client.talk.socket:
            cluster.hold_grants(primary, follower, hold=True)
            await primary.wait(GateClosed)
            before = (await primary.plane.status(DEMO)).log.last_lsn
            kinds = ((WRITE, 0, 0), (READ, 0, PAGE), (STATUS, 0, PAGE), (FLUSH, 0, 0))
            cookies = [
                client.talk.start(kind, offset, length, data=b"a" * PAGE if kind == WRITE else b"")
                for kind, offset, length in kinds
            ]
            for cookie in cookies:
                reply = await asyncio.to_thread(client.talk.reply, cookie)
                assert (reply.error, reply.chunks, reply.extents) == (ESHUTDOWN, [], [])
            assert await asyncio.to_thread(client.talk.closed)
            assert (await primary.wait(SessionEnded, session_key=KEY)).cause == "path"
            assert (await primary.plane.status(DEMO)).log.last_lsn == before


async def test_closing_the_gate_for_good_answers_what_is_held_at_once() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await connect(primary)
        with client.talk.socket:
            cluster.hold_grants(primary, follower, hold=True)
            await primary.wait(GateClosed)
            cookie = client.talk.start(READ, 0, PAGE)
            await primary.plane.close_gate(DEMO, "superseded")
            assert (await asyncio.to_thread(client.talk.reply, cookie)).error == ESHUTDOWN
            assert await asyncio.to_thread(client.talk.closed)


async def test_a_closed_volume_leaves_no_connection() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await connect(node)
        with client.talk.socket:
            await client.good(WRITE, 0, data=b"z" * 10)
            await node.plane.close_replica(DEMO)
            assert await asyncio.to_thread(client.talk.closed)
            assert (await node.wait(SessionEnded, session_key=KEY)).cause == "volume"


async def test_a_page_whose_sum_is_lost_is_no_hole_and_reading_it_is_an_error() -> None:
    """A copier that took it for zeros would make a copy that is whole and wrong."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await connect(node)
        with client.talk.socket:
            await client.good(WRITE, 0, data=b"d" * 8 * PAGE)
        await node.wait(SessionEnded, session_key=KEY)
        await applied(node)
        await node.plane.close_replica(DEMO)
        flip_bit(node.files() / "sums", 16)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        client = await connect(node, KEY + 1)
        with client.talk.socket:
            cookie = client.talk.start(STATUS, 0, PAGES_PER_BLOCK * PAGE)
            damaged = await node.wait(SumsDamaged)
            # Nobody knows: all of it may be data.
            told = await asyncio.to_thread(client.talk.reply, cookie)
            assert told.extents == [(PAGES_PER_BLOCK * PAGE, 0)]
            lsn = await node.commit_lsn()
            await node.plane.mend_sums(DEMO, damaged.block, lsn, ())
            assert await extents(client, 0, 2 * PAGES_PER_BLOCK * PAGE) == [
                (PAGES_PER_BLOCK * PAGE, 0),
                (PAGES_PER_BLOCK * PAGE, HOLE_ZERO),
            ]
            assert (await client.ask(READ, 0, PAGE)).error == EIO
            await client.good(WRITE, 0, data=b"n" * PAGE)
            assert (await client.good(READ, 0, PAGE)).data == b"n" * PAGE


async def test_a_pool_without_room_is_enospc_and_what_has_a_place_is_written() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await connect(node)
        with client.talk.socket:
            await client.good(WRITE, 0, data=b"p" * PAGE)
            await applied(node)
            short = SimpleNamespace(f_bavail=100, f_frsize=PAGE)
            with mock.patch.object(machine.os, "fstatvfs", return_value=short):
                await node.wait(PoolFull, full=True)
                assert (await client.ask(WRITE, 100 * PAGE, data=b"q" * PAGE)).error == ENOSPC
                refused = await client.ask(ZEROES, 100 * PAGE, PAGE, flags=NO_HOLE)
                assert refused.error == ENOSPC
                await client.good(ZEROES, 100 * PAGE, PAGE)
                await client.good(WRITE, 10, data=b"r" * 10)
                assert (await client.good(READ, 0, 30)).data == b"p" * 10 + b"r" * 10 + b"p" * 10


async def test_reservations_of_others_bind_a_client_that_can_have_none() -> None:
    alice = ReservationNexus(
        kind=int(RESERVATION_KIND_NVME), identifier=bytes(range(16)), name="nqn.alice"
    )

    def reserved(kind: int) -> bytes:
        return encode_table(
            ReservationTable(
                registrants=(ReservationRegistrant(nexus=alice, key=7),), type=kind, holder=alice
            )
        )

    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await connect(node)
        with client.talk.socket:
            await client.good(WRITE, 0, data=b"x" * PAGE)
            lsn = await node.plane.log_reservations(
                DEMO, Lsn(0), reserved(int(RESERVATION_WRITE_EXCLUSIVE))
            )
            assert lsn is not None
            for request in ((WRITE, 0), (TRIM, 0, 4 * PAGE), (ZEROES, 0, 4 * PAGE), (FLUSH,)):
                data = b"y" * PAGE if request[0] == WRITE else b""
                assert (await client.ask(*request, data=data)).error == NBD_EPERM
            assert (await client.good(READ, 0, PAGE)).data == b"x" * PAGE
            assert await extents(client, 0, PAGE) == [(PAGE, 0)]
            lsn = await node.plane.log_reservations(
                DEMO, lsn, reserved(int(RESERVATION_EXCLUSIVE_ACCESS))
            )
            assert lsn is not None
            assert (await client.ask(READ, 0, PAGE)).error == NBD_EPERM
            assert (await client.ask(STATUS, 0, PAGE)).error == NBD_EPERM
            free = encode_table(ReservationTable(generation=3))
            assert await node.plane.log_reservations(DEMO, lsn, free) is not None
            await client.good(WRITE, 0, data=b"z" * PAGE)
            assert (await client.good(READ, 0, PAGE)).data == b"z" * PAGE
