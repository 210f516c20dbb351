"""PERSISTENT RESERVE on a path that does not serve: what goes to the primary's node, and what is said without it.

Both ends are the real ones; between them is a wire that the test cuts, and behind them a core that it plays.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from sparrow.base.errors import (
    NotFound,
    OutcomeUnknown,
    RemoteProtocolError,
    SparrowError,
    StaleEpoch,
    TimedOut,
    Unavailable,
    Withdrawn,
)
from sparrow.base.ids import Lsn, NodeId, VolumeId
from sparrow.formats.reservations import ReservationNexus, decode_table
from sparrow.frontends.scsi.persistent import Asker, nexus_of
from sparrow.frontends.scsi.sense import ScsiAnswer, Status
from sparrow.node.forwarding import (
    LOGGED_WITHIN_S,
    LOOK_TIMEOUT_S,
    Door,
    Forwarding,
    Pinned,
    ServedHere,
)
from sparrow.node.replicas import Replicas
from sparrow.node.reservations import Reservations
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DataPlane
from sparrow.rpc.messages import (
    ReservationChangeAnswer,
    ReservationChangeRequest,
    ReservationLook,
    ReservationLookRequest,
    ReservationOutcome,
)
from tests.support.lines import SIZE, VOLUME, line, rid
from tests.support.virtual_time import run_virtual
from tests.support.waiting import WAIT_S

A = nexus_of("iqn.2020-01.com.example:a", b"\x80\0\0\0\0\x01")
HURRY_S = 0.05
NS = 1_000_000_000


class Core:
    """The table, the clock, and the commands of sessions of one node."""

    def __init__(self) -> None:
        self.tables: list[bytes] = []
        self.now_ns = 1000 * NS
        self.error: SparrowError | None = None
        self.loses_place = False
        self.gone = False
        self.on_pin: Callable[[], None] = lambda: None
        self.events: list[str] = []

    async def reservations(self, _volume: VolumeId) -> tuple[Lsn, bytes | None]:
        if self.error is not None:
            raise self.error
        return Lsn(len(self.tables)), self.tables[-1] if self.tables else None

    async def log_reservations(
        self, _volume: VolumeId, expected: Lsn, table: bytes, *, by_ns: int, **_asker: int
    ) -> Lsn | None:
        assert expected == len(self.tables)
        if self.now_ns >= by_ns:
            raise Withdrawn("too late")
        self.tables.append(table)
        if self.loses_place:
            raise OutcomeUnknown("logged")
        return Lsn(len(self.tables))

    async def pin_command(self, _key: int, _tag: int) -> bool:
        self.events.append("pin")
        self.on_pin()
        return not self.gone

    async def unpin_command(self, _key: int) -> None:
        self.events.append("unpin")


class Side:
    """One node: its replica, its core, its door."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.core = Core()
        self.volume = SimpleNamespace(
            volume_id=VOLUME,
            replica_id=rid(name),
            known_line=line(1, 1, "a", "abc"),
            size_bytes=SIZE,
            block_size=4096,
            disk_failed=False,
            pool_full=False,
            frozen=False,
            primacy=object() if name == "a" else None,
            peer=lambda replica: SimpleNamespace(ctrl_addr=f"at {replica}"),
        )
        self.reservations = Reservations(
            cast("DataPlane", self.core),
            spawn=lambda work, _name: work.close(),
            log=structlog.get_logger().bind(node=NodeId(name)),
            patience_s=0.0,
        )
        self.door = Door(
            cast("Replicas", self),
            self.reservations,
            cluster_id=lambda: "c1",
            clock_ns=lambda: self.core.now_ns,
        )

    def get(self, volume_id: VolumeId) -> Any:
        if volume_id != VOLUME:
            raise NotFound("not here")
        return self.volume

    @property
    def replica(self) -> Volume:
        return cast("Volume", self.volume)


class Wire:
    """From the standby to the others; ``on_look`` and ``on_change`` happen to what goes over it."""

    def __init__(self, *sides: Side) -> None:
        self.sides = {f"at {side.volume.replica_id}": side for side in sides}
        self.asked: list[str] = []
        self.requests: list[ReservationChangeRequest] = []
        self.told: list[str] = []
        #: When each look is given up.
        self.until: list[float] = []
        self.on_look: Callable[[], None] = lambda: None
        self.on_change: Callable[[Awaitable[ReservationChangeAnswer]], Awaitable[Any]] = _through

    async def look_at_reservations(
        self, addr: str, request: ReservationLookRequest, *, timeout_s: float
    ) -> ReservationLook:
        assert timeout_s > 0
        self.until.append(asyncio.get_running_loop().time() + timeout_s)
        self.asked.append(addr)
        self.on_look()
        return await self.sides[addr].door.look(request)

    async def change_reservations(
        self, addr: str, request: ReservationChangeRequest, *, timeout_s: float
    ) -> ReservationChangeAnswer:
        assert timeout_s > LOGGED_WITHIN_S
        self.requests.append(request)
        self.told.append(addr)
        answer: ReservationChangeAnswer = await self.on_change(
            self.sides[addr].door.change(request)
        )
        return answer


async def _through(work: Awaitable[ReservationChangeAnswer]) -> ReservationChangeAnswer:
    return await work


class Bed:
    def __init__(self, *, patience_s: float = WAIT_S) -> None:
        self.primary, self.standby, self.third = Side("a"), Side("b"), Side("c")
        self.wire = Wire(self.primary, self.third)
        self.forwarding = Forwarding(self.wire, within_s=HURRY_S, patience_s=patience_s)
        self.command = Pinned(dataplane=cast("DataPlane", self.standby.core), session_key=1, tag=2)

    async def register(self, key: int = 7, nexus: ReservationNexus = A) -> ScsiAnswer:
        cdb = struct.pack(">BBB2xIx6x", 0x5F, 0, 0, 24)
        data = struct.pack(">QQ8x", 0, key)
        try:
            return await self.forwarding.change(
                self.standby.replica, Asker(nexus=nexus, port=2), cdb, data, self.command
            )
        finally:
            await self.command.release()

    def promote(self, side: Side) -> None:
        for one in (self.primary, self.standby, self.third):
            one.volume.known_line = line(2, 1, side.name, "abc")
            one.volume.primacy = object() if one is side else None


@pytest.fixture
def bed() -> Bed:
    return Bed()


@pytest.fixture
def hasty() -> Bed:
    """For who is refused in the end."""
    return Bed(patience_s=HURRY_S)


async def test_a_change_is_made_by_the_primary_in_the_name_of_who_asked_and_its_path(
    bed: Bed,
) -> None:
    assert await bed.register() == ScsiAnswer()
    (row,) = decode_table(bed.primary.core.tables[-1]).registrants
    assert (row.nexus, row.key, row.port) == (A, 7, 2)
    assert bed.standby.core.tables == []
    assert bed.standby.core.events == ["pin", "unpin"]
    assert (await bed.forwarding.table(bed.standby.replica)).registrants == (row,)
    # A second one has to name its key, wherever it comes from.
    assert (await bed.register(8)).status is Status.RESERVATION_CONFLICT


async def test_a_primary_that_is_not_reached_was_told_nothing(hasty: Bed) -> None:
    def lost() -> None:
        raise Unavailable("cut off")

    hasty.wire.on_look = lost
    with pytest.raises(Unavailable):
        await hasty.register()
    with pytest.raises(Unavailable):
        await hasty.forwarding.table(hasty.standby.replica)
    assert hasty.wire.requests == []
    assert hasty.standby.core.events == []


def test_a_primary_is_looked_for_as_long_as_is_said_and_no_longer(hasty: Bed) -> None:
    """However late a call begins: an initiator has a time after which it gives the command up."""

    def lost() -> None:
        raise TimedOut("silent")

    async def look() -> float:
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable):
            await hasty.register()
        return began

    hasty.wire.on_look = lost
    began = run_virtual(look())
    assert hasty.wire.until
    assert max(hasty.wire.until) < began + LOOK_TIMEOUT_S


async def test_a_former_primary_refuses_by_its_gate(hasty: Bed) -> None:
    hasty.primary.core.error = StaleEpoch("fenced")
    with pytest.raises(Unavailable):
        await hasty.register()
    assert hasty.wire.requests == []
    # Fenced between the look and the change.
    hasty.primary.core.error = None

    async def fenced(work: Awaitable[ReservationChangeAnswer]) -> ReservationChangeAnswer:
        hasty.primary.core.error = StaleEpoch("fenced")
        return await work

    hasty.wire.on_change = fenced
    with pytest.raises(Unavailable):
        await hasty.register()
    assert len(hasty.wire.requests) == 1
    assert hasty.primary.core.tables == []


async def test_who_became_primary_meanwhile_is_asked_instead(bed: Bed) -> None:
    async def moved(work: Awaitable[ReservationChangeAnswer]) -> ReservationChangeAnswer:
        bed.wire.on_change = _through
        bed.promote(bed.third)
        return await work

    bed.wire.on_change = moved
    assert await bed.register() == ScsiAnswer()
    assert bed.wire.asked == [f"at {rid('a')}", f"at {rid('c')}"]
    assert bed.primary.core.tables == []
    assert len(bed.third.core.tables) == 1
    assert bed.standby.core.events == ["pin", "unpin"]


async def test_a_ticket_is_of_no_use_at_another_node(bed: Bed) -> None:
    """Another one is promoted while the command is pinned; its clock shows next to nothing beside that of the first.

    With the first one's ticket it would log the command for days, long after its initiator was told that it is over.
    """
    bed.third.core.now_ns = NS
    bed.standby.core.on_pin = lambda: bed.promote(bed.third)
    assert await bed.register() == ScsiAnswer()
    assert bed.wire.asked == [f"at {rid('a')}", f"at {rid('c')}"]
    assert bed.wire.told == bed.wire.asked
    assert [request.ticket_ns for request in bed.wire.requests] == [1000 * NS, NS]
    assert bed.primary.core.tables == []
    assert len(bed.third.core.tables) == 1


async def test_a_node_that_became_primary_itself_goes_on_by_itself(bed: Bed) -> None:
    def moved() -> None:
        bed.promote(bed.standby)
        raise StaleEpoch("fenced")

    bed.wire.on_look = moved
    with pytest.raises(ServedHere):
        await bed.register()
    assert not Forwarding.wanted(bed.standby.replica)
    assert Forwarding.wanted(bed.primary.replica)


async def test_a_command_that_was_taken_back_is_not_sent(bed: Bed) -> None:
    bed.standby.core.gone = True
    with pytest.raises(Withdrawn):
        await bed.register()
    assert bed.wire.requests == []
    assert bed.standby.core.events == ["pin"]


@pytest.mark.parametrize("error", [Unavailable("reset"), TimedOut("silent")])
async def test_without_an_answer_it_is_pinned_until_nothing_can_come_of_it(
    bed: Bed, error: SparrowError
) -> None:
    """The core of the primary logs nothing after the time the ticket allows; until then it might."""
    sent = asyncio.Event()

    async def lost(work: Awaitable[ReservationChangeAnswer]) -> ReservationChangeAnswer:
        cast("Any", work).close()
        sent.set()
        raise error

    bed.wire.on_change = lost
    loop = asyncio.get_running_loop()
    began = loop.time()
    asking = loop.create_task(bed.register())
    await sent.wait()
    assert bed.standby.core.events == ["pin"]
    with pytest.raises(OutcomeUnknown):
        await asking
    assert loop.time() - began >= HURRY_S
    assert bed.standby.core.events == ["pin", "unpin"]


async def test_a_command_that_was_on_its_way_for_too_long_is_not_logged(bed: Bed) -> None:
    async def slow(work: Awaitable[ReservationChangeAnswer]) -> ReservationChangeAnswer:
        bed.primary.core.now_ns += int(LOGGED_WITHIN_S * NS)
        return await work

    bed.wire.on_change = slow
    assert (await bed.register()).status is Status.BUSY
    assert bed.primary.core.tables == []


async def test_a_change_that_nobody_knows_the_end_of_is_told_as_that(bed: Bed) -> None:
    bed.primary.core.loses_place = True
    with pytest.raises(OutcomeUnknown):
        await bed.register()
    assert len(bed.primary.core.tables) == 1


async def test_an_answer_that_says_nothing_is_no_answer(bed: Bed) -> None:
    async def odd(work: Awaitable[ReservationChangeAnswer]) -> ReservationChangeAnswer:
        return replace(await work, status=0x77)

    bed.wire.on_change = odd
    with pytest.raises(OutcomeUnknown):
        await bed.register()
    assert bed.standby.core.events == ["pin", "unpin"]


GOOD = ReservationChangeRequest(
    volume_id=VOLUME,
    ticket_ns=1000 * NS,
    registrant=A.record(port=2),
    cdb=struct.pack(">BBB2xIx6x", 0x5F, 0, 0, 24),
    data=struct.pack(">QQ8x", 0, 7),
)
OTHER_HOST = ReservationNexus(kind=2, identifier=bytes(16), name="nqn.h")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("volume_id", "no id"),
        ("ticket_ns", 0),
        ("ticket_ns", 1 << 63),
        ("cdb", b""),
        ("cdb", bytes(16)),
        ("cdb", bytes([0x16]).ljust(16, b"\0")),
        ("cdb", bytes([0x5E]).ljust(16, b"\0")),
        ("data", bytes((1 << 16) + 1)),
        ("registrant", b""),
        ("registrant", A.record(port=2) + b"\0"),
        ("registrant", A.record(port=0)),
        ("registrant", A.record(port=2, key=1)),
        ("registrant", OTHER_HOST.record(port=2)),
    ],
)
async def test_what_no_node_sends_is_refused(bed: Bed, field: str, value: object) -> None:
    with pytest.raises(RemoteProtocolError, match=field):
        await bed.primary.door.change(replace(GOOD, **{field: cast("Any", value)}))
    answer = await bed.primary.door.change(GOOD)
    assert answer.outcome is ReservationOutcome.ANSWERED
