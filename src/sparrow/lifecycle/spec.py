"""Whether a volume that somebody asks for can be one: every refusal is a sentence that says what to do instead."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sparrow.authority.quorum import QUORUM
from sparrow.authority.types import AckPolicy, VolumeShape
from sparrow.base.constants import (
    REPLICATION_FACTOR_MAX,
    VOLUME_BYTES_MAX,
    VOLUME_BYTES_MIN,
    VOLUME_BYTES_STEP,
    VOLUME_NAME_BYTES_MAX,
)
from sparrow.base.errors import InvalidArgument
from sparrow.base.ids import VolumeId
from sparrow.base.units import format_size

_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_ALLOWED: Final = (
    "A name is made of letters, digits, '.', '_' and '-', and starts with a letter or a digit."
)

#: Logical block sizes a volume may have, bytes; the first is the default. A write of part of a page is merged with the
#: rest of it, which may cost a read: 512 is for clients that cannot do with 4096.
BLOCK_SIZES: Final = (4096, 512)
#: In-sync replicas a write needs, by replication factor: with three, a write that only one disk has is refused.
MIN_IN_SYNC_DEFAULT: Final = {1: 1, 2: 1, 3: 2}

assert set(MIN_IN_SYNC_DEFAULT) == set(range(1, REPLICATION_FACTOR_MAX + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSpec:
    """A volume that passed every check."""

    volume_id: VolumeId
    shape: VolumeShape


def check_spec(
    *,
    name: str,
    size_bytes: int,
    replication_factor: int,
    block_size: int = 0,
    min_in_sync: int = 0,
    ack: str = "",
    known_nodes: int,
) -> VolumeSpec:
    """The volume asked for; 0 for ``block_size`` and ``min_in_sync``, and no ``ack``, take the default.

    Raises: InvalidArgument: one sentence on the first thing that is off, in the order of the arguments.
    """
    check_name(name)
    check_size(size_bytes)
    _check_replication_factor(replication_factor, known_nodes)
    block_size = block_size or BLOCK_SIZES[0]
    if block_size not in BLOCK_SIZES:
        choices = " or ".join(str(size) for size in sorted(BLOCK_SIZES))
        raise InvalidArgument(
            f"Block size {block_size} is not possible.", hint=f"It is {choices} bytes."
        )
    min_in_sync = min_in_sync or MIN_IN_SYNC_DEFAULT[replication_factor]
    if not 1 <= min_in_sync <= replication_factor:
        raise InvalidArgument(
            f"A minimum of {min_in_sync} in-sync replicas is not possible with {replication_factor} of them.",
            hint=f"Choose 1 to {replication_factor}.",
        )
    policy = _check_ack(ack, replication_factor, min_in_sync)
    return VolumeSpec(
        volume_id=VolumeId(name),
        shape=VolumeShape(
            size_bytes=size_bytes,
            block_size=block_size,
            replication_factor=replication_factor,
            ack=policy,
            min_in_sync=min_in_sync,
        ),
    )


def _check_ack(ack: str, replication_factor: int, min_in_sync: int) -> AckPolicy:
    try:
        policy = AckPolicy(ack or AckPolicy.SYNC)
    except ValueError:
        raise InvalidArgument(
            f"{ack[:32]!r} is no policy for answering writes.",
            hint="Choose sync, quorum or local.",
        ) from None
    if policy is AckPolicy.QUORUM and replication_factor < 3:
        raise InvalidArgument(
            f"ack=quorum answers when two of three replicas have a write; this volume has {replication_factor}.",
            hint="Ask for three replicas, or for ack=sync.",
        )
    if policy is AckPolicy.QUORUM and min_in_sync < QUORUM:
        raise InvalidArgument(
            f"ack=quorum promises {QUORUM} copies, so a minimum of {min_in_sync} is not possible.",
            hint=f"Choose {QUORUM} or 3.",
        )
    if policy is AckPolicy.LOCAL and replication_factor == 1:
        raise InvalidArgument(
            "ack=local differs from ack=sync only where there is a second replica.",
            hint="Leave --ack away.",
        )
    return policy


def check_name(name: str) -> None:
    """Raises InvalidArgument when no volume can have this name."""
    if not name:
        raise InvalidArgument("The volume name is empty.", hint=_ALLOWED)
    if len(name.encode()) > VOLUME_NAME_BYTES_MAX:
        raise InvalidArgument(
            f"The volume name is {len(name.encode())} bytes long.",
            hint=f"The limit is {VOLUME_NAME_BYTES_MAX}.",
        )
    if "/" in name:
        raise InvalidArgument(f"The volume name {name!r} contains a slash.", hint=_ALLOWED)
    if _NAME.fullmatch(name) is None:
        odd = next(character for character in name if _NAME.fullmatch(character) is None)
        raise InvalidArgument(f"The volume name {name!r} contains {odd!r}.", hint=_ALLOWED)
    if not name[0].isalnum():
        # A leading dot hides the replica's folder, a leading dash reads as an option.
        raise InvalidArgument(f"The volume name {name!r} starts with {name[0]!r}.", hint=_ALLOWED)


def check_size(size_bytes: int) -> None:
    """Raises: InvalidArgument."""
    if size_bytes <= 0:
        raise InvalidArgument(
            f"The volume size is {size_bytes}; a volume needs room.",
            hint=f"Choose {format_size(VOLUME_BYTES_MIN)} or more.",
        )
    if size_bytes < VOLUME_BYTES_MIN:
        raise InvalidArgument(
            f"A volume of {format_size(size_bytes)} is too small.",
            hint=f"The smallest is {format_size(VOLUME_BYTES_MIN)}.",
        )
    if size_bytes > VOLUME_BYTES_MAX:
        raise InvalidArgument(
            f"A volume of {format_size(size_bytes)} is too large.",
            hint=f"The largest is {format_size(VOLUME_BYTES_MAX)}.",
        )
    over = size_bytes % VOLUME_BYTES_STEP
    if over:
        above = size_bytes - over + VOLUME_BYTES_STEP
        raise InvalidArgument(
            f"{size_bytes} bytes is not a whole number of MiB.",
            hint=f"Use {above} ({above // VOLUME_BYTES_STEP} MiB), the next one up.",
        )


def _check_replication_factor(replication_factor: int, known_nodes: int) -> None:
    if not 1 <= replication_factor <= REPLICATION_FACTOR_MAX:
        raise InvalidArgument(
            f"{replication_factor} replicas are not possible.",
            hint=f"Choose 1 to {REPLICATION_FACTOR_MAX}.",
        )
    if replication_factor > known_nodes:
        nodes = f"{known_nodes} node" + ("" if known_nodes == 1 else "s")
        raise InvalidArgument(
            f"{replication_factor} replicas need {replication_factor} nodes, but the cluster has {nodes}.",
            hint="Ask for fewer replicas, or start another node and try again.",
        )
