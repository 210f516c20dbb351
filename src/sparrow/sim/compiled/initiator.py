"""An initiator with a path to every node: a command that fails on one is sent again on the next, until it is answered.

It does what initiators with multipath do. A standby answers that it is none; a connection that was reset is noticed
soon, and silence after a while; then the session is ended, with all that is under way on it, and the same command goes
to the next path, in a new session where the old one was ended. What was sent may arrive late all the same
(``session``).

The pages are its own and it has one command at a time on each. So a page reads as what was acknowledged last, or as
what is being written, whatever became of attempts that were given up: one of them that takes effect after a later write
was acknowledged is seen as a value that comes back.
"""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final

from sparrow.base.ids import NodeId
from sparrow.dataplane.events import Mail
from sparrow.sim.compiled.content import page_of
from sparrow.sim.compiled.fencing import RECORDS
from sparrow.sim.compiled.history import PageHistory
from sparrow.sim.compiled.session import Begin, Session
from sparrow.sim.compiled.survival import mark_of

if TYPE_CHECKING:
    from sparrow.sim.compiled.client import BlockClient
    from sparrow.sim.compiled.plane import CompiledDataPlane
    from sparrow.sim.compiled.world import CompiledWorld

INITIATORS: Final = 2
#: Of each initiator, by its number.
FIRST_PAGE: Final = 16
OWN_PAGES: Final = 4
#: Commands at one time.
LANES: Final = 2
PAUSE_S: Final = (0.1, 1.0)
#: Between attempts; each round of all paths in vain makes it twice as long, up to the last.
AGAIN_S: Final = (0.02, 0.1)
AGAIN_LAST: Final = 16
#: After its patience an initiator gives up an answer.
PATIENCE_S: Final = (0.8, 4.0)
READS: Final = 0.3


class Initiator:
    """Values of each page are counted from 1.

    Args:
        number: of the two, whose name for reservations it has.
    """

    def __init__(self, world: CompiledWorld, client: BlockClient, number: int, rng: Random) -> None:
        first = FIRST_PAGE + number * OWN_PAGES
        own = range(first, first + OWN_PAGES)
        self.pages = {page: world.history_of(client.volume_id) for page in own}
        #: Commands sent again, and those of them whose answer was given up.
        self.retried = 0
        self.given_up = 0
        self._world = world
        self._client = client
        self._number = number
        self._rng = rng
        self._patience_s = rng.uniform(*PATIENCE_S)
        self._sessions: dict[NodeId, Session] = {}
        self._paths: list[NodeId] = rng.sample(world.names, len(world.names))
        self._values = dict.fromkeys(self.pages, 0)
        self._idle = list(self.pages)
        #: It stands still until then.
        self._still_until = 0.0
        for _ in range(LANES):
            world.spawn(self._lane(), "initiator")

    def stand_still(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later: what comes meanwhile is looked at then."""
        self._still_until = self._world.loop.now + seconds

    def look(self, plane: CompiledDataPlane) -> None:
        """Read every page once more, on one path."""
        began = self._world.loop.now
        for page, history in self.pages.items():
            answer = plane.submit(self._client.volume_id, "read", page, 1)
            if answer is not None:
                self._client.then(answer, partial(self._looked, history, page, began))

    def _looked(self, history: PageHistory, page: int, began: float, mail: Mail) -> None:
        if mail.rc == 0:
            self._client.saw(history, page, mail.payload, began, mark_of(mail))

    async def _lane(self) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(*PAUSE_S))
            await self._running()
            if self._client.quiet:
                continue
            page = self._idle.pop(self._rng.randrange(len(self._idle)))
            if self._rng.random() < READS:
                await self._read(page)
            else:
                await self._write(page)
            self._idle.append(page)

    async def _read(self, page: int) -> None:
        client, began = self._client, self._world.loop.now
        mail = await self._command(lambda plane: plane.submit(client.volume_id, "read", page, 1))
        client.reads += 1
        client.saw(self.pages[page], page, mail.payload, began, mark_of(mail))

    async def _write(self, page: int) -> None:
        client, world = self._client, self._world
        self._values[page] += 1
        value = self._values[page]
        self.pages[page].write_began(value, world.loop.now)
        data = page_of(page, value)
        nexus = RECORDS[self._number]

        def begin(plane: CompiledDataPlane) -> asyncio.Future[Mail] | None:
            self.pages[page].tried(value, plane.node)
            return plane.submit(client.volume_id, "write", page, 1, data, nexus=nexus)

        mark = mark_of(await self._command(begin))
        client.acked += 1
        client.fencing.wrote(self._number, mark)
        self.pages[page].write_answered(value, world.loop.now, mark)
        world.answered(client.volume_id, mark)

    async def _command(self, begin: Begin) -> Mail:
        """The good answer to a command, after as many attempts as it takes."""
        attempts = 0
        while True:
            attempts += 1
            session = self._session(self._paths[0])
            if session is not None:
                mail = await self._attempt(session, begin)
                if mail is not None and mail.rc == 0:
                    return mail
                if mail is None:
                    self.given_up += 1
                    session.end()
            self._paths.append(self._paths.pop(0))
            longer = min(2 ** (attempts // len(self._paths)), AGAIN_LAST)
            await asyncio.sleep(self._rng.uniform(*AGAIN_S) * longer)
            await self._running()
            self.retried += 1

    def _session(self, name: NodeId) -> Session | None:
        """The one with this node, begun when there is none; None while its process is not there."""
        node = self._world.nodes.get(name)
        if node is None:
            return None
        session, plane = self._sessions.get(name), self._world.plane_of(node)
        if session is None or not session.open or session.plane is not plane:
            session = Session(
                self._world, plane, self._client.volume_id, self._number, Random(self._rng.random())
            )
            self._sessions[name] = session
        return session

    async def _attempt(self, session: Session, begin: Begin) -> Mail | None:
        """Only where the node says that it serves. None when the connection ended, or patience did."""
        if not session.ready:
            said = await session.ask(self._patience_s)
            await self._running()
            if said is None or said.rc != 0:
                return said
        mail = await session.send(begin, self._patience_s)
        await self._running()
        return mail

    async def _running(self) -> None:
        left_s = self._still_until - self._world.loop.now
        if left_s > 0:
            await asyncio.sleep(left_s)
