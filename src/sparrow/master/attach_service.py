"""Attaching volumes to machines, on record: the part of VolumeService that orchestrators call."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from sparrow.authority.events import TopologyChanged
from sparrow.authority.types import DesiredVolume, VolumePhase
from sparrow.base import events
from sparrow.base.errors import FailedPrecondition, NotFound
from sparrow.base.ids import VolumeId
from sparrow.lifecycle.attachment import attached, detached
from sparrow.lifecycle.spec import check_name
from sparrow.master.driver import Driver
from sparrow.master.incoming import check_host
from sparrow.master.views import volume_view
from sparrow.ports.store import AuthorityStore
from sparrow.rpc import methods
from sparrow.rpc.messages import AttachVolumeRequest, DetachVolumeRequest, VolumeView
from sparrow.rpc.server import Call, Route, unary


class AttachService:
    """Attach and detach; durable when the call returns, and repeated calls change nothing."""

    def __init__(self, driver: Driver, store: AuthorityStore, *, log: FilteringBoundLogger) -> None:
        self._driver = driver
        self._store = store
        self._log = log

    def routes(self) -> tuple[Route, ...]:
        return (
            unary(methods.ATTACH_VOLUME, self.attach),
            unary(methods.DETACH_VOLUME, self.detach),
        )

    async def attach(self, request: AttachVolumeRequest, _call: Call) -> VolumeView:
        """Record that ``host`` uses the volume.

        Raises:
            NotFound: there is no such volume.
            InvalidArgument: the host is no machine's name.
            AttachedElsewhere: another machine uses it.
            FailedPrecondition: it is being deleted, or its record is damaged.
        """
        check_name(request.name)
        check_host("attach", request.host)
        volume = self._found(request.name)
        if volume.phase is VolumePhase.DELETING:
            raise FailedPrecondition(f"Volume {volume.volume_id} is being deleted.")
        return self._record(volume, attached(volume, request.host), events.VOLUME_ATTACHED)

    async def detach(self, request: DetachVolumeRequest, _call: Call) -> VolumeView:
        """Record that no machine uses the volume; an empty ``host`` means whichever does.

        Raises: as :meth:`attach`; a volume that is being deleted can be detached.
        """
        check_name(request.name)
        if request.host:
            check_host("detach", request.host)
        volume = self._found(request.name)
        return self._record(volume, detached(volume, request.host), events.VOLUME_DETACHED)

    def _found(self, name: str) -> DesiredVolume:
        volume_id = VolumeId(name)
        authority = self._driver.authority
        desired = authority.desired(volume_id)
        if desired is not None:
            return desired
        if authority.status(volume_id, self._driver.clock.now()) is None:
            raise NotFound(
                f"There is no volume {name!r}.", hint="`sparrow volume list` shows all volumes."
            )
        raise FailedPrecondition(f"The record of volume {volume_id} is damaged.")

    def _record(self, before: DesiredVolume, after: DesiredVolume, event: str) -> VolumeView:
        if after != before:
            self._store.update_volume(after)
            host = after.attached_to or before.attached_to
            self._log.info(event, volume=after.volume_id, host=host)
            self._driver.feed(TopologyChanged(changed=(after,)))
        status = self._driver.authority.status(after.volume_id, self._driver.clock.now())
        assert status is not None
        return volume_view(status)
