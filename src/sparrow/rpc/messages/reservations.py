"""Between nodes, about reservations: what a path that does not serve asks the primary's node."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sparrow.base.ids import VolumeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationLookRequest:
    volume_id: VolumeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationLook:
    """The newest table as ``formats.reservations`` has it, empty without one; and the primary's boot clock after it."""

    table: bytes
    ticket_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationChangeRequest:
    """One PERSISTENT RESERVE OUT of an initiator that came by another path.

    ``registrant`` names its nexus and the relative target port of that path, with the key 0. ``ticket_ns`` is the
    newest one that the primary gave.
    """

    volume_id: VolumeId
    ticket_ns: int
    registrant: bytes
    cdb: bytes
    data: bytes


class ReservationOutcome(StrEnum):
    """What became of it."""

    #: Carried out or refused: status and sense say which.
    ANSWERED = "answered"
    #: Not logged; to be tried again later.
    NOT_NOW = "not now"
    #: Not logged: this node does not serve the volume.
    NOT_HERE = "not here"
    #: Logged; whether it commits nobody knows.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationChangeAnswer:
    outcome: ReservationOutcome
    status: int = 0
    sense: bytes = b""
