"""Names and identifiers of a volume as an NVMe subsystem, the same on every node; and the check of hosts' names.

Source: NVMe base 2.0, 4.5 (NQN), 4.7 (NGUID, UUID); RFC 9562, 5.8 (UUID version 8).
"""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from typing import Final

from sparrow.base.errors import LocalProtocolError
from sparrow.base.ids import VolumeId

NQN_PREFIX: Final = "nqn.2026-01.io.sparrow:"
DISCOVERY_NQN: Final = "nqn.2014-08.org.nvmexpress.discovery"
NQN_BYTES_MAX: Final = 223

_VERBATIM: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")
_LEGAL: Final = re.compile(r"nqn\.[0-9]{4}-[0-9]{2}\.[^\x00-\x1f\x7f]+")


def subsystem_nqn(volume_id: VolumeId) -> str:
    """The subsystem of a volume, the same on every node.

    Bytes that are not lower-case letters, digits, ``.`` or ``-`` become ``:`` and two hex digits, so two volumes never
    share a name.

    Raises:
        LocalProtocolError: empty, or too long for an NQN; volume ids are checked before they get here.
    """
    name = NQN_PREFIX + "".join(
        char if char in _VERBATIM else "".join(f":{byte:02x}" for byte in char.encode())
        for char in volume_id
    )
    if not volume_id or len(name) > NQN_BYTES_MAX:
        raise LocalProtocolError(
            f"no NQN can be made of a volume id of {len(volume_id)} characters"
        )
    return name


def is_legal_nqn(name: str) -> bool:
    """Whether a host's NQN has the form and length of NVMe base 2.0, 4.5."""
    return len(name.encode()) <= NQN_BYTES_MAX and _LEGAL.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one namespace from every other, derived from cluster and volume and nothing else."""

    serial: str
    nguid: bytes
    uuid: bytes


def identity(cluster_id: str, volume_id: VolumeId) -> Identity:
    """The identifiers of a volume.

    NGUID has room for an IEEE company id, which this project has none of: that part has the bit for locally assigned
    ones set. NUL cannot be part of either id.
    """
    digest = hashlib.sha256(f"sparrow\0{cluster_id}\0{volume_id}".encode()).digest()
    nguid = bytearray(digest[16:32])
    nguid[8] = nguid[8] & 0xFC | 0x02
    own = bytearray(digest[:16])
    own[6] = own[6] & 0x0F | 0x80
    own[8] = own[8] & 0x3F | 0x80
    return Identity(
        serial=digest.hex()[:20], nguid=bytes(nguid), uuid=uuid.UUID(bytes=bytes(own)).bytes
    )
