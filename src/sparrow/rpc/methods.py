"""Every call of every service, once: its path, what goes in, what comes out, and how often.

Servers and clients are both built from this table, so neither can know a method the other spells differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sparrow.authority import recovery
from sparrow.ports import dataplane
from sparrow.rpc import messages
from sparrow.rpc.codec import ASK_ANSWER, NODE_INSTRUCTIONS, Wire, wire

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary(Generic[Q, A]):
    """One request, one answer."""

    service: str
    name: str
    request: Wire[Q]
    answer: Wire[A]

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream(Generic[Q, A]):
    """One request, any number of answers. ``live``: they come when there is news, and each counts at once."""

    service: str
    name: str
    request: Wire[Q]
    answer: Wire[A]
    live: bool = False

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


NODE_CONTROL: Final = "sparrow.v1.NodeControl"
NODE_PEER: Final = "sparrow.v1.NodePeer"
VOLUMES: Final = "sparrow.v1.VolumeService"
NODES: Final = "sparrow.v1.NodeService"
AUTHORITY: Final = "sparrow.v1.AuthorityService"

HEARTBEAT: Final = Unary(
    service=NODE_CONTROL,
    name="Heartbeat",
    request=wire(messages.Heartbeat),
    answer=wire(messages.HeartbeatAck),
)
SUBSCRIBE: Final = Stream(
    service=NODE_CONTROL,
    name="Subscribe",
    request=wire(messages.SubscribeRequest),
    answer=NODE_INSTRUCTIONS,
    live=True,
)
ASK: Final = Unary(
    service=NODE_CONTROL, name="Ask", request=wire(messages.AskRequest), answer=ASK_ANSWER
)

CHALLENGE: Final = Unary(
    service=NODE_PEER,
    name="Challenge",
    request=wire(messages.ChallengeRequest),
    answer=wire(messages.ChallengeAnswer),
)
FENCE: Final = Unary(
    service=NODE_PEER,
    name="Fence",
    request=wire(messages.FenceRequest),
    answer=wire(dataplane.FenceReport),
)
READ_LOG: Final = Stream(
    service=NODE_PEER,
    name="ReadLog",
    request=wire(messages.ReadLogRequest),
    answer=wire(messages.LogChunk),
)
JOIN: Final = Unary(
    service=NODE_PEER,
    name="Join",
    request=wire(messages.JoinRequest),
    answer=wire(messages.JoinAnswer),
)
PREPARE_REBUILD: Final = Unary(
    service=NODE_PEER,
    name="PrepareRebuild",
    request=wire(messages.PrepareRebuildRequest),
    answer=wire(messages.PrepareRebuildAnswer),
)
PAGE_DIGEST: Final = Unary(
    service=NODE_PEER,
    name="PageDigest",
    request=wire(messages.PageDigestRequest),
    answer=wire(dataplane.PageDigests),
)
READ_PAGE: Final = Unary(
    service=NODE_PEER,
    name="ReadPage",
    request=wire(messages.ReadPageRequest),
    answer=wire(messages.ReadPageAnswer),
)
READ_SUMS: Final = Unary(
    service=NODE_PEER,
    name="ReadSums",
    request=wire(messages.ReadSumsRequest),
    answer=wire(dataplane.SumsImage),
)
LOOK_AT_RESERVATIONS: Final = Unary(
    service=NODE_PEER,
    name="LookAtReservations",
    request=wire(messages.ReservationLookRequest),
    answer=wire(messages.ReservationLook),
)
CHANGE_RESERVATIONS: Final = Unary(
    service=NODE_PEER,
    name="ChangeReservations",
    request=wire(messages.ReservationChangeRequest),
    answer=wire(messages.ReservationChangeAnswer),
)
VERIFY_ON_PRIMARY: Final = Stream(
    service=NODE_PEER,
    name="Verify",
    request=wire(messages.VerifyRequest),
    answer=wire(messages.VerifyProgress),
)

SCRUB_REPLICA: Final = Unary(
    service=NODE_PEER,
    name="Scrub",
    request=wire(messages.ScrubRequest),
    answer=wire(messages.ScrubStatus),
)
SCRUB_VOLUME: Final = Unary(
    service=VOLUMES,
    name="Scrub",
    request=wire(messages.ScrubRequest),
    answer=wire(messages.ScrubReport),
)

REPLICA_LINES: Final = Unary(
    service=NODE_PEER,
    name="ReplicaLines",
    request=wire(messages.ReplicaLinesRequest),
    answer=wire(recovery.NodeAnswer),
)

KEEP_COPY: Final = Unary(
    service=NODE_PEER,
    name="KeepCopy",
    request=wire(messages.KeepCopyRequest),
    answer=wire(messages.CopyInfo),
)
COPY_INFO: Final = Unary(
    service=NODE_PEER,
    name="CopyInfo",
    request=wire(messages.CopyInfoRequest),
    answer=wire(messages.CopyInfo),
)
COPY: Final = Stream(
    service=NODE_PEER,
    name="Copy",
    request=wire(messages.CopyRequest),
    answer=wire(messages.BackupChunk),
)
RELEASE_REPLICA: Final = Unary(
    service=NODE_PEER,
    name="ReleaseReplica",
    request=wire(messages.ReleaseReplicaRequest),
    answer=wire(messages.ReleaseReplicaAnswer),
)

CREATE_VOLUME: Final = Unary(
    service=VOLUMES,
    name="Create",
    request=wire(messages.CreateVolumeRequest),
    answer=wire(messages.VolumeView),
)
GET_VOLUME: Final = Unary(
    service=VOLUMES,
    name="Get",
    request=wire(messages.GetVolumeRequest),
    answer=wire(messages.VolumeView),
)
LIST_VOLUMES: Final = Unary(
    service=VOLUMES,
    name="List",
    request=wire(messages.ListVolumesRequest),
    answer=wire(messages.VolumeList),
)
DELETE_VOLUME: Final = Unary(
    service=VOLUMES,
    name="Delete",
    request=wire(messages.DeleteVolumeRequest),
    answer=wire(messages.DeleteVolumeAnswer),
)
RESIZE_VOLUME: Final = Unary(
    service=VOLUMES,
    name="Resize",
    request=wire(messages.ResizeVolumeRequest),
    answer=wire(messages.VolumeView),
)
SET_ACCESS: Final = Unary(
    service=VOLUMES,
    name="SetAccess",
    request=wire(messages.SetAccessRequest),
    answer=wire(messages.VolumeView),
)
ATTACH_VOLUME: Final = Unary(
    service=VOLUMES,
    name="Attach",
    request=wire(messages.AttachVolumeRequest),
    answer=wire(messages.VolumeView),
)
DETACH_VOLUME: Final = Unary(
    service=VOLUMES,
    name="Detach",
    request=wire(messages.DetachVolumeRequest),
    answer=wire(messages.VolumeView),
)
SET_SECRET: Final = Unary(
    service=VOLUMES,
    name="SetSecret",
    request=wire(messages.SetSecretRequest),
    answer=wire(messages.SecretView),
)
DELETE_SECRET: Final = Unary(
    service=VOLUMES,
    name="DeleteSecret",
    request=wire(messages.DeleteSecretRequest),
    answer=wire(messages.DeleteSecretAnswer),
)
LIST_SECRETS: Final = Unary(
    service=VOLUMES,
    name="ListSecrets",
    request=wire(messages.ListSecretsRequest),
    answer=wire(messages.SecretList),
)
VERIFY_VOLUME: Final = Stream(
    service=VOLUMES,
    name="Verify",
    request=wire(messages.VerifyRequest),
    answer=wire(messages.VerifyProgress),
)
MOVE_VOLUME: Final = Stream(
    service=VOLUMES,
    name="Move",
    request=wire(messages.MoveVolumeRequest),
    answer=wire(messages.MoveProgress),
)

WHY_VOLUME: Final = Unary(
    service=VOLUMES,
    name="Why",
    request=wire(messages.WhyVolumeRequest),
    answer=wire(messages.VolumeWhy),
)

RECOVER_STALE: Final = Unary(
    service=VOLUMES,
    name="RecoverStale",
    request=wire(messages.RecoverStaleRequest),
    answer=wire(messages.RecoverStaleAnswer),
)
DISCARD_DIVERGENT: Final = Unary(
    service=VOLUMES,
    name="DiscardDivergent",
    request=wire(messages.DiscardDivergentRequest),
    answer=wire(messages.DiscardDivergentAnswer),
)

LIST_NODES: Final = Unary(
    service=NODES,
    name="List",
    request=wire(messages.ListNodesRequest),
    answer=wire(messages.NodeList),
)
GET_NODE: Final = Unary(
    service=NODES,
    name="Get",
    request=wire(messages.GetNodeRequest),
    answer=wire(messages.NodeDetails),
)
SET_NODE_STATE: Final = Unary(
    service=NODES,
    name="SetState",
    request=wire(messages.SetNodeStateRequest),
    answer=wire(messages.NodeDetails),
)
AUTHORITY_STATUS: Final = Unary(
    service=AUTHORITY,
    name="Status",
    request=wire(messages.AuthorityStatusRequest),
    answer=wire(messages.AuthorityStatus),
)
RECOVERY_PLAN: Final = Unary(
    service=AUTHORITY,
    name="RecoveryPlan",
    request=wire(messages.RecoveryPlanRequest),
    answer=wire(messages.RecoveryPlan),
)
RECOVER: Final = Unary(
    service=AUTHORITY,
    name="Recover",
    request=wire(messages.RecoverRequest),
    answer=wire(messages.RecoverAnswer),
)
GIVE_UP_NODE: Final = Unary(
    service=AUTHORITY,
    name="GiveUpNode",
    request=wire(messages.GiveUpNodeRequest),
    answer=wire(messages.GiveUpNodeAnswer),
)
BACKUP: Final = Stream(
    service=AUTHORITY,
    name="Backup",
    request=wire(messages.BackupRequest),
    answer=wire(messages.BackupChunk),
)
