"""iSCSI names: the one function that names a volume's target, and the check of names peers send.

Source: RFC 7143, 4.2.7; RFC 3722 (allowed characters after preparation: lower case, digits, ``-``, ``.``, ``:``).
"""

from __future__ import annotations

import re
from typing import Final

from sparrow.base.errors import LocalProtocolError
from sparrow.base.ids import VolumeId

IQN_PREFIX: Final = "iqn.2026-01.io.sparrow:"
ISCSI_NAME_BYTES_MAX: Final = 223

_VERBATIM: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")
# What follows the date is not held to RFC 3722: initiators are named by hand, underscores included, and the name is
# only ever compared.
_LEGAL: Final = re.compile(
    r"iqn\.[0-9]{4}-[0-9]{2}\.[^\s\x00-\x20\x7f]+|eui\.[0-9A-Fa-f]{16}|naa\.[0-9A-Fa-f]{16}(?:[0-9A-Fa-f]{16})?"
)

_ESCAPED: Final = re.compile(r"(?::[0-9a-f]{2})+")


def target_name(volume_id: VolumeId) -> str:
    """The target name of a volume, the same on every node.

    A volume id made of lower-case letters, digits, ``.`` and ``-`` appears as it is; any other byte becomes
    ``:`` and two hex digits, so two volumes never share a name (``:`` itself is never verbatim).

    Raises:
        LocalProtocolError: empty, or too long for an iSCSI name; volume ids are checked before they get here.
    """
    name = IQN_PREFIX + "".join(
        char if char in _VERBATIM else "".join(f":{byte:02x}" for byte in char.encode())
        for char in volume_id
    )
    if not volume_id or len(name) > ISCSI_NAME_BYTES_MAX:
        raise LocalProtocolError(
            f"no iSCSI name can be made of a volume id of {len(volume_id)} characters"
        )
    return name


def volume_of_target(name: str) -> VolumeId | None:
    """The volume whose target has this name; None when no volume's has."""
    if not name.startswith(IQN_PREFIX):
        return None
    encoded = name.removeprefix(IQN_PREFIX)
    try:
        volume_id = VolumeId(_ESCAPED.sub(_unescaped, encoded))
        return volume_id if target_name(volume_id) == name else None
    except (LocalProtocolError, UnicodeDecodeError):
        return None


def _unescaped(found: re.Match[str]) -> str:
    return bytes.fromhex(found[0].replace(":", "")).decode()


def is_legal_name(name: str) -> bool:
    """Whether a peer's iSCSI name has one of the three forms of RFC 7143, 4.2.7 and its length."""
    return len(name.encode()) <= ISCSI_NAME_BYTES_MAX and _LEGAL.fullmatch(name) is not None
