"""Identities and positions as distinct types, so that a mix-up is a type error."""

from __future__ import annotations

from typing import Final, NewType

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
