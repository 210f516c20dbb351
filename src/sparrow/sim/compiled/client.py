"""A client of one volume on the compiled core: reads and writes of any size at once, on whoever may answer."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable
from itertools import chain
from random import Random
from typing import TYPE_CHECKING, Final

from sparrow.base.constants import PAGE_BYTES
from sparrow.base.ids import VolumeId
from sparrow.dataplane.events import Mail
from sparrow.sim.clock import WORLD
from sparrow.sim.compiled.content import page_of, value_of
from sparrow.sim.compiled.fencing import RECORDS, Fencing
from sparrow.sim.compiled.history import PageHistory
from sparrow.sim.compiled.initiator import INITIATORS, Initiator
from sparrow.sim.compiled.survival import Mark, mark_of

if TYPE_CHECKING:
    from sparrow.sim.compiled.plane import CompiledDataPlane
    from sparrow.sim.compiled.world import CompiledWorld

#: Few pages, so that they are written again and again; spread over both ends of the volume as it was made.
PAGES: Final = (0, 1, 2, 3, 4, 5, 6, 7, 128, 129, 130, 131, 252, 253, 254, 255)
#: Pages of which halves are written by themselves too: what such a write does not cover must stay as it was.
SPLIT_PAGES: Final = (2, 3, 130, 131)
HALF: Final = PAGE_BYTES // 2
#: As many more at each end that a resize makes.
END_PAGES: Final = 4
RUN_MAX: Final = 8
IN_FLIGHT_MAX: Final = 8
ELSEWHERE: Final = 0.15
PAUSE_S: Final = (0.01, 0.2)


class BlockClient:
    """Values are numbered; a write of several pages gives all of them the same."""

    def __init__(self, world: CompiledWorld, volume_id: VolumeId, rng: Random) -> None:
        self.volume_id = volume_id
        self.acked = 0
        self.reads = 0
        #: Of the whole page, or of its lower half where halves are written by themselves.
        self.pages = {page: world.history_of(volume_id) for page in PAGES}
        self.upper = {page: world.history_of(volume_id) for page in SPLIT_PAGES}
        #: The same, in order.
        self._places = list(PAGES)
        #: Pages that were written by floods, which nobody reads.
        self.flooded: set[int] = set()
        self._world = world
        self._rng = rng
        self.fencing = Fencing(world, volume_id, Random(rng.random()))
        #: Nothing more is begun.
        self.quiet = False
        #: Others that use the volume, each pages of its own.
        self.initiators: list[Initiator] = []
        #: The pages of every write.
        self.runs: dict[int, range] = {}
        self._zeroed: dict[int, int] = {}
        self._count = 0
        self._in_flight = 0

    def act(self) -> None:
        """One turn, by the world: on who serves, now and then on somebody else."""
        self._world.loop.at(self._rng.uniform(*PAUSE_S), self.act)
        if self.quiet:
            return
        for node in self._world.living_nodes():
            plane = self._world.plane_of(node)
            if node.process.stopped:
                continue
            if plane.may_serve(self.volume_id):
                self.fencing.act(plane)
            if plane.may_serve(self.volume_id) or self._rng.random() < ELSEWHERE:
                for _ in range(self._rng.choice((1, 1, 1, 3))):
                    self._one(plane)

    def join_initiators(self) -> None:
        """From now on others use the volume too."""
        for number in range(INITIATORS):
            rng = Random(self._rng.random())
            self.initiators.append(Initiator(self._world, self, number, rng))

    def grown(self, pages: int) -> None:
        """The volume is said to have so many pages: the last of them are used too from now on."""
        for page in range(max(pages - END_PAGES, 0), pages):
            if page not in self.pages:
                self.pages[page] = self._world.history_of(self.volume_id)
                bisect.insort(self._places, page)

    def written(self) -> set[int]:
        """Pages that anybody may have written."""
        others = chain.from_iterable(one.pages for one in self.initiators)
        return {*self.pages, *others, *self.flooded}

    def _one(self, plane: CompiledDataPlane) -> None:
        places = self._places
        at = self._rng.randrange(len(places))
        first = places[at]
        count = min(self._rng.choice((1, 1, 1, 2, 4, RUN_MAX)), len(places) - at)
        while places[at + count - 1] != first + count - 1:
            count -= 1
        draw = self._rng.random()
        if draw < 0.4:
            self.read(plane, first, count)
        elif draw < 0.44:
            plane.submit(self.volume_id, "flush")
        elif self._in_flight < IN_FLIGHT_MAX:
            self._in_flight += 1
            # Given up by an initiator after a while; it may happen all the same.
            self._world.loop.at(2.0, self._give_up)
            if draw < 0.6 and first in self.upper:
                if draw < 0.48 and first + 1 in self.upper:
                    self.write_across(plane, first)
                else:
                    self.write_half(plane, first, upper=draw < 0.54)
                return
            zero = draw > 0.97 and all(
                page not in self._zeroed and self.pages[page].settled
                for page in range(first, first + count)
            )
            self.write(plane, first, count, zero=zero)

    def write(
        self, plane: CompiledDataPlane, first: int, count: int, *, zero: bool = False
    ) -> asyncio.Future[Mail] | None:
        """One entry with a value of its own. A page is zeroed once in its life, so that zeros name their write.

        Two hosts take turns; the other one's reservation may refuse it.
        """
        pages = range(first, first + count)
        value = self._count + 1
        if zero:
            answer = plane.submit(self.volume_id, "zero", first, count, nexus=self._nexus())
        else:
            data = b"".join(page_of(page, value) for page in pages)
            answer = plane.submit(self.volume_id, "write", first, count, data, nexus=self._nexus())
        if answer is None:
            return None
        histories = [self.pages[page] for page in pages]
        histories += [self.upper[page] for page in pages if page in self.upper]
        self._written(plane, answer, pages, histories)
        if zero:
            self._zeroed.update(dict.fromkeys(pages, value))
        return answer

    def write_half(
        self, plane: CompiledDataPlane, page: int, *, upper: bool
    ) -> asyncio.Future[Mail] | None:
        """A write of half a page; the other half is a register of its own."""
        data = page_of(page, self._count + 1)
        skip, cut = (HALF, 0) if upper else (0, HALF)
        answer = plane.submit(
            self.volume_id, "write", page, 1, data, skip=skip, cut=cut, nexus=self._nexus()
        )
        if answer is not None:
            halves = self.upper if upper else self.pages
            self._written(plane, answer, range(page, page + 1), [halves[page]])
        return answer

    def write_across(self, plane: CompiledDataPlane, page: int) -> asyncio.Future[Mail] | None:
        """One write of the upper half of a page and the lower half of the next."""
        value = self._count + 1
        data = page_of(page, value) + page_of(page + 1, value)
        answer = plane.submit(
            self.volume_id, "write", page, 2, data, skip=HALF, cut=HALF, nexus=self._nexus()
        )
        if answer is not None:
            histories = [self.upper[page], self.pages[page + 1]]
            self._written(plane, answer, range(page, page + 2), histories)
        return answer

    def _nexus(self) -> bytes:
        return RECORDS[self._count % 2]

    def _written(
        self,
        plane: CompiledDataPlane,
        answer: asyncio.Future[Mail],
        pages: range,
        histories: list[PageHistory],
    ) -> None:
        """A write began, with the next value."""
        host = self._count % 2
        self._count += 1
        value = self._count
        self.runs[value] = pages
        for history in histories:
            history.write_began(value, self._world.loop.now)
            history.tried(value, plane.node)

        def answered(mail: Mail) -> None:
            if mail.rc != 0:
                return
            self.acked += 1
            mark = mark_of(mail)
            self.fencing.wrote(host, mark)
            for history in histories:
                history.write_answered(value, self._world.loop.now, mark)
            self._world.answered(self.volume_id, mark)

        self.then(answer, answered)

    def _give_up(self) -> None:
        self._in_flight -= 1

    def read(self, plane: CompiledDataPlane, first: int, count: int) -> asyncio.Future[Mail] | None:
        """Read, and remember what came back."""
        answer = plane.submit(self.volume_id, "read", first, count)
        if answer is None:
            return None
        began = self._world.loop.now

        def answered(mail: Mail) -> None:
            if mail.rc != 0:
                return
            self.reads += 1
            mark = mark_of(mail)
            for number in range(count):
                page = first + number
                data = mail.payload[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
                if page in self.upper:
                    self.saw(self.upper[page], page, data[HALF:], began, mark)
                    data = data[:HALF]
                self.saw(self.pages[page], page, data, began, mark)

        self.then(answer, answered)
        return answer

    def look(self, plane: CompiledDataPlane) -> None:
        """Read every page once more."""
        for page in self.pages:
            self.read(plane, page, 1)
        for initiator in self.initiators:
            initiator.look(plane)

    def saw(self, history: PageHistory, page: int, data: bytes, began: float, mark: Mark) -> None:
        """A page was read."""
        value = value_of(page, data)
        if value is None:
            self._world.checkers.report(
                f"page {page} of {self.volume_id} was answered with what nobody wrote"
            )
            return
        history.read(value or self._zeroed.get(page, 0), began, self._world.loop.now, mark)

    def then(self, answer: asyncio.Future[Mail], call: Callable[[Mail], None]) -> None:
        def settled(future: asyncio.Future[Mail]) -> None:
            if not future.cancelled() and future.exception() is None:
                call(future.result())

        answer.add_done_callback(settled, context=WORLD)

    def faults(self) -> list[str]:
        """Pages whose history no register can have."""
        own = [*self.pages.items(), *self.upper.items()]
        histories = chain(own, *(one.pages.items() for one in self.initiators))
        found = ((page, history.fault()) for page, history in histories)
        return [f"page {page} of {self.volume_id}: {fault}" for page, fault in found if fault]
