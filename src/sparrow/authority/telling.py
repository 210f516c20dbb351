"""What the loop says of what it did and of what it found, as events to log."""

from __future__ import annotations

from typing import Final

from sparrow.authority.builder import Unsupported
from sparrow.authority.convergence import Stuck
from sparrow.authority.effects import LogEvent
from sparrow.authority.results import AskResult, Minted, PutFailed, RefusedAsk, Unchanged
from sparrow.base import events as log
from sparrow.base.ids import VolumeId

#: The controller, or the node that asked, asks again (D3); until the store takes it nothing of the volume can change.
PUT_FAILED_HINT: Final = (
    "Nothing was minted, and it is tried again by itself. "
    "Make room where the master keeps its data, or see to that disk."
)


def result_told(result: AskResult) -> LogEvent | None:
    """What became of an ask; None when it changed nothing."""
    ask = result.ask
    match result:
        case Minted(line=line):
            return _said(
                log.LINE_MINTED,
                volume=line.volume_id,
                intent=ask.intent.name.lower(),
                reason=ask.reason,
                epoch=line.lineage.epoch,
                endpoint_version=line.lineage.endpoint_version,
                primary=line.primary,
                in_sync=",".join(line.in_sync),
            )
        case RefusedAsk(code=code, message=message):
            return _said(
                log.ASK_REFUSED,
                volume=ask.volume_id,
                intent=str(getattr(ask.intent, "name", ask.intent)).lower(),
                code=code.value,
                message=message,
            )
        case PutFailed(cause=cause):
            return _said(
                log.ASK_FAILED,
                failed=True,
                volume=ask.volume_id,
                intent=ask.intent.name.lower(),
                cause=cause,
                hint=PUT_FAILED_HINT,
            )
        case Unchanged():
            return None


def doubt_told(
    volume_id: VolumeId, was: Unsupported | None, now: Unsupported | None
) -> LogEvent | None:
    """A volume cannot be decided on: said when that appears or changes, not each time it is found again."""
    if now is None or (was is not None and was.reasons == now.reasons):
        return None
    return _said(
        log.VOLUME_UNSUPPORTED, volume=volume_id, reasons=",".join(now.reasons), note=now.note
    )


def stuck_told(volume_id: VolumeId, was: Stuck | None, now: Stuck | None) -> LogEvent | None:
    """What was asked for is not seen: said when that appears."""
    if now is None or was is not None:
        return None
    return _said(log.VOLUME_STUCK, volume=volume_id, reason=now.ask.reason)


def _said(name: str, *, failed: bool = False, **fields: object) -> LogEvent:
    return LogEvent(name=name, failed=failed, fields=fields)
