"""A client of one volume: writes whenever some replica serves, reads back, and keeps the history.

Under ack=local an answer is worth what the primary that gave it is worth: a later read of that term must have it, and
everybody once it was committed.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from sparrow.authority.types import AckPolicy, Term
from sparrow.base.errors import SparrowError
from sparrow.base.ids import VolumeId
from sparrow.sim.checkers import Acked
from sparrow.sim.histories import Histories

if TYPE_CHECKING:
    from sparrow.sim.node import SimNode
    from sparrow.sim.world import World

PAGES: Final = 8
IN_FLIGHT_MAX: Final = 4


class Client:
    """Values are counters: of each page a newer write has a higher one."""

    def __init__(self, world: World, volume_id: VolumeId, rng: Random) -> None:
        self.volume_id = volume_id
        self.acked = 0
        self.histories = Histories()
        self._world = world
        self._rng = rng
        self._count = 0
        self._in_flight: set[int] = set()
        #: ack=local: the newest that was answered in one term of one set of files, by page. A volume made anew under
        #: the old name begins its terms anew.
        self._answered: dict[tuple[str, Term, int], int] = {}

    def act(self) -> None:
        """One turn, by the world."""
        self._world.loop.at(self._rng.uniform(0.02, 0.25), self.act)
        for node in self._world.living_nodes():
            if not node.process.stopped and node.dataplane.may_serve(self.volume_id):
                page = self._rng.randrange(PAGES)
                if self._rng.random() < 0.3:
                    node.process.soon(self._read, node, page)
                elif len(self._in_flight) < IN_FLIGHT_MAX:
                    self._count += 1
                    self._in_flight.add(self._count)
                    # A write that is never answered is given up, as an initiator does.
                    self._world.loop.at(3.0, self._in_flight.discard, self._count)
                    node.process.spawn(self._write(node, page, self._count), "write")

    async def _write(self, node: SimNode, page: int, value: int) -> None:
        term = node.dataplane.term_of(self.volume_id)
        epoch = term.epoch
        files_of = self._uuid(node)
        self.histories.sends(page, value, epoch)
        try:
            lsn = await node.dataplane.write(self.volume_id, page, str(value).encode())
        except SparrowError:
            return
        finally:
            self._in_flight.discard(value)
        self.acked += 1
        if self._world.shape.ack is AckPolicy.LOCAL:
            where = (files_of, term, page)
            self._answered[where] = max(value, self._answered.get(where, 0))
            try:
                await node.dataplane.committed(self.volume_id, lsn)
            except SparrowError:
                return
        self.histories.wrote(page, value, lsn)
        files = node.dataplane.pool.files.get(self.volume_id)
        check = None if files is None else files.log.check_at(lsn)
        if check is not None:
            acked = Acked(epoch=epoch, lsn=lsn, check=check)
            self._world.checkers.acknowledged(self.volume_id, acked)

    def _uuid(self, node: SimNode) -> str:
        files = node.dataplane.pool.files.get(self.volume_id)
        return "" if files is None else files.uuid

    def _read(self, node: SimNode, page: int) -> None:
        term = node.dataplane.term_of(self.volume_id)
        epoch = term.epoch
        try:
            value = int(node.dataplane.read(self.volume_id, page) or b"0")
        except SparrowError:
            return
        least = self._answered.get((self._uuid(node), term, page), 0)
        # What is read under ack=local before it is committed may vanish: it shows nothing to anybody.
        shows = self._world.shape.ack is not AckPolicy.LOCAL
        complaint = self.histories.read(page, value, epoch, least=least, shows=shows)
        if complaint:
            self._world.checkers.report(
                f"{node.process.name}, serving {self.volume_id} in epoch {epoch}: {complaint}"
            )
