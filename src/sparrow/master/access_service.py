"""Who may use a volume, and the secrets that proves it with: the part of VolumeService about access.

A change is durable when its call returns; nodes hear it at once down their streams and end the sessions that it does
not allow any more. No line is touched. A secret that is changed counts as a change of every list that names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from structlog.typing import FilteringBoundLogger

from sparrow.authority.events import TopologyChanged
from sparrow.authority.types import DesiredVolume, VolumePhase
from sparrow.base import events
from sparrow.base.errors import FailedPrecondition, NotFound
from sparrow.base.ids import VolumeId
from sparrow.lifecycle.access import check_access, check_secret, check_secret_name
from sparrow.lifecycle.spec import check_name
from sparrow.master.driver import Driver
from sparrow.master.views import volume_view
from sparrow.ports.store import AuthorityStore
from sparrow.rpc import methods
from sparrow.rpc.messages import (
    DeleteSecretAnswer,
    DeleteSecretRequest,
    ListSecretsRequest,
    SecretList,
    SecretView,
    SetAccessRequest,
    SetSecretRequest,
    VolumeView,
)
from sparrow.rpc.paging import Walk, paged
from sparrow.rpc.server import Call, Route, unary
from sparrow.rpc.turns import Turn


class AccessService:
    """What operators call about access."""

    def __init__(self, driver: Driver, store: AuthorityStore, *, log: FilteringBoundLogger) -> None:
        self._driver = driver
        self._store = store
        self._log = log

    def routes(self) -> tuple[Route, ...]:
        return (
            unary(methods.SET_ACCESS, self.set_access),
            unary(methods.SET_SECRET, self.set_secret),
            unary(methods.DELETE_SECRET, self.delete_secret),
            paged(methods.LIST_SECRETS, self.list_secrets),
        )

    async def set_access(self, request: SetAccessRequest, _call: Call) -> VolumeView:
        """Replace a volume's list.

        Raises:
            NotFound: there is no such volume.
            InvalidArgument: an entry is off, or names a secret that does not exist.
            FailedPrecondition: the list changed since it was looked at, or the volume is being deleted.
        """
        check_name(request.name)
        volume_id = VolumeId(request.name)
        authority = self._driver.authority
        desired = authority.desired(volume_id)
        status = authority.status(volume_id, self._driver.clock.now())
        if status is None:
            raise NotFound(
                f"There is no volume {request.name!r}.",
                hint="`sparrow volume list` shows all volumes.",
            )
        if desired is None or desired.phase is VolumePhase.DELETING:
            raise FailedPrecondition(
                f"Access to volume {volume_id} cannot be changed: {status.cause or 'its record is damaged'}."
            )
        held = desired.access.revision
        if request.access.revision != held:
            raise FailedPrecondition(
                f"The access list of volume {volume_id} is at revision {held}, not {request.access.revision}.",
                hint="Somebody changed it meanwhile; look at it again.",
            )
        check_access(request.access, self._store.load_secrets().secrets)
        self._record(replace(desired, access=replace(request.access, revision=held + 1)))
        changed = authority.status(volume_id, self._driver.clock.now())
        assert changed is not None
        return volume_view(changed)

    async def set_secret(self, request: SetSecretRequest, _call: Call) -> SecretView:
        """Make a secret, or give it another value.

        Raises:
            InvalidArgument: the name or the length is off, or it would equal its counterpart somewhere.
        """
        secret = request.secret
        check_secret(secret)
        others = [one for one in self._store.load_secrets().secrets if one.name != secret.name]
        users = self._users(secret.name)
        for desired in users:
            check_access(desired.access, [*others, secret])
        self._store.put_secret(secret)
        self._log.info(events.SECRET_CHANGED, secret=secret.name)
        for desired in users:
            access = replace(desired.access, revision=desired.access.revision + 1)
            self._record(replace(desired, access=access))
        return SecretView(name=secret.name, volumes=tuple(one.volume_id for one in users))

    async def delete_secret(self, request: DeleteSecretRequest, _call: Call) -> DeleteSecretAnswer:
        """Forget a secret. Raises: InvalidArgument, NotFound, FailedPrecondition: a list names it."""
        check_secret_name(request.name)
        loaded = self._store.load_secrets()
        if request.name not in {one.name for one in loaded.secrets} | set(loaded.damaged):
            raise NotFound(f"There is no secret {request.name!r}.")
        users = self._users(request.name)
        if users:
            named = ", ".join(desired.volume_id for desired in users)
            raise FailedPrecondition(
                f"Secret {request.name} is needed by the access lists of {named}.",
                hint="Take it out of them first.",
            )
        self._store.delete_secret(request.name)
        self._log.info(events.SECRET_CHANGED, secret=request.name, deleted=True)
        return DeleteSecretAnswer()

    async def list_secrets(self, _request: ListSecretsRequest, after: str) -> Walk[SecretList]:
        """By name."""
        loaded = self._store.load_secrets()
        names = {one.name: False for one in loaded.secrets} | dict.fromkeys(loaded.damaged, True)
        users: dict[str, list[VolumeId]] = {}
        turn = Turn()
        for desired in self._driver.authority.guarded():
            for secret in desired.access.secrets:
                users.setdefault(secret, []).append(desired.volume_id)
            await turn.rest()

        def entries() -> Iterator[tuple[str, SecretList]]:
            for name in sorted(one for one in names if one > after):
                view = SecretView(
                    name=name, volumes=tuple(users.get(name, ())), damaged=names[name]
                )
                yield name, SecretList(secrets=(view,))

        return Walk(SecretList(secrets=()), entries())

    def _record(self, desired: DesiredVolume) -> None:
        self._store.update_volume(desired)
        self._log.info(
            events.VOLUME_ACCESS_CHANGED,
            volume=desired.volume_id,
            revision=desired.access.revision,
            entries=len(desired.access.entries),
            allow_none=desired.access.allow_none,
        )
        self._driver.feed(TopologyChanged(changed=(desired,)))

    def _users(self, secret: str) -> list[DesiredVolume]:
        return [one for one in self._driver.authority.guarded() if secret in one.access.secrets]
