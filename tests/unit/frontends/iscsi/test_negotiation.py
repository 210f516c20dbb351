"""Operational keys: every kind of answer, and what holds when nothing is said."""

from __future__ import annotations

import pytest

from sparrow.frontends.iscsi.errors import LoginRejected, LoginStatus
from sparrow.frontends.iscsi.negotiation import (
    RULES,
    Kind,
    OperationalNegotiation,
    OperationalOffer,
    OperationalParameters,
)


def settle(*pairs, discovery=False, **offer):
    negotiation = OperationalNegotiation(offer=OperationalOffer(**offer), discovery=discovery)
    answers = dict(negotiation.step(pairs))
    answers.pop("MaxRecvDataSegmentLength")
    return answers, negotiation.parameters()


@pytest.mark.parametrize(
    ("key", "value", "answer"),
    [
        ("MaxBurstLength", "16776192", "1048576"),
        ("MaxBurstLength", "131072", "131072"),
        ("MaxBurstLength", "0x20000", "131072"),
        ("MaxBurstLength", "511", "Reject"),
        ("MaxBurstLength", "16777216", "Reject"),
        ("MaxBurstLength", "much", "Reject"),
        ("FirstBurstLength", "262144", "262144"),
        ("MaxConnections", "8", "1"),
        ("MaxConnections", "0", "Reject"),
        ("MaxOutstandingR2T", "16", "1"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("ErrorRecoveryLevel", "3", "Reject"),
        ("DefaultTime2Wait", "2", "2"),
        ("DefaultTime2Wait", "3601", "Reject"),
        ("DefaultTime2Retain", "20", "0"),
        ("InitialR2T", "No", "No"),
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "maybe", "Reject"),
        ("ImmediateData", "Yes", "Yes"),
        ("ImmediateData", "No", "No"),
        ("DataPDUInOrder", "No", "Yes"),
        ("DataSequenceInOrder", "No", "Yes"),
        ("HeaderDigest", "None,CRC32C", "None"),
        ("HeaderDigest", "CRC32C,None", "None"),
        ("HeaderDigest", "CRC32C", "Reject"),
        ("DataDigest", "None", "None"),
        ("TaskReporting", "FastAbort,ResponseFence,RFC3720", "RFC3720"),
        ("iSCSIProtocolLevel", "2", "1"),
        ("IFMarker", "Yes", "No"),
        ("OFMarker", "No", "No"),
        ("IFMarkInt", "2048~8192", "Reject"),
        ("OFMarkInt", "2048", "Reject"),
        ("X-com.example.speed", "fast", "NotUnderstood"),
        ("RDMAExtensions", "Yes", "NotUnderstood"),
    ],
)
def test_every_kind_of_key_gets_its_answer(key, value, answer):
    assert settle((key, value))[0] == {key: answer}


def test_every_key_of_the_table_is_answered_or_declared():
    for key, rule in RULES.items():
        answers, _ = settle((key, str(rule.default)))
        assert (key in answers) != (rule.kind is Kind.DECLARED), key
        assert answers.get(key) != "NotUnderstood", key


@pytest.mark.parametrize("key", [key for key, rule in RULES.items() if not rule.in_discovery])
def test_data_transfer_keys_are_irrelevant_in_discovery(key):
    assert settle((key, str(RULES[key].default)), discovery=True)[0] == {key: "Irrelevant"}


def test_digests_are_declined_in_discovery_even_when_we_can_do_them():
    answers, agreed = settle(
        ("HeaderDigest", "CRC32C,None"), discovery=True, digests=("None", "CRC32C")
    )
    assert answers == {"HeaderDigest": "None"}
    assert not agreed.header_digest


def test_digests_follow_the_initiators_order_when_we_can_do_them():
    answers, agreed = settle(
        ("HeaderDigest", "CRC32C,None"), ("DataDigest", "None,CRC32C"), digests=("None", "CRC32C")
    )
    assert answers == {"HeaderDigest": "CRC32C", "DataDigest": "None"}
    assert agreed.header_digest
    assert not agreed.data_digest


def test_silence_means_the_defaults_of_the_standard():
    _, agreed = settle()
    assert agreed == OperationalParameters(target_segment_bytes_max=262144)
    assert (agreed.initial_r2t, agreed.immediate_data) == (True, True)
    assert (agreed.burst_bytes_max, agreed.first_burst_bytes_max) == (262144, 65536)
    assert agreed.initiator_segment_bytes_max == 8192


def test_a_rejected_value_leaves_the_default():
    assert settle(("MaxBurstLength", "1"))[1].burst_bytes_max == 262144


def test_our_segment_limit_is_declared_once_and_theirs_is_kept():
    negotiation = OperationalNegotiation(offer=OperationalOffer(), discovery=False)
    assert negotiation.step([("MaxRecvDataSegmentLength", "65536")]) == (
        ("MaxRecvDataSegmentLength", "262144"),
    )
    assert negotiation.step([]) == ()
    assert negotiation.parameters().initiator_segment_bytes_max == 65536
    assert negotiation.parameters().target_segment_bytes_max == 262144


def test_without_an_operational_stage_we_take_the_default_segment():
    negotiation = OperationalNegotiation(offer=OperationalOffer(), discovery=False)
    assert negotiation.parameters().target_segment_bytes_max == 8192


def test_the_first_burst_never_exceeds_the_burst():
    _, agreed = settle(("FirstBurstLength", "262144"), ("MaxBurstLength", "4096"))
    assert agreed.first_burst_bytes_max == agreed.burst_bytes_max == 4096


def test_a_key_cannot_be_negotiated_twice():
    negotiation = OperationalNegotiation(offer=OperationalOffer(), discovery=False)
    negotiation.step([("MaxBurstLength", "65536")])
    with pytest.raises(LoginRejected) as refused:
        negotiation.step([("MaxBurstLength", "65536")])
    assert refused.value.status is LoginStatus.INITIATOR_ERROR
