"""AuthorityService: what is recorded, to be looked at."""

from __future__ import annotations

from sparrow.authority.types import SkippedRecord
from sparrow.master.driver import Driver
from sparrow.rpc import methods
from sparrow.rpc.messages import (
    AuthorityStatus,
    AuthorityStatusRequest,
)
from sparrow.rpc.server import Call, Route, unary


class AuthorityService:
    """The recorded lines and the records that were not believed, read-only.

    Args:
        volume_skips: desired volumes whose rows were damaged at start.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        master_generation: int,
        volume_skips: tuple[SkippedRecord, ...],
    ) -> None:
        self._driver = driver
        self._generation = master_generation
        self._volume_skips = volume_skips

    def routes(self) -> tuple[Route, ...]:
        return (unary(methods.AUTHORITY_STATUS, self.status),)

    async def status(self, _request: AuthorityStatusRequest, _call: Call) -> AuthorityStatus:
        publisher = self._driver.authority.publisher
        return AuthorityStatus(
            master_generation=self._generation,
            skipped=(*publisher.skips, *self._volume_skips),
            lines=tuple(line for _, line in sorted(publisher.lines.items())),
        )
