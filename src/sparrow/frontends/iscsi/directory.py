"""What a portal knows of its targets: the immutable picture that login and discovery are decided on.

The node makes a new picture when volumes, portals or access change; a login keeps the access lists it began with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sparrow.base.ids import VolumeId
from sparrow.frontends.iscsi.security import AuthPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Portal:
    """Where one replica of a target listens.

    Attributes:
        host: IP literal or DNS name, IPv6 without brackets.
        group_tag: portal group tag, equal to the ALUA target port group of the replica there.
    """

    host: str
    port: int
    group_tag: int

    @property
    def authority(self) -> str:
        """``host:port``, with the brackets an IPv6 literal needs. Source: RFC 7143, 13.8."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetEntry:
    """One target as this node offers it.

    Attributes:
        group_tag: portal group tag of the replica on this node.
        portals: of every replica, this node's included; all are told to initiators.
        initiators: names that may log in and see it, None for everyone; where there is no ``admission``.
        admission: what an initiator of this name must prove; None for one that may not even know of the target.
        redirect: set while a planned move wants initiators elsewhere.
    """

    name: str
    volume_id: VolumeId
    alias: str = ""
    group_tag: int
    portals: tuple[Portal, ...]
    initiators: frozenset[str] | None = None
    auth: AuthPolicy = field(default_factory=AuthPolicy)
    redirect: Portal | None = None
    admission: Callable[[str], AuthPolicy | None] | None = None

    def admits(self, initiator_name: str) -> bool:
        """Whether this initiator may know of the target at all."""
        return self.policy(initiator_name) is not None

    def policy(self, initiator_name: str) -> AuthPolicy | None:
        """What it must prove to come in; None: it is not admitted."""
        if self.admission is not None:
            return self.admission(initiator_name)
        admitted = self.initiators is None or initiator_name in self.initiators
        return self.auth if admitted else None


class TargetDirectory:
    """Targets by name."""

    def __init__(
        self,
        targets: tuple[TargetEntry, ...] = (),
        *,
        discovery_auth: AuthPolicy | None = None,
        discovery: Callable[[str], AuthPolicy] | None = None,
    ) -> None:
        """``discovery`` gives what an initiator may prove in a discovery session, else it is ``discovery_auth``."""
        self._by_name = {target.name: target for target in targets}
        self._discovery_auth = discovery_auth or AuthPolicy()
        self._discovery = discovery
        assert len(self._by_name) == len(targets), "two targets with one name"

    def find(self, name: str) -> TargetEntry | None:
        """The target of that name, access not considered."""
        return self._by_name.get(name)

    def discovery_policy(self, initiator_name: str) -> AuthPolicy:
        """What this initiator must prove to hear which targets there are for it."""
        return self._discovery_auth if self._discovery is None else self._discovery(initiator_name)

    def visible_to(self, initiator_name: str) -> tuple[TargetEntry, ...]:
        """Targets this initiator may be told of, by name so that every answer has one order."""
        return tuple(
            target for _, target in sorted(self._by_name.items()) if target.admits(initiator_name)
        )


class LoginDirectory(TargetDirectory):
    """For one login, which asks for one target.

    With hundreds of volumes, whose initiators all come at once after a failover, a picture of every target for each of
    them would be most of what a login costs. ``find`` gives the target of a name, ``everything`` all of them, for
    whoever wants to hear which there are.
    """

    def __init__(
        self,
        *,
        find: Callable[[str], TargetEntry | None],
        everything: Callable[[], TargetDirectory],
    ) -> None:
        super().__init__()
        self._find = find
        self._everything = everything

    def find(self, name: str) -> TargetEntry | None:
        return self._find(name)

    def discovery_policy(self, initiator_name: str) -> AuthPolicy:
        return self._everything().discovery_policy(initiator_name)

    def visible_to(self, initiator_name: str) -> tuple[TargetEntry, ...]:
        return self._everything().visible_to(initiator_name)
