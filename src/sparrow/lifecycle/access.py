"""Is an access list, or a secret, one that can be? Checked once, before it is recorded.

Source: RFC 3720/7143, 4.2.7 (iSCSI names), 12.1.3 (CHAP secrets); NVMe base 2.0, 4.7 (NQN).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from sparrow.base.access import ANYONE, AccessEntry, AccessList, Frontend, Secret
from sparrow.base.errors import InvalidArgument

#: Entries of one volume; every one of them goes to every node with a replica.
ENTRIES_MAX: Final = 256
NAME_BYTES_MAX: Final = 223
SUBJECT_BYTES_MAX: Final = 1024
#: 96 bits: less must not be used without IPsec. Source: RFC 7143, 12.1.3.
SECRET_BYTES_MIN: Final = 12
SECRET_BYTES_MAX: Final = 255
_SECRET_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,222}")
_ISCSI: Final = re.compile(
    r"(iqn\.\d{4}-\d{2}\.[^\s:]+(:\S+)?|eui\.[0-9A-Fa-f]{16}|naa\.[0-9A-Fa-f]{16,32})"
)
_NQN: Final = re.compile(r"nqn\.(\d{4}-\d{2}\.[^\s:]+(:\S+)?|2014-08\.org\.nvmexpress:\S+)")


def check_access(wanted: AccessList, known_secrets: Collection[Secret]) -> None:
    """Raises: InvalidArgument: naming the entry that is off."""
    if len(wanted.entries) > ENTRIES_MAX:
        raise InvalidArgument(
            f"An access list has at most {ENTRIES_MAX} entries; this one has {len(wanted.entries)}."
        )
    seen: set[tuple[str, str]] = set()
    values = {secret.name: secret.value for secret in known_secrets}
    for entry in wanted.entries:
        _check_entry(entry, values, allow_none=wanted.allow_none)
        if entry.key in seen:
            raise InvalidArgument(f"{entry.protocol}:{entry.name} is in the access list twice.")
        seen.add(entry.key)


def check_secret(secret: Secret) -> None:
    """Raises: InvalidArgument; no sentence of it repeats the value."""
    check_secret_name(secret.name)
    if not SECRET_BYTES_MIN <= len(secret.value) <= SECRET_BYTES_MAX:
        raise InvalidArgument(
            f"Secret {secret.name} has {len(secret.value)} bytes; it must have {SECRET_BYTES_MIN} to"
            f" {SECRET_BYTES_MAX}.",
            hint="96 random bits are the least (RFC 7143, 12.1.3); some initiators take 16 bytes at most.",
        )


def check_secret_name(name: str) -> None:
    """Raises: InvalidArgument."""
    if _SECRET_NAME.fullmatch(name) is None:
        raise InvalidArgument(
            f"{name[:64]!r} is no name of a secret.",
            hint="Letters, digits and . _ : @ - in any order; it is the CHAP name of who proves it.",
        )


def _check_entry(entry: AccessEntry, values: dict[str, bytes], *, allow_none: bool) -> None:
    who = f"{entry.protocol}:{entry.name[:64]}"
    if entry.name != ANYONE and not _is_name(entry.protocol, entry.name):
        raise InvalidArgument(
            f"{who} is no {_KIND[entry.protocol]}.", hint=f"For example {_EXAMPLE[entry.protocol]}."
        )
    if entry.protocol is Frontend.NBD and (entry.secret or entry.target_secret):
        raise InvalidArgument(
            f"{who} names a secret; NBD clients prove who they are by their certificate."
        )
    if entry.target_secret and not entry.secret:
        raise InvalidArgument(
            f"{who} has a target secret and no secret of its own.",
            hint="Mutual authentication begins with the initiator's.",
        )
    for name in filter(None, (entry.secret, entry.target_secret)):
        if name not in values:
            raise InvalidArgument(
                f"{who} needs the secret {name[:64]!r}, which does not exist.",
                hint="`sparrow secret set NAME` makes one.",
            )
    if entry.target_secret and values[entry.secret] == values[entry.target_secret]:
        # Whoever may ask us could have our own answer sent back to us. Source: RFC 7143, 9.2.1.
        raise InvalidArgument(f"{who} has the same value for both of its secrets.")
    if not entry.secret and not allow_none and entry.protocol is not Frontend.NBD:
        raise InvalidArgument(
            f"{who} names no secret, and the volume does not allow access without authentication.",
            hint="Name a secret, or allow it with --allow-none.",
        )


def _is_name(protocol: Frontend, name: str) -> bool:
    match protocol:
        case Frontend.ISCSI:
            return len(name.encode()) <= NAME_BYTES_MAX and _ISCSI.fullmatch(name) is not None
        case Frontend.NVME:
            return len(name.encode()) <= NAME_BYTES_MAX and _NQN.fullmatch(name) is not None
        case Frontend.NBD:
            return 0 < len(name.encode()) <= SUBJECT_BYTES_MAX and name.isprintable()


_KIND: Final = {
    Frontend.ISCSI: "iSCSI name",
    Frontend.NVME: "host NQN",
    Frontend.NBD: "subject of a certificate",
}
_EXAMPLE: Final = {
    Frontend.ISCSI: "iqn.2004-10.com.example:host1",
    Frontend.NVME: "nqn.2014-08.org.nvmexpress:uuid:...",
    Frontend.NBD: "CN=host1",
}
