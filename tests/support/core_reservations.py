"""Tables of reservations and their changes, for tests of the core."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from sparrow.base.ids import Lsn
from sparrow.formats.reservations import (
    RESERVATION_EXCLUSIVE_ACCESS_RO,
    RESERVATION_KIND_ISCSI,
    ReservationNexus,
    ReservationRegistrant,
    ReservationTable,
    encode_table,
)
from sparrow.ports.dataplane import Upcall
from tests.support.core_client import Client
from tests.support.core_cluster import DEMO, CoreNode
from tests.support.front_bed import NOP_IN, NOP_OUT, RESPONSE
from tests.support.waiting import until

T = TypeVar("T")
GOOD, CONFLICT, TASK_ABORTED = 0x00, 0x18, 0x40


def nexus(name: str, isid: int = 1) -> ReservationNexus:
    return ReservationNexus(
        kind=int(RESERVATION_KIND_ISCSI),
        identifier=isid.to_bytes(6, "big").ljust(16, b"\0"),
        name=f"iqn.2026-01.example:{name}",
    )


ALICE, BOB, CAROL = nexus("alice"), nexus("bob"), nexus("carol")


def table(
    *registered: ReservationNexus,
    kind: int = 0,
    holder: ReservationNexus | None = None,
    generation: int = 1,
) -> bytes:
    return encode_table(
        ReservationTable(
            registrants=tuple(
                ReservationRegistrant(nexus=one, key=7 + number, port=1)
                for number, one in enumerate(registered)
            ),
            generation=generation,
            type=kind,
            holder=holder,
            aptpl=True,
        )
    )


#: Bob was preempted, Alice holds it for registrants only.
ALICE_ALONE = table(ALICE, kind=int(RESERVATION_EXCLUSIVE_ACCESS_RO), holder=ALICE, generation=3)
BOTH = table(ALICE, BOB, kind=int(RESERVATION_EXCLUSIVE_ACCESS_RO), holder=ALICE, generation=2)


async def change(node: CoreNode, blob: bytes) -> Lsn:
    """What the control side does: read the newest, log the next."""
    lsn, _ = await node.plane.reservations(DEMO)
    logged = await node.plane.log_reservations(DEMO, lsn, blob)
    assert logged is not None
    return logged


async def begun(node: CoreNode, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A command that waits; when this returns the core has it."""
    task = asyncio.ensure_future(work)
    for _ in range(2):
        # The first may overtake it on the way, the second does not.
        await node.plane.status(DEMO)
    return task


async def applied(node: CoreNode) -> None:
    async def done() -> bool:
        log = (await node.plane.status(DEMO)).log
        return log.applied_lsn == log.commit_lsn

    await until(done)


RESERVE_6 = bytes([0x16]).ljust(16, b"\0")


async def asked(node: CoreNode, client: Client) -> tuple[int, Upcall]:
    """A command that the control side answers: its tag, and how the core names it."""
    itt = client.peer.command(RESERVE_6)
    return itt, await node.wait(Upcall)


async def received(client: Client) -> tuple[int, int, int]:
    """The next PDU: opcode, tag, and SCSI status or response."""
    pdu = await asyncio.to_thread(client.peer.receive)
    while client.peer.pong(pdu):
        pdu = await asyncio.to_thread(client.peer.receive)
    return pdu.opcode, pdu.itt, pdu.status if pdu.opcode == RESPONSE else pdu.response


async def hears_nothing(client: Client) -> None:
    """What was queued for it comes before the answer to a ping."""
    ping = client.peer.request(NOP_OUT, immediate=True)
    assert (await received(client))[:2] == (NOP_IN, ping)
