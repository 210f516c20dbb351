"""Every value comes back from the wire as it went in; what is off is named."""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparrow.authority.effects import HostReplica, RemoveReplica, Synced
from sparrow.authority.types import AssignmentFact, Line, Lineage, SlotFact
from sparrow.base.errors import LocalProtocolError, RemoteProtocolError
from sparrow.base.ids import EndpointVersion, Epoch, NodeId, VolumeId
from sparrow.rpc import codec, messages
from sparrow.rpc.gen import sparrow_pb2 as pb


def values_of(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Any value of a wire dataclass that its message can carry."""
    descriptors = codec._PAIRS[cls].DESCRIPTOR.fields_by_name
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{name: field_of(hints[name], descriptors[name]) for name in hints})


def field_of(hint: Any, descriptor: Any) -> st.SearchStrategy[Any]:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (inner,) = (part for part in typing.get_args(hint) if part is not type(None))
        return st.none() | field_of(inner, descriptor)
    if typing.get_origin(hint) is tuple:
        return st.lists(field_of(typing.get_args(hint)[0], descriptor), max_size=2).map(tuple)
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    if hint in codec._PAIRS:
        return values_of(hint)
    if issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    if hint is int:
        bits = 32 if descriptor.cpp_type == descriptor.CPPTYPE_UINT32 else 64
        return st.integers(0, 2**bits - 1)
    if hint is float:
        return st.floats(allow_nan=False)
    if hint is str:
        return st.text(max_size=8)
    return {bytes: st.binary(max_size=8), bool: st.booleans()}[hint]


@pytest.mark.parametrize("cls", codec._PAIRS, ids=lambda cls: cls.__name__)
@settings(max_examples=15)
@given(data=st.data())
def test_a_value_comes_back_equal(cls: type[Any], data: st.DataObject) -> None:
    value = data.draw(values_of(cls))
    assert codec.decode(cls, codec.encode(value)) == value


@settings(max_examples=30)
@given(
    value=values_of(HostReplica)
    | values_of(AssignmentFact)
    | values_of(RemoveReplica)
    | st.integers(0, 2**64 - 1).map(lambda n: Synced(master_generation=n))
)
def test_an_instruction_comes_back_equal_and_of_its_kind(value: messages.NodeInstruction) -> None:
    (back,) = codec.NODE_INSTRUCTIONS.decode(codec.NODE_INSTRUCTIONS.encode((value,)))
    assert back == value
    assert type(back) is type(value)


@settings(max_examples=20)
@given(
    values=st.lists(
        values_of(HostReplica)
        | values_of(AssignmentFact)
        | st.integers(0, 2**64 - 1).map(lambda n: Synced(master_generation=n)),
        min_size=1,
        max_size=4,
    ).map(tuple)
)
def test_several_instructions_of_one_message_come_back_in_their_order(
    values: tuple[messages.NodeInstruction, ...],
) -> None:
    data = codec.NODE_INSTRUCTIONS.encode(values)
    assert codec.NODE_INSTRUCTIONS.decode(data) == values
    assert pb.NodeInstruction.FromString(data).WhichOneof("kind") != "several" or len(values) > 1


def test_several_within_several_are_refused() -> None:
    inner = pb.NodeInstruction(several=pb.NodeInstructions())
    data = pb.NodeInstruction(several=pb.NodeInstructions(instructions=[inner]))
    with pytest.raises(RemoteProtocolError, match="of no kind"):
        codec.NODE_INSTRUCTIONS.decode(data.SerializeToString())


@settings(max_examples=30)
@given(value=values_of(Line) | values_of(messages.AskRefusal))
def test_an_ask_answer_comes_back_equal(value: messages.AskAnswer) -> None:
    assert codec.ASK_ANSWER.decode(codec.ASK_ANSWER.encode(value)) == value


@settings(max_examples=200)
@given(data=st.binary(max_size=64))
def test_arbitrary_bytes_are_a_heartbeat_or_refused(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        codec.decode(messages.Heartbeat, data)


def heartbeat_with(slot: pb.SlotFact) -> bytes:
    return pb.HeartbeatRequest(slots=[pb.SlotFact(state="clean"), slot]).SerializeToString()


def test_an_unknown_state_is_refused_naming_the_slot_and_the_choices() -> None:
    with pytest.raises(RemoteProtocolError, match=r"slots\[1\]\.state is 'fine', not one of clean"):
        codec.decode(messages.Heartbeat, heartbeat_with(pb.SlotFact(state="fine")))


def test_an_unknown_role_claim_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match=r"slots\[1\]\.role_claim is 3"):
        codec.decode(messages.Heartbeat, heartbeat_with(pb.SlotFact(state="clean", role_claim=3)))


def test_a_missing_message_is_named() -> None:
    with pytest.raises(RemoteProtocolError, match=r"^basis is missing"):
        codec.decode(
            messages.AskRequest, pb.AskRequest(intent=pb.ASK_GROW_IN_SYNC).SerializeToString()
        )


def test_an_unset_ask_intent_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="intent is 0"):
        codec.decode(messages.AskRequest, pb.AskRequest(basis=pb.Lineage()).SerializeToString())


@pytest.mark.parametrize("wire", [codec.NODE_INSTRUCTIONS, codec.ASK_ANSWER])
def test_an_empty_choice_is_refused(wire: codec.Wire[Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode(b"")


def test_an_absent_lineage_stays_absent_and_a_zero_one_stays_zero() -> None:
    zero = Lineage(epoch=Epoch(0), endpoint_version=EndpointVersion(0))
    for lineage in (None, zero):
        data = pb.SlotFact(state="clean", lineage=None if lineage is None else pb.Lineage())
        assert codec.decode(SlotFact, data.SerializeToString()).lineage == lineage


def test_a_number_the_wire_cannot_carry_is_our_bug() -> None:
    value = messages.SubscribeRequest(node_id=NodeId("n1"), incarnation=-1)
    with pytest.raises(LocalProtocolError, match="SubscribeRequest"):
        codec.encode(value)


def test_a_dataclass_that_lost_a_field_does_not_load() -> None:
    half = dataclasses.make_dataclass("Half", [("volume_id", VolumeId)])
    with pytest.raises(TypeError, match=r"Half and DesiredReplica differ in: .*block_size"):
        codec._make_plan(half, pb.DesiredReplica)


def test_a_field_of_another_kind_does_not_load() -> None:
    wrong = dataclasses.make_dataclass(
        "Wrong", [("node_id", int), ("incarnation", int), ("several", bool)]
    )
    with pytest.raises(TypeError, match=r"Wrong\.node_id: another kind than int"):
        codec._make_plan(wrong, pb.SubscribeRequest)
