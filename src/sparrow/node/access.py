"""Who may use the volumes of this node: what the master said last, asked by every frontend."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from sparrow.authority.effects import AllowAccess
from sparrow.base import events as names
from sparrow.base.ids import VolumeId
from sparrow.frontends.access import Admitted, Asker, Denied, VolumeAccess, decide


class AccessBook:
    """The newest list of each volume. In memory only: what the master did not say to this process allows nobody."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._held: dict[VolumeId, VolumeAccess] = {}
        self._watchers: list[Callable[[VolumeId], None]] = []

    def watch(self, changed: Callable[[VolumeId], None]) -> None:
        """Call this after each change: living sessions are to be judged anew."""
        self._watchers.append(changed)

    def learn(self, word: AllowAccess) -> None:
        """The master's newest word."""
        access = VolumeAccess(allowed=word.access, secrets=word.secrets)
        if self._held.get(word.volume_id) == access:
            return
        self._held[word.volume_id] = access
        self._log.info(
            names.VOLUME_ACCESS_CHANGED,
            volume=word.volume_id,
            revision=word.access.revision,
            entries=len(word.access.entries),
            allow_none=word.access.allow_none,
        )
        for changed in self._watchers:
            changed(word.volume_id)

    def forget(self, volume_id: VolumeId) -> None:
        """The volume has nothing here any more."""
        self._held.pop(volume_id, None)

    def of(self, volume_id: VolumeId) -> VolumeAccess | None:
        """A frozen picture, for a login that takes a while."""
        return self._held.get(volume_id)

    def snapshot(self) -> dict[VolumeId, VolumeAccess]:
        """All of it, as it is now."""
        return dict(self._held)

    def decide(self, volume_id: VolumeId, asker: Asker) -> Admitted | Denied:
        """As it is now."""
        return decide(self._held.get(volume_id), asker)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address that a connection came to."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
