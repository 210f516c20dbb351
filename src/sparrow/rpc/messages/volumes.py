"""Volumes, for operators: what they are, who may use them, where they lie and why."""

from __future__ import annotations

from dataclasses import dataclass

from sparrow.authority.types import FrontendTarget, Line, PeerProgress, PlacementVerdict
from sparrow.base.access import AccessList, Secret
from sparrow.base.ids import Lsn, NodeId, ReplicaId, VolumeId
from sparrow.rpc.messages.pages import Page, PageRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaView:
    """``role``: primary, in_sync, catching_up, rebuilding, away, missing."""

    replica_id: ReplicaId
    node_id: NodeId
    role: str
    durable_lsn: Lsn
    commit_lsn: Lsn
    state: str
    #: What the primary says of bringing it back; None without a primary's word.
    progress: PeerProgress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeView:
    """One volume as an operator sees it.

    ``state``: creating, healthy, degraded, unavailable, deleting; ``cause`` is one sentence when it is not healthy.
    ``size_bytes`` is what clients may use, ``size_wanted`` more than that while a resize goes on.
    """

    name: VolumeId
    size_bytes: int
    block_size: int
    replication_factor: int
    state: str
    cause: str
    line: Line | None
    replicas: tuple[ReplicaView, ...]
    frontends: tuple[FrontendTarget, ...]
    ack: str = "sync"
    #: Under ack=local: entries answered that only the primary has for sure, by its newest word.
    uncommitted: int = 0
    size_wanted: int = 0
    access: AccessList = AccessList()
    #: The machine that uses it, as recorded; empty: none.
    attached_to: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateVolumeRequest:
    """0 for ``block_size`` and ``min_in_sync``, and no ``ack``, means the default.

    ``exist_ok``: for programs that repeat a call whose answer they lost. A volume of this name that is equal in
    everything asked for is the answer then.
    """

    name: str
    size_bytes: int
    replication_factor: int
    block_size: int = 0
    min_in_sync: int = 0
    ack: str = ""
    exist_ok: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachVolumeRequest:
    """``host``: the machine that is to use it, by the name its orchestrator knows it by."""

    name: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachVolumeRequest:
    """``host`` is where the caller thinks it is attached; empty: wherever."""

    name: str
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetVolumeRequest:
    """``wait``: the answer comes when it is served or being deleted, or as it is when the deadline is near."""

    name: str
    wait: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ListVolumesRequest(PageRequest):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeList(Page):
    volumes: tuple[VolumeView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAccessRequest:
    """``access.revision`` is that of the list to be replaced, as it was seen."""

    name: str
    access: AccessList


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSecretRequest:
    secret: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteSecretRequest:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteSecretAnswer:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSecretsRequest(PageRequest):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretView:
    """A secret as an operator sees it: never its value. ``volumes`` are those whose access lists name it."""

    name: str
    volumes: tuple[VolumeId, ...]
    damaged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretList(Page):
    secrets: tuple[SecretView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteVolumeRequest:
    name: str
    #: That there is no such volume is success.
    missing_ok: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeVolumeRequest:
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteVolumeAnswer:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveVolumeRequest:
    """Make another in-sync replica primary; ``to`` names the replica or its node."""

    name: str
    to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveProgress:
    """One sentence on how far a move is; ``line`` names the new primary once it stands."""

    text: str
    line: Line | None = None
    finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyVolumeRequest:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateView:
    """A replica weighed as primary now; ``rejected`` is why it may not be, None when it may."""

    replica_id: ReplicaId
    node_id: NodeId
    primary: bool
    in_sync: bool
    rejected: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacementView:
    """One replica that is given up, or one that comes although none is; then ``replica_id`` and ``node_id`` are empty.

    ``stage`` is one of ``lifecycle.plans.steps.Stage``, ``text`` says what is done or waited for, ``cause`` why it
    is given up or missing; ``successor`` is empty until placed.
    """

    volume: VolumeId
    replica_id: ReplicaId
    node_id: NodeId
    successor: str
    successor_node: str
    stage: str
    text: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeWhy:
    """Why a volume is where it is and as it is.

    ``decision`` is the controller's last reason; ``balance`` says whether a less loaded node would lead it.
    """

    name: VolumeId
    state: str
    cause: str
    decision: str
    topology_version: int
    placement: tuple[PlacementVerdict, ...]
    candidates: tuple[CandidateView, ...]
    replacements: tuple[ReplacementView, ...]
    balance: str = ""
    #: Replicas that are being brought back, by the primary's word.
    returning: tuple[PeerProgress, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverStaleRequest:
    """Take a volume on from a replica that missed writes.

    ``old_primary_is_off``: the old primary's node, typed by a person who made sure. ``accept_state``: rebuilding or
    quarantined, to take a replica in that state. ``confirm`` repeats the volume's name; ``plan_only`` does nothing.
    """

    name: str
    replica_id: str
    old_primary_is_off: str = ""
    accept_state: str = ""
    confirm: str = ""
    who: str = ""
    plan_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverStaleAnswer:
    """``loss`` says what is lost; ``line`` is the one that stands now, None when only a plan was asked for."""

    loss: str
    kept_lsn: Lsn
    line: Line | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscardDivergentRequest:
    """Want a replica's files no longer that were set aside or quarantined; ``confirm`` repeats the volume's name."""

    name: str
    replica_id: str
    confirm: str = ""
    who: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscardDivergentAnswer:
    """``released``: its node was told, so it is rebuilt now; else it is when the verb is repeated with its node up."""

    line: Line
    released: bool
