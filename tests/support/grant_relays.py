"""Grant connections between cores of one process, which a test may hold; one that is lost is made anew, as nodes do.

A core ends a connection on which an answer takes twice as long as a grant runs. On a machine that stands still for that
long it is lost although nothing is wrong, and nobody would grant anything ever after.
"""

from __future__ import annotations

import asyncio
import socket

from sparrow.dataplane.native.plane import NativeDataPlane
from sparrow.ports.dataplane import CoreEvent, GrantLinkLost
from tests.support.descriptors import Relay

#: Numbers of the node that asks and of the one that grants.
Pair = tuple[int, int]


class GrantRelays:
    """One connection per pair and direction, each through a relay."""

    def __init__(self) -> None:
        self._planes: dict[int, NativeDataPlane] = {}
        self._relays: dict[Pair, Relay] = {}
        self._held: set[Pair] = set()
        self._making: set[asyncio.Task[None]] = set()

    def add(self, number: int, plane: NativeDataPlane) -> None:
        """A node that may ask and grant."""
        self._planes[number] = plane

    async def link(self, pair: Pair) -> None:
        """Unless there is one."""
        if pair not in self._relays:
            await self._make(pair)

    async def _make(self, pair: Pair) -> None:
        asking, granting = (self._planes[number] for number in pair)
        ours, near = socket.socketpair()
        far, theirs = socket.socketpair()
        for end in (ours, near, far, theirs):
            end.setblocking(False)
        self._relays[pair] = Relay(near, far)
        self._relays[pair].held = pair in self._held
        await granting.grant_serve_link(theirs.detach())
        await asking.grant_ask_link(pair[1], ours.detach())

    def hold(self, pair: Pair, *, hold: bool) -> None:
        """Let nothing through, or let it through again."""
        (self._held.add if hold else self._held.discard)(pair)
        self._relays[pair].held = hold

    def heard(self, number: int, event: CoreEvent) -> None:
        """What that node's core tells."""
        if isinstance(event, GrantLinkLost) and (number, event.node_key) in self._relays:
            making = asyncio.ensure_future(self._again((number, event.node_key)))
            self._making.add(making)
            making.add_done_callback(self._making.discard)

    async def _again(self, pair: Pair) -> None:
        self._relays[pair].close()
        if self._planes.keys() >= {*pair}:
            await self._make(pair)

    async def leave(self, number: int) -> None:
        """Before that node stops: what is held goes through, and nothing is made for it any more."""
        self._planes.pop(number, None)
        await asyncio.gather(*self._making)
        self._held.clear()
        for relay in self._relays.values():
            relay.held = False

    def close(self) -> None:
        for relay in self._relays.values():
            relay.close()
