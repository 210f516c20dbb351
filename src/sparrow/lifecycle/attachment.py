"""Which machine uses a volume: one at a time, as whoever attaches volumes to machines records it.

A record and nothing else: it opens no session and closes none, an access list and reservations do that. It keeps two
callers, each sure of its own machine, from giving one disk to two of them.
"""

from __future__ import annotations

from dataclasses import replace

from sparrow.authority.types import DesiredVolume
from sparrow.base.errors import FailedPrecondition


class AttachedElsewhere(FailedPrecondition, code="volume.attached_elsewhere"):
    """The volume is attached to another machine than the one named."""


def attached(volume: DesiredVolume, host: str) -> DesiredVolume:
    """The volume attached to ``host``; as it is when it was already. Raises: AttachedElsewhere."""
    if volume.attached_to not in {"", host}:
        raise AttachedElsewhere(
            f"Volume {volume.volume_id} is attached to {volume.attached_to}, not to {host}.",
            hint=f"Detach it there first: `sparrow volume detach {volume.volume_id}`.",
        )
    return replace(volume, attached_to=host)


def detached(volume: DesiredVolume, host: str) -> DesiredVolume:
    """The volume attached to nothing; ``host``, unless empty, must be where it was, if anywhere.

    Raises: AttachedElsewhere.
    """
    if host and volume.attached_to not in {"", host}:
        raise AttachedElsewhere(
            f"Volume {volume.volume_id} is attached to {volume.attached_to}, not to {host}.",
            hint="Leave the machine out to detach it wherever it is.",
        )
    return replace(volume, attached_to="")
