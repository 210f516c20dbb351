"""A pure machine of a primary, fed event by event."""

from __future__ import annotations

from typing import ClassVar, Protocol, TypeVar

from sparrow.base.ids import LinkId, ReplicaId
from sparrow.node import effects as fx
from sparrow.node import events as ev
from tests.support.lines import rid

E = TypeVar("E")


class Machine(Protocol):
    """What machines of one shape have."""

    @property
    def wake_at(self) -> float | None: ...

    def step(self, event: ev.PrimaryEvent, now: float) -> list[fx.PrimaryEffect]: ...


class MachineDriver:
    """Feeds one machine and collects what it wants; time passes when it is told to."""

    #: Effects that begin a link.
    BEGIN: ClassVar[tuple[type[fx.SendJoin | fx.PrepareRebuild | fx.StartShip], ...]]

    def __init__(self, machine: Machine, *, now: float) -> None:
        self.now = now
        self.wanted: list[fx.PrimaryEffect] = []
        self.links: dict[ReplicaId, LinkId] = {}
        self._machine = machine

    def tell(self, event: ev.PrimaryEvent, *, after: float = 0.0) -> list[fx.PrimaryEffect]:
        """What it wants upon one event, which is kept too."""
        self.now += after
        effects = self._machine.step(event, self.now)
        self.wanted.extend(effects)
        self.links.update({e.replica: e.link for e in effects if isinstance(e, self.BEGIN)})
        return effects

    def newest(self, name: str) -> LinkId:
        """Of the links to a peer."""
        return self.links.get(rid(name), LinkId(0))

    def wait(self, seconds: float) -> None:
        """Let time pass, waking the machine whenever it asks for it."""
        until = self.now + seconds
        turns = 0
        while (at := self._machine.wake_at) is not None and at <= until:
            turns += 1
            assert turns < 1000, "the machine wakes without end"
            self.now = max(self.now, at)
            self.tell(ev.Tick())
        self.now = until

    def take(self, kind: type[E]) -> list[E]:
        """All effects of a kind so far, removed."""
        found = [effect for effect in self.wanted if isinstance(effect, kind)]
        self.wanted = [effect for effect in self.wanted if not isinstance(effect, kind)]
        return found
