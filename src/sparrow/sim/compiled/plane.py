"""The native data plane of one simulated process, and the connections between such processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from sparrow.authority.types import Term
from sparrow.base.ids import Epoch, NodeId, VolumeId
from sparrow.dataplane.events import Mail
from sparrow.dataplane.machine import CoreSizes
from sparrow.dataplane.native.plane import NativeDataPlane
from sparrow.dataplane.virtual import SIZES, Direct, Room, VirtualMachine, VirtualPool
from sparrow.sim.clock import Process

if TYPE_CHECKING:
    from sparrow.sim.compiled.session import Session

#: What a helper thread takes for opening, syncing or renaming a file.
ASIDE_S: Final = (0.0001, 0.004)


class CompiledDataPlane(NativeDataPlane):
    """Everything production does but the thread: the core has its turns in the simulation's loop."""

    def __init__(
        self, process: Process, pool: VirtualPool, rng: Random, *, sizes: CoreSizes = SIZES
    ) -> None:
        self.pool = pool
        self.node = NodeId(process.name)
        self.machine = VirtualMachine(pool, rng, aside=self._aside)
        super().__init__(
            Path(),
            share_from=rng.choice((0, 0, 2)),
            machine=self.machine,
            sizes=sizes,
        )
        self.direct = Direct(self._core.addresses[1])
        self._process = process
        self._rng = rng
        self.alive = True
        #: This end of the connection over which a replica here was last fed.
        self.fed_by: dict[VolumeId, int] = {}
        #: Of initiators, by volume and number.
        self.sessions: dict[tuple[VolumeId, int], Session] = {}

    async def receive(self, volume_id: VolumeId, fd: int, term: Term) -> None:
        self.fed_by[volume_id] = fd
        await super().receive(volume_id, fd, term)

    async def _aside(self) -> None:
        await asyncio.sleep(self._rng.uniform(*ASIDE_S))

    def kill(self, strike: str, *, silently: bool) -> None:
        """The process, or its machine, is gone in this instant."""
        if self.alive:
            self.alive = False
            self.pool.room.kill(self.pool.host, strike, silently=silently)
            self.direct.forget()
            self._core.abandon()
            for session in () if silently else self.sessions.values():
                session.lost()

    # ------------------------------------------------------------------ a frontend

    def submit(
        self, volume_id: VolumeId, kind: str, first_page: int = 0, count: int = 0, data: bytes = b"",
        *, skip: int = 0, cut: int = 0, internal: bool = False, nexus: bytes = b"",
    ) -> asyncio.Future[Mail] | None:  # fmt: skip
        """One block request; None when it cannot even begin. A write leaves ``skip`` first and ``cut`` last bytes."""
        volume = self._volumes.get(volume_id)
        if volume is None or not self.alive or self._loop is None:
            return None
        token = self._next_token
        self._next_token += 1
        future: asyncio.Future[Mail] = self._loop.create_future()
        self._waiting[token] = future
        begun = self.direct.submit(
            volume.index, token, kind, first_page, count, data,
            skip=skip, cut=cut, internal=internal, nexus=nexus,
        )  # fmt: skip
        if not begun:
            del self._waiting[token]
            return None
        return future

    def give_up(self, answer: asyncio.Future[Mail]) -> None:
        """The connection of a request ends: without an LSN it is taken back."""
        token = next((one for one, waiting in self._waiting.items() if waiting is answer), None)
        if token is not None and self.alive:
            self.direct.abort(token)

    def arrives(self, delay_s: float, call: Callable[[], None]) -> None:
        """Something comes from outside after so many true seconds; who stands still looks at it when it goes on."""
        self._process.meets(delay_s, call)

    def terms_ended(self, volume_id: VolumeId) -> int:
        """How many terms of its own are over: sessions that are older have been ended."""
        volume = self._volumes.get(volume_id)
        return -1 if volume is None or not self.alive else self.direct.terms_ended(volume.index)

    # ------------------------------------------------------------------ what checkers see

    def boot_clock_ns(self) -> int:
        """The clock of the core's times."""
        return self.pool.room.clocks(self.pool.host)[0]

    def may_serve(self, volume_id: VolumeId) -> bool:
        """Whether a read that came now would be answered."""
        volume = self._volumes.get(volume_id)
        return volume is not None and self.alive and self.direct.serves(volume.index)

    def term_of(self, volume_id: VolumeId) -> Term:
        """The newest term this replica knows of as its own or as promised."""
        inside = self.look(volume_id)
        return Term(epoch=Epoch(0 if inside is None else inside.promised_epoch), start=0)

    @property
    def open_gates(self) -> set[VolumeId]:
        """Volumes that are served here now."""
        return {volume_id for volume_id in self._volumes if self.may_serve(volume_id)}

    def look(self, volume_id: VolumeId) -> Inside | None:
        """What the core holds of a volume now; None when it is not open."""
        volume = self._volumes.get(volume_id)
        found = None if volume is None or not self.alive else self.direct.look(volume.index)
        if volume is None or found is None:
            return None
        serves, applied, commit, durable, head, primary, promised, state, condemned, suspect = found
        return Inside(
            uuid=volume.uuid,
            serves=serves,
            applied=applied,
            commit=commit,
            durable=durable,
            head=head,
            primary=primary,
            promised_epoch=promised,
            state=state,
            condemned=condemned,
            suspect=suspect,
        )

    def terms(self, volume_id: VolumeId) -> list[tuple[int, int, int]]:
        """The table of terms of an open volume: epoch, start and first LSN of each."""
        return self.direct.terms(self._volumes[volume_id].index)

    def insides(self) -> Iterator[tuple[VolumeId, Inside]]:
        """Every open volume."""
        for volume_id in self._volumes:
            inside = self.look(volume_id)
            if inside is not None:
                yield volume_id, inside


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """One volume inside a core, at one moment."""

    uuid: str
    serves: bool
    applied: int
    commit: int
    durable: int
    head: int
    primary: bool
    promised_epoch: int
    state: int
    condemned: bool
    suspect: bool


class VirtualEnd:
    """A descriptor nobody has taken yet."""

    def __init__(self, fabric: VirtualFabric, fd: int) -> None:
        self._fabric = fabric
        self._fd = fd

    def close(self) -> None:
        # The number may be another connection's by now.
        if self._fabric.ends.get(self._fd) is self:
            del self._fabric.ends[self._fd]
            self._fabric.room.close(self._fd)


class VirtualFabric:
    """Connections of a room, where the simulation of the control side asks for links."""

    def __init__(self, room: Room, hosts: dict[str, int]) -> None:
        self.room = room
        self.hosts = hosts
        #: The client's ends. Whoever is given the server's end closes it whatever happens.
        self.ends: dict[int, VirtualEnd] = {}

    def link(self, client: Process, server: Process) -> tuple[int, int]:
        ours, theirs = self.room.connect(self.hosts[client.name], self.hosts[server.name])
        self.ends[ours] = VirtualEnd(self, ours)
        self.ends.pop(theirs, None)
        return ours, theirs

    def claimed(self, fd: int) -> None:
        self.ends.pop(fd, None)
