"""Who may use a volume: the list an operator keeps, and the secrets it names.

The list is a desired value of the volume: the master records it, every node that holds a replica is told it. Nothing
of it is in an authority line, so changing it closes no gate. What it decides is in ``sparrow.frontends.access``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

#: As a name: every initiator of the protocol.
ANYONE: Final = "*"


class Frontend(StrEnum):
    """The protocols a volume is served over."""

    ISCSI = "iscsi"
    NVME = "nvme"
    NBD = "nbd"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessEntry:
    """One initiator that may use the volume.

    Attributes:
        name: iSCSI initiator name, NVMe host NQN or subject of an NBD client certificate; ``*`` is everyone.
        secret: name of the secret that the initiator proves to know (CHAP, DH-HMAC-CHAP); empty: none is asked for.
        target_secret: name of the one that we prove to know when we are asked; empty: we prove nothing.
    """

    protocol: Frontend
    name: str
    secret: str = ""
    target_secret: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """There is one entry per protocol and name."""
        return (self.protocol.value, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessList:
    """Who may use one volume.

    Attributes:
        revision: counts changes; 0 where nobody ever made one, which is not the same as an empty list.
        allow_none: entries that name no secret are good without authentication.
    """

    revision: int = 0
    entries: tuple[AccessEntry, ...] = ()
    allow_none: bool = False

    def find(self, protocol: Frontend, name: str) -> AccessEntry | None:
        """The entry of this initiator, else the one of everyone."""
        found = None
        for entry in self.entries:
            if entry.protocol is protocol and entry.name == name:
                return entry
            if entry.protocol is protocol and entry.name == ANYONE:
                found = entry
        return found

    @property
    def secrets(self) -> frozenset[str]:
        """Names of the secrets it needs."""
        named = {entry.secret for entry in self.entries}
        return frozenset((named | {entry.target_secret for entry in self.entries}) - {""})


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A shared secret. Its value is in no ``repr``, so it cannot come into a log or a traceback by accident."""

    name: str
    value: bytes = field(repr=False)
