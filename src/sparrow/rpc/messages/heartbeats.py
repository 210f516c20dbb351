"""Between a node and its master."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from sparrow.authority.effects import Instruction
from sparrow.authority.types import Line, Lineage, SlotFact, SlotName
from sparrow.base.ids import NodeId, ReplicaId, ReplicaUuid, VolumeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """One node's facts and its room. Addresses are ``host:port``, sizes bytes.

    Whole or a delta as ``authority.types.Observation`` says; addresses and room are always all there.
    """

    node_id: NodeId
    incarnation: int
    sequence: int
    reachable: bool = True
    eligible: bool = True
    data_addr: str
    ctrl_addr: str
    iscsi_addr: str
    pool_total_bytes: int
    pool_free_bytes: int
    #: Bytes in files of replicas; part of what is used in the pool.
    replica_used_bytes: int = 0
    slots: tuple[SlotFact, ...] = ()
    revision: int = 0
    base_revision: int | None = None
    #: Sentences for the operator.
    troubles: tuple[str, ...] = ()
    removed: tuple[SlotName, ...] = ()
    #: What fails as a whole, a rack or a room; empty: nothing but the node itself.
    zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAck:
    """The sequence seen, and the cluster and generation of the master that saw it.

    ``send_full``: the master does not hold the delta's base, nothing of it was taken; a whole heartbeat is needed.
    """

    sequence: int
    master_generation: int
    cluster_id: str
    send_full: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribeRequest:
    node_id: NodeId
    incarnation: int
    #: Several instructions may come in one message.
    several: bool = False


#: What a subscription carries; declared where it is decided.
NodeInstruction: TypeAlias = Instruction


class AskIntent(IntEnum):
    """What a node may ask for itself; the numbers are those of ``authority.types.Intent``."""

    SHRINK_IN_SYNC = 4
    GROW_IN_SYNC = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRequest:
    """A primary's wish to change its in-sync set, with the line it was decided against."""

    volume_id: VolumeId
    intent: AskIntent
    replica_id: ReplicaId
    asker: ReplicaId
    basis: Lineage
    reason: str = ""
    #: Shrink only: also empty ``eligible``.
    clear_eligible: bool = False
    #: Grow only: the files the peer showed.
    uuid: ReplicaUuid | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRefusal:
    """No, and why; ``recorded`` is the line that stands, None when there is none."""

    code: str
    message: str
    basis: Lineage
    recorded: Line | None


AskAnswer: TypeAlias = Line | AskRefusal
