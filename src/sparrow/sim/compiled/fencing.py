"""Two initiators of one volume that keep each other out, and what nobody may see of it.

Both write under a reservation for registrants only. Now and then one preempts the other, or lets it in again: the table
is read, changed and logged, on whoever serves. What must be so, whoever dies meanwhile:

- a write that was acknowledged has no higher LSN than an acknowledged table that forbids it, unless somebody has begun
  to let its initiator in again after that table;
- a table that is read is none that an acknowledged one has replaced, and its content is what was logged at that LSN.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from sparrow.base.errors import SparrowError
from sparrow.base.ids import Lsn, VolumeId
from sparrow.formats.reservations import (
    RESERVATION_KIND_NVME,
    RESERVATION_WRITE_EXCLUSIVE_RO,
    ReservationNexus,
    ReservationRegistrant,
    ReservationTable,
    decode_table,
    encode_table,
)

if TYPE_CHECKING:
    from sparrow.sim.compiled.plane import CompiledDataPlane
    from sparrow.sim.compiled.survival import Mark
    from sparrow.sim.compiled.world import CompiledWorld

HOSTS: Final = tuple(
    ReservationNexus(kind=int(RESERVATION_KIND_NVME), identifier=bytes([n] * 16), name=f"nqn.h{n}")
    for n in (1, 2)
)
RECORDS: Final = tuple(host.record() for host in HOSTS)
#: Of the turns of a client in which nothing of this is under way.
CHANGES: Final = 0.03
#: An initiator gives up a command after this.
GIVE_UP_S: Final = 3.0


@dataclass(slots=True, kw_only=True)
class Attempt:
    """A change that was handed to a core: who is registered by it, and which table it replaces."""

    hosts: tuple[int, ...]
    expected: int
    #: 0 while nobody knows whether, or where, it was logged.
    lsn: int = 0
    #: In this epoch or before.
    epoch: int = 0


class Fencing:
    """The changes of one volume, by generation."""

    def __init__(self, world: CompiledWorld, volume_id: VolumeId, rng: Random) -> None:
        self._world = world
        self._volume_id = volume_id
        self._rng = rng
        self._attempts: dict[int, Attempt] = {}
        self._busy = False
        self.acked = 0
        #: Tables that it knows nothing of are no surprise: somebody else logs some.
        self.shared = False

    def act(self, plane: CompiledDataPlane) -> None:
        """One turn of the client, on who serves."""
        if self._busy or self._rng.random() >= CHANGES:
            return
        self._busy = True
        hosts = self._rng.choice(((0, 1), (0,), (1,)))
        self._world.spawn(self._turn(plane, hosts), "reservations")

    async def _turn(self, plane: CompiledDataPlane, hosts: tuple[int, ...]) -> None:
        await self.change(plane, hosts)
        # Whoever is out stays out for a while: then every write of its own that is acknowledged is one too many.
        await asyncio.sleep(self._rng.uniform(0.1, 3.0))
        self._busy = False

    async def change(self, plane: CompiledDataPlane, hosts: tuple[int, ...]) -> None:
        """Make these the registrants; given up without an answer like any command."""
        try:
            async with asyncio.timeout(GIVE_UP_S):
                expected = await self._read(plane)
                if plane.alive:
                    await self._log(plane, expected, hosts)
        except (SparrowError, TimeoutError):
            return

    async def look(self, plane: CompiledDataPlane) -> None:
        """Read it once more."""
        with contextlib.suppress(SparrowError, TimeoutError):
            async with asyncio.timeout(GIVE_UP_S):
                await self._read(plane)

    async def _read(self, plane: CompiledDataPlane) -> Lsn:
        newest = self._newest_acked()
        lsn, blob = await plane.reservations(self._volume_id)
        said = f"the table of {self._volume_id} at {lsn}"
        if lsn < newest:
            self._world.checkers.report(f"{said} was read, and {newest} was acknowledged before")
        if blob is not None and not self.shared:
            attempt = self._attempts.get(decode_table(blob).generation)
            if attempt is None or attempt.lsn not in (0, lsn) or blob != self._blob(attempt):
                self._world.checkers.report(f"{said} is none that was logged there")
            elif attempt.lsn == 0:
                attempt.lsn, attempt.epoch = lsn, plane.term_of(self._volume_id).epoch
        return lsn

    async def _log(self, plane: CompiledDataPlane, expected: Lsn, hosts: tuple[int, ...]) -> None:
        attempt = Attempt(hosts=hosts, expected=expected)
        self._attempts[len(self._attempts) + 1] = attempt
        lsn = await plane.log_reservations(self._volume_id, expected, self._blob(attempt))
        if lsn is None:
            # Another one came in between: this one is nowhere.
            attempt.expected = -1
            return
        attempt.lsn, attempt.epoch = lsn, plane.term_of(self._volume_id).epoch
        self.acked += 1
        self._world.acknowledged(self._volume_id, lsn)

    def _blob(self, attempt: Attempt) -> bytes:
        generation = next(n for n, one in self._attempts.items() if one is attempt)
        return encode_table(
            ReservationTable(
                registrants=tuple(
                    ReservationRegistrant(nexus=HOSTS[n], key=n + 1) for n in attempt.hosts
                ),
                generation=generation,
                type=int(RESERVATION_WRITE_EXCLUSIVE_RO),
                holder=HOSTS[attempt.hosts[0]],
            )
        )

    def _newest_acked(self) -> int:
        return max((one.lsn for one in self._attempts.values()), default=0)

    def wrote(self, host: int, mark: Mark) -> None:
        """A write of this host was acknowledged. Under ack=local a later term may have used its LSN again."""
        lsn = mark.lsn
        before = [
            one
            for one in self._attempts.values()
            if 0 < one.lsn < lsn and one.epoch <= mark.term.epoch
        ]
        newest = max(before, key=lambda one: one.lsn, default=None)
        if newest is None or host in newest.hosts:
            return
        if not any(
            host in one.hosts and one.expected >= newest.lsn and not one.lsn > lsn
            for one in self._attempts.values()
        ):
            self._world.checkers.report(
                f"a write of host {host} to {self._volume_id} was acknowledged at {lsn}, "
                f"and the table at {newest.lsn} forbids it"
            )
