"""Dataclass to protobuf bytes and back: the one module that knows both.

A value and its message have the same field names; :data:`_PAIRS` says which belong together and the rest is read
from the type hints. Both sides are compared once, at import: a field that one side lacks, or has in another kind, is
a ``TypeError`` there and not a value lost in service.

How kinds map: tuples are repeated fields; a ``StrEnum`` is a string, or a protobuf enum by member name; an
``IntEnum`` is a number; ``X | None`` is presence. A message field without ``| None`` must be present.

Decoding checks shape only (kinds, enum members, presence) and names the field that is off; whether a value makes
sense is the handler's business.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from enum import Enum, IntEnum
from functools import partial
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from sparrow.authority import effects, recovery
from sparrow.authority import types as authority
from sparrow.base import access
from sparrow.base.errors import LocalProtocolError, RemoteProtocolError
from sparrow.ports import dataplane
from sparrow.rpc import messages
from sparrow.rpc.gen import sparrow_pb2 as pb

T = TypeVar("T")

_PAIRS: Final[dict[type[Any], type[Message]]] = {
    # values
    authority.Lineage: pb.Lineage,
    authority.Term: pb.Term,
    authority.Member: pb.Member,
    authority.Line: pb.Line,
    authority.FrontendTarget: pb.FrontendTarget,
    authority.Peer: pb.Peer,
    authority.PeerProgress: pb.PeerProgress,
    authority.SlotFact: pb.SlotFact,
    authority.SlotName: pb.SlotName,
    authority.AssignmentFact: pb.AssignmentFact,
    access.AccessEntry: pb.AccessEntry,
    access.AccessList: pb.AccessList,
    access.Secret: pb.Secret,
    # node -> master
    messages.Heartbeat: pb.HeartbeatRequest,
    messages.HeartbeatAck: pb.HeartbeatResponse,
    messages.SubscribeRequest: pb.SubscribeRequest,
    effects.HostReplica: pb.DesiredReplica,
    effects.AllowAccess: pb.AllowAccess,
    effects.RemoveReplica: pb.RemoveReplica,
    messages.AskRequest: pb.AskRequest,
    messages.AskRefusal: pb.AskRefusal,
    # node <-> node
    messages.ChallengeRequest: pb.ChallengeRequest,
    messages.ChallengeAnswer: pb.ChallengeResponse,
    dataplane.TermRow: pb.TermRow,
    dataplane.LogSummary: pb.LogSummary,
    messages.FenceRequest: pb.FenceRequest,
    dataplane.FenceReport: pb.FenceResponse,
    messages.ReadLogRequest: pb.ReadLogRequest,
    messages.LogChunk: pb.LogChunk,
    messages.JoinRequest: pb.JoinRequest,
    messages.JoinAnswer: pb.JoinResponse,
    dataplane.RebuildPlan: pb.RebuildPlan,
    messages.PrepareRebuildRequest: pb.PrepareRebuildRequest,
    messages.PrepareRebuildAnswer: pb.PrepareRebuildResponse,
    messages.PageDigestRequest: pb.PageDigestRequest,
    dataplane.PageDigests: pb.PageDigestResponse,
    messages.ReadPageRequest: pb.ReadPageRequest,
    messages.ReadPageAnswer: pb.ReadPageResponse,
    messages.ReadSumsRequest: pb.ReadSumsRequest,
    dataplane.SumsImage: pb.ReadSumsResponse,
    messages.ReservationLookRequest: pb.LookAtReservationsRequest,
    messages.ReservationLook: pb.LookAtReservationsResponse,
    messages.ReservationChangeRequest: pb.ChangeReservationsRequest,
    messages.ReservationChangeAnswer: pb.ChangeReservationsResponse,
    messages.ScrubRequest: pb.ScrubRequest,
    messages.ScrubStatus: pb.ScrubStatus,
    messages.ScrubReport: pb.ScrubReport,
    messages.VerifyRequest: pb.VerifyRequest,
    messages.VerifyProgress: pb.VerifyProgress,
    # control API
    messages.SetAccessRequest: pb.SetAccessRequest,
    messages.AttachVolumeRequest: pb.AttachVolumeRequest,
    messages.DetachVolumeRequest: pb.DetachVolumeRequest,
    messages.SetSecretRequest: pb.SetSecretRequest,
    messages.DeleteSecretRequest: pb.DeleteSecretRequest,
    messages.DeleteSecretAnswer: pb.DeleteSecretResponse,
    messages.ListSecretsRequest: pb.ListSecretsRequest,
    messages.SecretView: pb.SecretInfo,
    messages.SecretList: pb.ListSecretsResponse,
    messages.ReplicaView: pb.ReplicaStatus,
    messages.VolumeView: pb.Volume,
    messages.CreateVolumeRequest: pb.CreateVolumeRequest,
    messages.GetVolumeRequest: pb.GetVolumeRequest,
    messages.ListVolumesRequest: pb.ListVolumesRequest,
    messages.VolumeList: pb.ListVolumesResponse,
    messages.DeleteVolumeRequest: pb.DeleteVolumeRequest,
    messages.ResizeVolumeRequest: pb.ResizeVolumeRequest,
    messages.DeleteVolumeAnswer: pb.DeleteVolumeResponse,
    messages.MoveVolumeRequest: pb.MoveVolumeRequest,
    messages.MoveProgress: pb.MoveProgress,
    messages.WhyVolumeRequest: pb.WhyVolumeRequest,
    authority.PlacementVerdict: pb.PlacementVerdict,
    messages.CandidateView: pb.Candidate,
    messages.ReplacementView: pb.Replacement,
    messages.VolumeWhy: pb.WhyVolumeResponse,
    messages.RecoverStaleRequest: pb.RecoverStaleRequest,
    messages.RecoverStaleAnswer: pb.RecoverStaleResponse,
    messages.DiscardDivergentRequest: pb.DiscardDivergentRequest,
    messages.DiscardDivergentAnswer: pb.DiscardDivergentResponse,
    messages.NodeView: pb.Node,
    messages.ListNodesRequest: pb.ListNodesRequest,
    messages.NodeList: pb.ListNodesResponse,
    messages.GetNodeRequest: pb.GetNodeRequest,
    messages.SetNodeStateRequest: pb.SetNodeStateRequest,
    messages.NodeDetails: pb.NodeDetails,
    authority.SkippedRecord: pb.SkippedRecord,
    messages.AuthorityStatusRequest: pb.AuthorityStatusRequest,
    messages.AuthorityStatus: pb.AuthorityStatusResponse,
    # recovery of authority
    messages.ReplicaLinesRequest: pb.ReplicaLinesRequest,
    messages.KeepCopyRequest: pb.KeepCopyRequest,
    messages.CopyInfoRequest: pb.CopyInfoRequest,
    messages.CopyInfo: pb.CopyInfoResponse,
    messages.CopyRequest: pb.CopyRequest,
    messages.StoreCopyView: pb.StoreCopy,
    messages.ReleaseReplicaRequest: pb.ReleaseReplicaRequest,
    messages.ReleaseReplicaAnswer: pb.ReleaseReplicaResponse,
    recovery.HeldReplica: pb.HeldReplica,
    recovery.NodeAnswer: pb.ReplicaLinesResponse,
    recovery.AuditEntry: pb.AuditEntry,
    messages.UnconfirmedVolume: pb.UnconfirmedVolume,
    messages.RecoveryPlanRequest: pb.RecoveryPlanRequest,
    messages.RecoveryPlan: pb.RecoveryPlanResponse,
    messages.RecoverRequest: pb.RecoverRequest,
    messages.RecoverAnswer: pb.RecoverResponse,
    messages.GiveUpNodeRequest: pb.GiveUpNodeRequest,
    messages.GiveUpNodeAnswer: pb.GiveUpNodeResponse,
    messages.BackupRequest: pb.BackupRequest,
    messages.BackupChunk: pb.BackupChunk,
}


class Wire(Generic[T]):
    """How one kind of message travels.

    ``encode`` raises LocalProtocolError (a value the wire cannot carry: our bug); ``decode`` raises
    RemoteProtocolError (bytes that are no such message, or a field that is off).
    """

    def __init__(self, encode: Callable[[T], bytes], decode: Callable[[bytes], T]) -> None:
        self.encode = encode
        self.decode = decode


def wire(cls: type[T]) -> Wire[T]:
    """The wire form of one dataclass of :data:`_PAIRS`."""
    return Wire(encode, partial(decode, cls))


def encode(value: object) -> bytes:
    """Bytes of one dataclass of :data:`_PAIRS`. Raises LocalProtocolError."""
    data: bytes = _to_message(value).SerializeToString()
    return data


def decode(cls: type[T], data: bytes) -> T:
    """The dataclass in these bytes. Raises RemoteProtocolError."""
    plan = _plans[cls]
    result: T = plan.from_message(_parse(plan.message_type, data), "")
    return result


# ---------------------------------------------------------------- the two messages that are a choice


def _encode_instructions(values: tuple[messages.NodeInstruction, ...]) -> bytes:
    if len(values) == 1:
        return _instruction_message(values[0]).SerializeToString()
    several = pb.NodeInstructions(instructions=map(_instruction_message, values))
    return pb.NodeInstruction(several=several).SerializeToString()


def _instruction_message(value: messages.NodeInstruction) -> pb.NodeInstruction:
    match value:
        case effects.HostReplica():
            return pb.NodeInstruction(desired=_to_message(value))
        case authority.AssignmentFact():
            return pb.NodeInstruction(assignment=_to_message(value))
        case effects.AllowAccess():
            return pb.NodeInstruction(allow=_to_message(value))
        case effects.RemoveReplica():
            return pb.NodeInstruction(remove=_to_message(value))
        case effects.Synced():
            return pb.NodeInstruction(synced_master_generation=value.master_generation)
        case _:
            typing.assert_never(value)


def _decode_instructions(data: bytes) -> tuple[messages.NodeInstruction, ...]:
    message = _parse(pb.NodeInstruction, data)
    if message.WhichOneof("kind") == "several":
        return tuple(map(_instruction_of, message.several.instructions))
    return (_instruction_of(message),)


def _instruction_of(message: pb.NodeInstruction) -> messages.NodeInstruction:
    match message.WhichOneof("kind"):
        case "desired":
            return _from(effects.HostReplica, message.desired, "desired")
        case "assignment":
            return _from(authority.AssignmentFact, message.assignment, "assignment")
        case "allow":
            return _from(effects.AllowAccess, message.allow, "allow")
        case "remove":
            return _from(effects.RemoveReplica, message.remove, "remove")
        case "synced_master_generation":
            return effects.Synced(master_generation=message.synced_master_generation)
        case _:
            # A newer master may send kinds this version does not know; guessing would be worse than stopping.
            raise RemoteProtocolError("node instruction: of no kind this version knows")


def _encode_ask_answer(value: messages.AskAnswer) -> bytes:
    if isinstance(value, authority.Line):
        return pb.AskResponse(line=_to_message(value)).SerializeToString()
    return pb.AskResponse(refusal=_to_message(value)).SerializeToString()


def _decode_ask_answer(data: bytes) -> messages.AskAnswer:
    message = _parse(pb.AskResponse, data)
    match message.WhichOneof("answer"):
        case "line":
            return _from(authority.Line, message.line, "line")
        case "refusal":
            return _from(messages.AskRefusal, message.refusal, "refusal")
        case _:
            raise RemoteProtocolError("ask response: neither a line nor a refusal")


NODE_INSTRUCTIONS: Final[Wire[tuple[messages.NodeInstruction, ...]]] = Wire(
    _encode_instructions, _decode_instructions
)
ASK_ANSWER: Final[Wire[messages.AskAnswer]] = Wire(_encode_ask_answer, _decode_ask_answer)

# ---------------------------------------------------------------- plans: one per dataclass, made at import


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    """One field's two directions. ``read`` takes the raw protobuf value and the field's path."""

    name: str
    repeated: bool
    optional: bool
    is_message: bool
    write: Callable[[Any], Any]
    read: Callable[[Any, str], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    value_type: type[Any]
    message_type: type[Message]
    fields: tuple[_Field, ...]
    #: Names of fields that are taken as they are, all in one call; most fields of a heartbeat are.
    plain: tuple[str, ...]
    read_plain: Callable[[Any], tuple[Any, ...]]
    odd: tuple[_Field, ...]

    def to_message(self, value: Any) -> Any:
        given: dict[str, Any] = {}
        for field in self.fields:
            item = getattr(value, field.name)
            if field.repeated:
                given[field.name] = [field.write(element) for element in item]
            elif item is not None:
                given[field.name] = field.write(item)
            elif not field.optional:
                raise LocalProtocolError(
                    f"{self.value_type.__name__}.{field.name} is None but must have a value"
                )
        try:
            return self.message_type(**given)
        except (ValueError, TypeError) as error:
            raise LocalProtocolError(
                f"{self.value_type.__name__} does not fit its message: {error}"
            ) from error

    def from_message(self, message: Any, path: str) -> Any:
        taken: dict[str, Any] = dict(zip(self.plain, self.read_plain(message), strict=True))
        for field in self.odd:
            here = f"{path}.{field.name}" if path else field.name
            if field.repeated:
                items = getattr(message, field.name)
                taken[field.name] = tuple(
                    field.read(item, f"{here}[{index}]") for index, item in enumerate(items)
                )
            elif (field.optional or field.is_message) and not message.HasField(field.name):
                if not field.optional:
                    raise RemoteProtocolError(f"{here} is missing")
                taken[field.name] = None
            else:
                taken[field.name] = field.read(getattr(message, field.name), here)
        return self.value_type(**taken)


_KIND_OF: Final[dict[type, tuple[int, ...]]] = {
    int: (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64),
    bool: (FieldDescriptor.CPPTYPE_BOOL,),
    str: (FieldDescriptor.CPPTYPE_STRING,),
    bytes: (FieldDescriptor.CPPTYPE_STRING,),
    float: (FieldDescriptor.CPPTYPE_DOUBLE,),
}


def _make_plan(cls: type[Any], message_type: type[Message]) -> _Plan:
    descriptors = message_type.DESCRIPTOR.fields_by_name
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    if set(names) != set(descriptors):
        odd = ", ".join(sorted(set(names) ^ set(descriptors)))
        raise TypeError(f"{cls.__name__} and {message_type.__name__} differ in: {odd}")
    fields = tuple(_make_field(cls, name, hints[name], descriptors[name]) for name in names)
    plain = tuple(
        field.name
        for field in fields
        if field.read is _same_read and not field.repeated and not field.optional
    )
    return _Plan(
        cls,
        message_type,
        fields,
        plain,
        _getter(plain),
        tuple(field for field in fields if field.name not in plain),
    )


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """Several attributes as a tuple, also when there is one or none."""
    if len(names) >= 2:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def _make_field(cls: type[Any], name: str, hint: Any, descriptor: Any) -> _Field:
    where = f"{cls.__name__}.{name}"
    optional = False
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
        optional = True
    repeated = typing.get_origin(hint) is tuple
    if repeated:
        hint = typing.get_args(hint)[0]
    if repeated != descriptor.is_repeated:
        raise TypeError(f"{where}: repeated on one side only")
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    is_message = hint in _PAIRS
    if optional and not descriptor.has_presence:
        raise TypeError(f"{where}: may be None but its message field has no presence")
    if is_message:
        if descriptor.message_type is not _PAIRS[hint].DESCRIPTOR:
            raise TypeError(f"{where}: another message than {_PAIRS[hint].__name__}")
        write: Callable[[Any], Any] = _to_message
        read: Callable[[Any, str], Any] = partial(_from, hint)
    elif isinstance(hint, type) and issubclass(hint, Enum):
        write, read = _enum_pair(hint, descriptor)
    else:
        if descriptor.cpp_type not in _KIND_OF[hint]:
            raise TypeError(f"{where}: another kind than {hint.__name__}")
        write, read = _same, _same_read
    return _Field(name, repeated, optional, is_message, write, read)


def _enum_pair(
    enum: type[Enum], descriptor: Any
) -> tuple[Callable[[Any], Any], Callable[[Any, str], Any]]:
    """Writer and reader of an enum; on the wire a number (IntEnum, protobuf enum) or a string."""
    if descriptor.enum_type is not None:
        by_name = {
            value.name: value.number for value in descriptor.enum_type.values if value.number != 0
        }
        if set(by_name) != {member.name for member in enum} and not issubclass(enum, IntEnum):
            raise TypeError(f"{enum.__name__} and {descriptor.enum_type.name} differ")
        numbers = {m: (int(m) if isinstance(m, IntEnum) else by_name[m.name]) for m in enum}
        if set(numbers.values()) != set(by_name.values()):
            raise TypeError(f"{enum.__name__} and {descriptor.enum_type.name} differ in numbers")
        to_wire: dict[Any, Any] = dict(numbers)
    else:
        to_wire = {member: member.value for member in enum}
    from_wire = {raw: member for member, raw in to_wire.items()}

    def read(raw: Any, path: str) -> Any:
        if raw not in from_wire:
            known = ", ".join(str(key) for key in from_wire)
            raise RemoteProtocolError(f"{path} is {raw!r}, not one of {known}")
        return from_wire[raw]

    return to_wire.__getitem__, read


def _same(value: Any) -> Any:
    return value


def _same_read(value: Any, _path: str) -> Any:
    return value


def _to_message(value: Any) -> Any:
    return _plans[type(value)].to_message(value)


def _from(cls: type[T], message: Any, path: str) -> T:
    result: T = _plans[cls].from_message(message, path)
    return result


_M = TypeVar("_M", bound=Message)


def _parse(message_type: type[_M], data: bytes) -> _M:
    try:
        return message_type.FromString(data)
    except DecodeError as error:
        raise RemoteProtocolError(f"bytes are no {message_type.__name__}: {error}") from error


_plans: Final[dict[type[Any], _Plan]] = {
    cls: _make_plan(cls, message) for cls, message in _PAIRS.items()
}
