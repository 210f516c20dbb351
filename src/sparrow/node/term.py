"""A term as those see it who carry out its commands: its names, its volume, and what a peer may say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from sparrow.authority.types import Line, Peer
from sparrow.base import events as names
from sparrow.base.errors import EpochConflict, SparrowError, StaleEpoch
from sparrow.base.ids import Epoch, ReplicaId, VolumeId
from sparrow.node.keys import Slots
from sparrow.node.surroundings import Surroundings

#: What a peer says of a term that has no right to go on. A conflict is worse than a newer epoch: two masters gave one
#: epoch to two primaries, and whoever asked the other out of its way would make two that serve.
OVER: Final = (StaleEpoch, EpochConflict)
INTERNAL: Final = "internal error, see the log"


class TermOwner(Protocol):
    """What a term asks of its volume; ``node.volume`` is one."""

    @property
    def line(self) -> Line:
        """Newest line acted on."""

    @property
    def slots(self) -> Slots: ...

    @property
    def leaving(self) -> tuple[ReplicaId, ...]:
        """In sync and to be taken out, by the master's newest word."""

    def peer(self, replica: ReplicaId) -> Peer:
        """Where to reach a member now. Raises: NotFound."""

    async def record_pending(self, pending: tuple[ReplicaId, ...], epoch: int) -> None:
        """Make pending durable under the newest line of this epoch. Raises: StaleEpoch when it moved on."""

    async def line_from_ask(self, line: Line) -> None:
        """Act on a line the master answered with."""

    def stepped_down(self, cause: str) -> None:
        """The term is over because something newer exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TermPlace:
    """One term of one replica. ``ended``: whether nothing of it counts any more."""

    volume_id: VolumeId
    replica: ReplicaId
    epoch: Epoch
    owner: TermOwner
    around: Surroundings
    log: FilteringBoundLogger
    ended: Callable[[], bool]

    def is_over_for(self, error: Exception) -> bool:
        """Whether a peer's refusal says that this term has no right to go on."""
        return isinstance(error, OVER)

    def note_conflict(self, error: SparrowError) -> None:
        if isinstance(error, EpochConflict):
            self.log.error(names.EPOCH_CONFLICTED, cause=str(error))
