"""May this initiator use this volume here, and what must it prove? The one place where that is decided.

All three frontends ask at login, when they list what there is, and again for every living session when the list or a
secret changes: a session stays only while the answer is the one it was let in with.

    the node has not heard the list      nobody
    nobody ever made a list              everyone on a loopback portal, nobody elsewhere
    not in the list                      refused
    an entry with a secret               must prove it; refused while the node was not given the secret
    an entry without                     admitted when the list allows none, or the certificate was the proof (NBD)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sparrow.base.access import AccessList, Frontend, Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeAccess:
    """The list of one volume, and the secrets it names as far as they were delivered."""

    allowed: AccessList
    secrets: tuple[Secret, ...] = ()

    def secret(self, name: str) -> Secret | None:
        return next((one for one in self.secrets if one.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The initiator may come in when it proves ``secret``; ``target_secret`` is what we prove when it asks."""

    secret: Secret | None = None
    target_secret: Secret | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """``cause`` is for our log, never for the initiator."""

    cause: str


#: No secret is asked for.
OPEN = Admitted()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asks, and over which portal.

    Attributes:
        name: as it calls itself, or as its certificate does.
        loopback: it came to an address that only this machine reaches.
    """

    protocol: Frontend
    name: str
    loopback: bool = field(default=False)


def decide(access: VolumeAccess | None, asker: Asker) -> Admitted | Denied:
    """The table at the top of this module."""
    if access is None:
        return Denied(cause="this node has not heard yet who may use the volume")
    allowed = access.allowed
    if allowed.revision == 0:
        if asker.loopback:
            return OPEN
        return Denied(cause="nobody was allowed to use the volume yet")
    entry = allowed.find(asker.protocol, asker.name)
    if entry is None:
        return Denied(cause="it is not in the volume's access list")
    if not entry.secret:
        if allowed.allow_none or asker.protocol is Frontend.NBD:
            return OPEN
        return Denied(cause="the volume's access list allows nobody without authentication")
    secret = access.secret(entry.secret)
    if secret is None:
        return Denied(cause=f"this node was not given the secret {entry.secret}")
    if not entry.target_secret:
        return Admitted(secret=secret)
    target_secret = access.secret(entry.target_secret)
    if target_secret is None:
        return Denied(cause=f"this node was not given the secret {entry.target_secret}")
    return Admitted(secret=secret, target_secret=target_secret)


def needed(allowed: AccessList, known: Iterable[Secret]) -> tuple[Secret, ...]:
    """Of the secrets there are, those a node with this list needs, by name."""
    return tuple(
        sorted((one for one in known if one.name in allowed.secrets), key=lambda s: s.name)
    )
