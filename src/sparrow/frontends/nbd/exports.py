"""What a portal knows of its exports at one moment, as the negotiation asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sparrow.base.ids import VolumeId
from sparrow.formats.nbd import (
    NBD_FLAG_CAN_MULTI_CONN,
    NBD_FLAG_HAS_FLAGS,
    NBD_FLAG_SEND_CACHE,
    NBD_FLAG_SEND_DF,
    NBD_FLAG_SEND_FAST_ZERO,
    NBD_FLAG_SEND_FLUSH,
    NBD_FLAG_SEND_FUA,
    NBD_FLAG_SEND_TRIM,
    NBD_FLAG_SEND_WRITE_ZEROES,
    NBD_REP_ERR_POLICY,
    NBD_REP_ERR_SHUTDOWN,
)

_ALWAYS = (
    NBD_FLAG_HAS_FLAGS
    | NBD_FLAG_SEND_FLUSH
    | NBD_FLAG_SEND_FUA
    | NBD_FLAG_SEND_TRIM
    | NBD_FLAG_SEND_WRITE_ZEROES
    | NBD_FLAG_SEND_CACHE
    | NBD_FLAG_SEND_FAST_ZERO
)


class Refusal(StrEnum):
    """Why a replica does not serve, in the protocol's two words for it."""

    #: Another replica does, or nobody at the moment: this server is not the one to ask now.
    NOT_HERE = "not here"
    #: The server or its replica is going away.
    LEAVING = "leaving"

    @property
    def reply(self) -> int:
        return NBD_REP_ERR_POLICY if self is Refusal.NOT_HERE else NBD_REP_ERR_SHUTDOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One volume as this node offers it.

    Attributes:
        description: one line for a human being, told by LIST and INFO.
        shared: what one connection wrote is seen and flushed by all others, so a client may use several.
        refusal: why it cannot be chosen here and now; None when it can.
        explanation: for whom it was refused, with where to go.
    """

    name: str
    volume_id: VolumeId
    size_bytes: int
    description: str = ""
    shared: bool = True
    refusal: Refusal | None = None
    explanation: str = ""

    def flags(self, *, structured: bool) -> int:
        """Transmission flags; DF may be told only where structured replies were agreed on."""
        flags = int(_ALWAYS)
        if structured:
            flags |= NBD_FLAG_SEND_DF
        if self.shared:
            flags |= NBD_FLAG_CAN_MULTI_CONN
        return flags


class Exports(Protocol):
    """Asked anew for each option, so that an answer is as true as it can be."""

    def find(self, name: str) -> Export | None: ...

    def listed(self) -> tuple[Export, ...]:
        """All of them, in a stable order."""


class TlsPolicy(StrEnum):
    """The three modes of the standard: NOTLS, SELECTIVETLS with no export that insists, FORCEDTLS."""

    OFF = "off"
    ALLOWED = "allowed"
    REQUIRED = "required"
