"""One link to a peer at a time, and every link has an id.

A link begins with the join that leads to it and goes on with what prepares the peer, the connection, and what the core
feeds over it. It ends with the first of these that fails, or when the primary gives it up. Answers travel apart: that a
link ended is an event of the core, that it was made is the outcome of a command, which may be told later although it
was earlier. So whatever is said of a link carries its id, from the join to the end, and what carries another id than
the peer's newest link is void. ``LinkIds`` gives none twice within a term; events of another term are dropped before
they get here (``node.volume``).

Safety. What is void changes nothing here: it can be missed, never be taken for something else. That the core feeds a
peer and the machine does not know is harmless: acknowledgements are of this term and stay true, and commits are counted
by the core. A link that the machine takes for standing and that does not stand holds commits back, never the reverse.

Liveness. Both have to agree that a link is over, or a peer waits for ever:

- A link that failed is not in the core. One that is given up is taken from the core (``DropPeer``) before the next one
  gets there: who carries out the commands (``link_commands``) ends the connecting of an older one, and the core gets
  both commands in the order in which they were wanted. So no link in the core is replaced by another one to the same
  peer, the follower never has two of one term, and its closing the older one cannot look like the end of the newer.
- Every link that was not given up is told of its end: each command has one outcome with its id, whatever went wrong in
  it, a bug or a full core included, and a link that the core had ends with ``LinkLost``. Heard before it is known that
  the link stands, that is believed; the outcome that comes later is void. The same holds for the end of a copy
  (``BaseComplete``), which shows that the link stands.

The machine of an opening hands its links on to that of the peers (``OpeningLink``): a join, a connection or a link that
is under way when the gate is allowed goes on, and is not begun a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sparrow.base.ids import LinkId, Lsn


class LinkIds:
    """Ids for the links of one term, to all peers."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> LinkId:
        self._last += 1
        return LinkId(self._last)


class Link(StrEnum):
    """How far a follower's link is in an opening."""

    NONE = "none"
    JOINING = "joining"
    CONNECTING = "connecting"
    UP = "up"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningLink:
    """A link as an opening leaves it. ``joined_lsn`` counts from CONNECTING on."""

    link: LinkId
    stage: Link
    joined_lsn: Lsn
