"""A connection of an initiator with one node, from its login on: what is sent on it arrives in order, sometimes late.

What frontends promise, and initiators count on, is played here on the core's own word of it:

- a login of an initiator ends its older session there before anything of the new one is taken (RFC 7143, 6.3.5): what
  arrives on the old one later is dropped, and what has no LSN is taken back;
- no session outlives the term it was begun in (``_native/front/client.pyx``): what was sent to a primary and arrives
  when another one has led in between is dropped, although the node leads again;
- commands go only where the node says on the same connection that it serves, as ALUA and ANA have it. A write that
  waits in a connection with a standby could take effect when that one is promoted, and no target can know that it was
  given up.

A process that stands still takes what came meanwhile when it goes on, in its order.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final

from sparrow.base.ids import VolumeId
from sparrow.dataplane.events import Mail
from sparrow.sim.clock import WORLD, Step

if TYPE_CHECKING:
    from sparrow.sim.compiled.plane import CompiledDataPlane
    from sparrow.sim.compiled.world import CompiledWorld

Begin = Callable[["CompiledDataPlane"], "asyncio.Future[Mail] | None"]
#: None when the connection ended before it came, or patience did.
Answer = asyncio.Future[Mail | None]

TRANSIT_S: Final = (0.0001, 0.001)
#: A segment was lost, again and again: all behind it waits too.
LATE_CHANCE: Final = 0.02
LATE_S: Final = (0.1, 6.0)
#: A reset is noticed within this.
NOTICE_S: Final = 0.3
REFUSED: Final = Mail(0, 0, 0, -errno.ESTALE, 0, 0, 0, 0, 0, b"")


class Session:
    """Its login is under way when it is made.

    Args:
        initiator: whose older session with the node ends.
    """

    def __init__(
        self,
        world: CompiledWorld,
        plane: CompiledDataPlane,
        volume_id: VolumeId,
        initiator: int,
        rng: Random,
    ) -> None:
        self.plane = plane
        #: The initiator has not ended it.
        self.open = True
        #: The node says that it serves.
        self.ready = False
        self._world = world
        self._volume_id = volume_id
        self._name = (volume_id, initiator)
        self._rng = rng
        self._arrives = 0.0
        self._returns = 0.0
        #: At the node: nothing more is taken.
        self._closed = False
        self._terms_ended = -1
        self._under_way: list[asyncio.Future[Mail]] = []
        #: What the initiator waits for, each with the end of its patience.
        self._awaited: dict[Answer, Step] = {}
        self._send(self._login)

    def ask(self, patience_s: float) -> Answer:
        """Whether the node serves; the answer is good or it is not."""
        return self._command(self._tell, patience_s)

    def send(self, begin: Begin, patience_s: float) -> Answer:
        """A command."""
        return self._command(partial(self._begin, begin), patience_s)

    def end(self) -> None:
        """The initiator closes it; the node hears of it behind all that was sent."""
        if self.open:
            self._reset()
            self._send(self._close)

    def lost(self) -> None:
        """The node's process is gone, and its machine says so."""
        self._world.loop.at(self._rng.uniform(0.0, NOTICE_S), self._reset)

    def stall(self, seconds: float) -> None:
        """What is sent from now on arrives no sooner."""
        self._arrives = max(self._arrives, self._world.loop.now + seconds)

    # ------------------------------------------------------------ on the way

    def _command(self, take: Callable[[Answer], None], patience_s: float) -> Answer:
        answer: Answer = self._world.loop.create_future()
        self._awaited[answer] = self._world.loop.at(patience_s, self._settle, answer, None)
        self._send(partial(self._take, take, answer))
        return answer

    def _settle(self, answer: Answer, mail: Mail | None) -> None:
        patience = self._awaited.pop(answer, None)
        if patience is not None:
            patience.cancel()
            answer.set_result(mail)

    def _send(self, call: Callable[[], None]) -> None:
        now = self._world.loop.now
        transit_s = self._rng.uniform(*(LATE_S if self._rng.random() < LATE_CHANCE else TRANSIT_S))
        self._arrives = max(self._arrives, now + transit_s)
        self.plane.arrives(self._arrives - now, call)

    def _reply(self, answer: Answer, mail: Mail) -> None:
        now = self._world.loop.now
        self._returns = max(self._returns, now + self._rng.uniform(*TRANSIT_S))
        self._world.loop.at(self._returns - now, self._settle, answer, mail)

    def _reset(self) -> None:
        self.open = False
        for answer in tuple(self._awaited):
            self._settle(answer, None)

    # ------------------------------------------------------------ at the node, in its process

    def _login(self) -> None:
        if not self.plane.alive:
            return
        older = self.plane.sessions.get(self._name)
        self.plane.sessions[self._name] = self
        if older is not None:
            older.reinstated()
        self._terms_ended = self.plane.terms_ended(self._volume_id)

    def reinstated(self) -> None:
        """The same initiator has logged in anew."""
        self._close()

    def _close(self) -> None:
        self._closed = True
        self._world.loop.at(self._rng.uniform(*TRANSIT_S), self._reset)
        for answer in self._under_way:
            self.plane.give_up(answer)
        self._under_way.clear()

    def _take(self, take: Callable[[Answer], None], answer: Answer) -> None:
        if not self._closed and self._outlived():
            self._close()
        if not self._closed and self.plane.alive:
            take(answer)

    def _outlived(self) -> bool:
        """The term it was begun in is over."""
        return self._terms_ended != self.plane.terms_ended(self._volume_id)

    def _tell(self, answer: Answer) -> None:
        self.ready = self.plane.may_serve(self._volume_id)
        self._reply(answer, REFUSED._replace(rc=0) if self.ready else REFUSED)

    def _begin(self, begin: Begin, answer: Answer) -> None:
        found = begin(self.plane)
        if found is None:
            self._reply(answer, REFUSED)
            return
        self._under_way.append(found)
        found.add_done_callback(partial(self._answered, answer), context=WORLD)

    def _answered(self, answer: Answer, found: asyncio.Future[Mail]) -> None:
        if found in self._under_way and not found.cancelled() and found.exception() is None:
            self._under_way.remove(found)
            self.ready = self.ready and found.result().rc == 0
            self._reply(answer, found.result())
