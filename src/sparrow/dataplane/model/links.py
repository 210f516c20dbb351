"""Connections between model twins in one process: descriptors are tokens, bytes are Python values.

Delays, silence and cuts are chosen by the test. Time is that of the running event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

LATENCY_S: Final = 0.0005
FIRST_TOKEN: Final = 1 << 20


@dataclass(slots=True)
class End:
    """One side of a link."""

    node: str
    fd: int
    link: Link
    on_message: Callable[[Any], None] | None = None
    on_lost: Callable[[str], None] | None = None
    waiting: list[Any] = field(default_factory=list)

    def other(self) -> End:
        a, b = self.link.ends
        return b if self is a else a

    def send(self, message: Any) -> None:
        """Deliver to the other side after the latency; lost without a word while the two nodes are parted."""
        fabric = self.link.fabric
        if self.link.closed or fabric.silenced(self.node, self.other().node):
            return
        asyncio.get_running_loop().call_later(LATENCY_S, self.other().arrive, message)

    def arrive(self, message: Any) -> None:
        if self.link.closed or self.link.fabric.silenced(self.node, self.other().node):
            return
        if self.on_message is None:
            self.waiting.append(message)
        else:
            self.on_message(message)

    def attach(self, on_message: Callable[[Any], None], on_lost: Callable[[str], None]) -> None:
        """Take the link over; what came before is delivered now."""
        self.on_message = on_message
        self.on_lost = on_lost
        if self.link.closed:
            on_lost("closed")
            return
        waiting, self.waiting = self.waiting, []
        for message in waiting:
            on_message(message)

    def close(self) -> None:
        self.link.close("closed")


@dataclass(slots=True)
class Link:
    """Two ends."""

    fabric: Fabric
    ends: tuple[End, End] = field(init=False)
    closed: bool = False

    def close(self, cause: str) -> None:
        if self.closed:
            return
        self.closed = True
        for end in self.ends:
            self.fabric.ends.pop(end.fd, None)
            if end.on_lost is not None:
                end.on_lost(cause)


class Fabric:
    """All links between the nodes of one test."""

    def __init__(self) -> None:
        self.ends: dict[int, End] = {}
        self.parted: set[frozenset[str]] = set()
        self._next_fd = FIRST_TOKEN

    def connect(self, a: str, b: str) -> tuple[int, int]:
        """Two descriptors of one new link, the first for node ``a``."""
        link = Link(self)
        ends = []
        for node in (a, b):
            ends.append(End(node=node, fd=self._next_fd, link=link))
            self.ends[self._next_fd] = ends[-1]
            self._next_fd += 1
        link.ends = (ends[0], ends[1])
        return ends[0].fd, ends[1].fd

    def silenced(self, a: str, b: str) -> bool:
        return frozenset((a, b)) in self.parted

    def part(self, a: str, b: str) -> None:
        """From now on nothing arrives between the two, and neither is told."""
        self.parted.add(frozenset((a, b)))

    def heal(self, a: str, b: str) -> None:
        self.parted.discard(frozenset((a, b)))

    def cut(self, a: str, b: str) -> None:
        """Reset every link between the two."""
        for end in list(self.ends.values()):
            if {end.node, end.other().node} == {a, b}:
                end.link.close("reset")

    def kill(self, node: str) -> None:
        """The process of a node died: its links are reset at the other side, it hears nothing itself."""
        for end in list(self.ends.values()):
            if end.node == node:
                end.on_lost = None
                end.on_message = None
                end.link.close("reset")
