"""Identities and positions as distinct types, so that a mix-up is a type error."""

from __future__ import annotations

import re
from typing import Final, NewType

from sparrow.base.constants import VOLUME_NAME_BYTES_MAX

VolumeId = NewType("VolumeId", str)
NodeId = NewType("NodeId", str)
#: Names one slot of one volume, for example ``r1``; unique within the volume only.
ReplicaId = NewType("ReplicaId", str)
#: 32 lower-case hex digits, random at format time: the identity of one set of files.
ReplicaUuid = NewType("ReplicaUuid", str)
Epoch = NewType("Epoch", int)
EndpointVersion = NewType("EndpointVersion", int)
#: Log sequence number of a volume; the first entry has LSN 1, 0 means "none".
Lsn = NewType("Lsn", int)
#: Names one link of a primary to a peer within a term (``node.link_ids``); 0 means "none".
LinkId = NewType("LinkId", int)
NO_LINK: Final = LinkId(0)

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_identifier(text: str) -> bool:
    """Whether a node, volume or replica can be called that."""
    return len(text) <= VOLUME_NAME_BYTES_MAX and _IDENTIFIER.fullmatch(text) is not None
