"""The negotiation against what clients say, against bad ones, and against noise."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparrow.base.errors import LocalProtocolError
from sparrow.frontends.nbd.errors import NbdError
from sparrow.frontends.nbd.exports import Refusal, TlsPolicy
from sparrow.frontends.nbd.negotiation import (
    ALLOCATION,
    OPTION_BYTES_MAX,
    OPTIONS_MAX,
    Chosen,
    Ended,
    Haggling,
    Negotiation,
    TlsWanted,
)
from tests.support.nbd_peer import (
    FIXED,
    NO_ZEROES,
    FixedExports,
    choice,
    client_flags,
    export,
    option,
    query,
    replies,
    string,
)

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META = (
    1,
    2,
    3,
    5,
    6,
    7,
    8,
    9,
    10,
)
EXTENDED_HEADERS = 11
ACK, SERVER, REP_INFO, META = 1, 2, 3, 4
UNSUP, POLICY, INVALID, TLS_REQD, UNKNOWN, SHUTDOWN, TOO_BIG = 1, 2, 3, 5, 6, 7, 9
HAS_FLAGS, READ_ONLY, FLUSH, FUA, TRIM, ZEROES, DF, MULTI, CACHE, FAST = (
    1 << bit for bit in (0, 1, 2, 3, 5, 6, 7, 8, 10, 11)
)

VM1 = export("vm1", size_bytes=3 << 20)
LOCAL = export("local", shared=False)
STANDBY = export(
    "away", refusal=Refusal.NOT_HERE, explanation="The primary is node n2; connect there."
)
DRAINED = export("drained", refusal=Refusal.LEAVING, explanation="This node is being stopped.")


def negotiation(**changes):
    machine = Negotiation(exports=FixedExports(VM1, LOCAL, STANDBY, DRAINED), **changes)
    machine.greeting()
    return machine


def haggling(**changes):
    """A machine that has heard the client's flags."""
    machine = negotiation(**changes)
    assert machine.feed(client_flags()) == Haggling(send=b"")
    return machine


def ask(machine, kind, data=b""):
    """Replies to one option; the haggling must go on."""
    outcome = machine.feed(option(kind, data))
    assert isinstance(outcome, Haggling)
    return replies(outcome.send)


def only_error(answers):
    assert len(answers) == 1
    assert answers[0].error != 0
    assert answers[0].data.decode() != ""
    return answers[0].error


def test_greeting_is_fixed_newstyle_without_zeroes():
    assert Negotiation(exports=FixedExports()).greeting() == b"NBDMAGICIHAVEOPT\x00\x03"


def test_go_leads_to_transmission_with_what_was_agreed_on():
    machine = haggling()
    assert [r.kind for r in ask(machine, STRUCTURED)] == [ACK]
    told = ask(machine, SET_META, query("vm1", ALLOCATION))
    assert [(r.kind, r.data) for r in told] == [(META, b"\0\0\0\x01base:allocation"), (ACK, b"")]
    outcome = machine.feed(option(GO, choice("vm1", 3)) + b"first request")
    assert isinstance(outcome, Chosen)
    assert (outcome.export, outcome.structured, outcome.allocation) == (VM1, True, True)
    assert outcome.residual == b"first request"
    answers = replies(outcome.send)
    assert [r.kind for r in answers] == [REP_INFO, REP_INFO, ACK]
    assert answers[0].data == struct.pack(
        ">HQH", 0, 3 << 20, HAS_FLAGS | FLUSH | FUA | TRIM | ZEROES | DF | MULTI | CACHE | FAST
    )
    assert answers[1].data == struct.pack(">HIII", 3, 1, 4096, 32 << 20)


def test_df_is_offered_with_structured_replies_only_and_multi_conn_only_when_shared():
    machine = haggling()
    answers = ask(machine, INFO, choice("local"))
    flags = struct.unpack(">HQH", answers[0].data)[2]
    assert not flags & DF
    assert not flags & MULTI
    assert not flags & READ_ONLY


def test_name_and_description_are_told_when_asked_for():
    answers = ask(haggling(), INFO, choice("vm1", 1, 2, 77))
    assert [r.data for r in answers[2:4]] == [b"\0\x01vm1", b"\0\x02volume vm1"]
    assert answers[-1].kind == ACK


def test_info_goes_on_haggling_and_tells_what_go_tells():
    machine = haggling()
    informed = ask(machine, INFO, choice("vm1", 3))
    outcome = machine.feed(option(GO, choice("vm1", 3)))
    assert [r.data for r in informed] == [r.data for r in replies(outcome.send)]


def test_list_names_every_export_with_its_description():
    answers = ask(haggling(), LIST)
    assert [r.kind for r in answers] == [SERVER] * 4 + [ACK]
    assert answers[3].data == string("vm1") + b"volume vm1"


def test_list_with_data_is_malformed():
    assert only_error(ask(haggling(), LIST, b"x")) == INVALID


@pytest.mark.parametrize(
    ("name", "error"), [("away", POLICY), ("drained", SHUTDOWN), ("none", UNKNOWN), ("", UNKNOWN)]
)
@pytest.mark.parametrize("kind", [INFO, GO])
def test_an_export_that_is_not_served_is_refused_with_a_sentence(kind, name, error):
    machine = haggling()
    answers = ask(machine, kind, choice(name))
    assert only_error(answers) == error
    if name == "away":
        assert "node n2" in answers[0].data.decode()
    assert isinstance(machine.feed(option(GO, choice("vm1"))), Chosen)


def test_the_empty_name_means_the_default_export():
    machine = haggling(default="vm1")
    outcome = machine.feed(option(GO, choice("")))
    assert isinstance(outcome, Chosen)
    assert outcome.export == VM1


@pytest.mark.parametrize("flags", [FIXED | NO_ZEROES, FIXED, 0, NO_ZEROES])
def test_export_name_is_answered_without_a_reply_header(flags):
    machine = negotiation()
    outcome = machine.feed(client_flags(flags) + option(EXPORT_NAME, b"vm1") + b"more")
    assert isinstance(outcome, Chosen)
    zeroes = b"" if flags & NO_ZEROES else bytes(124)
    known = HAS_FLAGS | FLUSH | FUA | TRIM | ZEROES | MULTI | CACHE | FAST
    assert outcome.send == struct.pack(">QH", 3 << 20, known) + zeroes
    assert outcome.residual == b"more"
    assert not outcome.structured


@pytest.mark.parametrize("name", [b"none", b"away", b"drained", b"", b"\xff", b"a" * 5000])
def test_export_name_that_cannot_be_served_ends_the_connection(name):
    with pytest.raises(NbdError):
        haggling().feed(option(EXPORT_NAME, name))


def test_a_client_without_fixed_newstyle_gets_export_name_only():
    machine = negotiation()
    machine.feed(client_flags(0))
    with pytest.raises(NbdError):
        machine.feed(option(LIST))


def test_client_flags_that_were_not_offered_end_the_connection():
    with pytest.raises(NbdError):
        negotiation().feed(client_flags(4))


def test_an_option_without_its_magic_ends_the_connection():
    with pytest.raises(NbdError):
        haggling().feed(b"IHAVEOPS" + bytes(8))


def test_abort_is_acknowledged_then_closed():
    outcome = haggling().feed(option(ABORT))
    assert isinstance(outcome, Ended)
    assert [r.kind for r in replies(outcome.send)] == [ACK]


@pytest.mark.parametrize("kind", [0, 4, EXTENDED_HEADERS, 12, 0xFFFFFFFF])
def test_an_unknown_option_is_unsupported_and_its_data_is_skipped(kind):
    machine = haggling()
    assert only_error(ask(machine, kind, b"data of it")) == UNSUP
    assert [r.kind for r in ask(machine, STRUCTURED)] == [ACK]


# ---------------------------------------------------------------- metadata contexts


def structured():
    machine = haggling()
    ask(machine, STRUCTURED)
    return machine


def test_contexts_need_structured_replies():
    assert only_error(ask(haggling(), SET_META, query("vm1", ALLOCATION))) == INVALID
    assert only_error(ask(haggling(), LIST_META, query("vm1"))) == INVALID


@pytest.mark.parametrize("queries", [(), ("base:",), (ALLOCATION,), ("x-y:z", ALLOCATION)])
def test_list_meta_context_finds_allocation(queries):
    answers = ask(structured(), LIST_META, query("vm1", *queries))
    assert [(r.kind, r.data[4:]) for r in answers] == [(META, b"base:allocation"), (ACK, b"")]


@pytest.mark.parametrize("queries", [("x-y:z",), ("base:dirty",), ("qemu:",)])
def test_list_meta_context_finds_nothing_else(queries):
    assert [r.kind for r in ask(structured(), LIST_META, query("vm1", *queries))] == [ACK]


@pytest.mark.parametrize("queries", [(), ("base:",), ("qemu:dirty-bitmap:x",)])
def test_set_meta_context_selects_by_full_name_only(queries):
    machine = structured()
    assert [r.kind for r in ask(machine, SET_META, query("vm1", *queries))] == [ACK]
    outcome = machine.feed(option(GO, choice("vm1")))
    assert isinstance(outcome, Chosen)
    assert not outcome.allocation


def test_a_selection_is_of_one_export_and_the_last_one_counts():
    machine = structured()
    ask(machine, SET_META, query("vm1", ALLOCATION))
    ask(machine, SET_META, query("local", ALLOCATION))
    outcome = machine.feed(option(GO, choice("vm1")))
    assert isinstance(outcome, Chosen)
    assert not outcome.allocation


def test_a_selection_that_fails_deselects():
    machine = structured()
    ask(machine, SET_META, query("vm1", ALLOCATION))
    assert only_error(ask(machine, SET_META, query("none", ALLOCATION))) == UNKNOWN
    outcome = machine.feed(option(GO, choice("vm1")))
    assert isinstance(outcome, Chosen)
    assert not outcome.allocation


# ---------------------------------------------------------------- malformed data

MALFORMED = {
    "empty": b"",
    "name longer than the data": struct.pack(">I", 50) + b"vm1" + bytes(2),
    "no count": string("vm1"),
    "fewer requests than counted": string("vm1") + struct.pack(">HH", 2, 1),
    "bytes behind": choice("vm1", 1) + b"x",
    "a request twice": choice("vm1", 3, 3),
    "not UTF-8": string(b"\xff\xfe") + bytes(2),
    "NUL in the name": string(b"vm\x001") + bytes(2),
    "name of 4097 bytes": string(b"a" * 4097) + bytes(2),
    "too many requests": string("vm1") + struct.pack(">H", 300) + bytes(600),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("kind", [INFO, GO])
def test_malformed_go_is_invalid_and_the_haggling_goes_on(kind, data):
    machine = haggling()
    assert only_error(ask(machine, kind, data)) == INVALID
    assert isinstance(machine.feed(option(GO, choice("vm1"))), Chosen)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        string("vm1"),
        string("vm1") + struct.pack(">I", 1),
        string("vm1") + struct.pack(">II", 1, 99) + b"base:",
        query("vm1", ALLOCATION) + b"x",
        string("vm1") + struct.pack(">I", 0xFFFFFFFF),
    ],
)
@pytest.mark.parametrize("kind", [LIST_META, SET_META])
def test_malformed_context_query_is_invalid(kind, data):
    assert only_error(ask(structured(), kind, data)) == INVALID


@pytest.mark.parametrize("kind", [STRUCTURED, STARTTLS])
def test_options_without_data_refuse_some(kind):
    assert only_error(ask(haggling(tls=TlsPolicy.ALLOWED), kind, b"x")) == INVALID


def test_too_much_data_is_thrown_away_as_it_comes_and_answered():
    machine = haggling()
    length = OPTION_BYTES_MAX + 1
    outcome = machine.feed(b"IHAVEOPT" + struct.pack(">II", GO, length))
    for at in range(0, length, 1000):
        assert outcome == Haggling(send=b"")
        outcome = machine.feed(bytes(min(1000, length - at)))
    assert only_error(replies(outcome.send)) == TOO_BIG
    assert isinstance(machine.feed(option(GO, choice("vm1"))), Chosen)


def test_too_much_data_of_export_name_ends_the_connection():
    with pytest.raises(NbdError):
        haggling().feed(b"IHAVEOPT" + struct.pack(">II", EXPORT_NAME, OPTION_BYTES_MAX + 1))


def test_options_are_counted():
    machine = haggling()
    for _ in range(OPTIONS_MAX):
        ask(machine, STRUCTURED)
    with pytest.raises(NbdError):
        machine.feed(option(STRUCTURED))


# ---------------------------------------------------------------- TLS


def test_tls_switched_off_is_policy():
    assert only_error(ask(haggling(), STARTTLS)) == POLICY


@pytest.mark.parametrize("kind", [LIST, INFO, GO, STRUCTURED, LIST_META, SET_META, 99])
def test_required_tls_refuses_everything_else_first(kind):
    machine = haggling(tls=TlsPolicy.REQUIRED)
    assert only_error(ask(machine, kind, choice("vm1"))) == TLS_REQD
    assert isinstance(machine.feed(option(ABORT)), Ended)


def test_required_tls_ends_export_name():
    with pytest.raises(NbdError):
        haggling(tls=TlsPolicy.REQUIRED).feed(option(EXPORT_NAME, b"vm1"))


@pytest.mark.parametrize("tls", [TlsPolicy.ALLOWED, TlsPolicy.REQUIRED])
def test_starttls_forgets_what_was_agreed_on_before(tls):
    machine = haggling(tls=tls)
    if tls is TlsPolicy.ALLOWED:
        ask(machine, STRUCTURED)
        ask(machine, SET_META, query("vm1", ALLOCATION))
    outcome = machine.feed(option(STARTTLS))
    assert isinstance(outcome, TlsWanted)
    assert [r.kind for r in replies(outcome.send)] == [ACK]
    with pytest.raises(LocalProtocolError):
        machine.feed(option(LIST))
    machine.secured()
    assert only_error(ask(machine, STARTTLS)) == INVALID
    chosen = machine.feed(option(GO, choice("vm1")))
    assert isinstance(chosen, Chosen)
    assert not chosen.structured
    assert not chosen.allocation


def test_plain_bytes_behind_starttls_are_not_taken_for_something_said_inside():
    with pytest.raises(NbdError):
        haggling(tls=TlsPolicy.REQUIRED).feed(option(STARTTLS) + option(GO, choice("vm1")))


def test_secured_without_a_handshake_is_our_own_fault():
    with pytest.raises(LocalProtocolError):
        haggling().secured()


# ---------------------------------------------------------------- framing


def test_nothing_is_taken_after_the_end():
    machine = haggling()
    machine.feed(option(GO, choice("vm1")))
    with pytest.raises(LocalProtocolError):
        machine.feed(b"x")


def test_one_byte_at_a_time_is_the_same_as_all_at_once():
    talk = (
        client_flags()
        + option(LIST)
        + option(STRUCTURED)
        + option(SET_META, query("vm1", ALLOCATION))
        + option(99, b"unknown")
        + option(GO, choice("away", 1))
        + option(INFO, MALFORMED["bytes behind"])
        + option(GO, choice("vm1", 3, 2, 1))
    )
    whole = negotiation().feed(talk)
    machine = negotiation()
    sent = b""
    for at in range(len(talk)):
        outcome = machine.feed(talk[at : at + 1])
        sent += outcome.send
        assert isinstance(outcome, Chosen) == (at == len(talk) - 1)
    assert sent == whole.send
    assert (outcome.structured, outcome.allocation, outcome.residual) == (True, True, b"")


@settings(max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(option, st.integers(0, 12), st.binary(max_size=80)),
            st.builds(
                lambda kind, name, extra: option(kind, choice(name, *extra)),
                st.sampled_from([INFO, GO]),
                st.sampled_from(["vm1", "away", "", "x"]),
                st.lists(st.integers(0, 5), max_size=4),
            ),
        ),
        max_size=12,
    ),
    st.sampled_from(list(TlsPolicy)),
)
def test_whatever_comes_is_answered_or_refused(pieces, tls):
    machine = negotiation(tls=tls)
    machine.feed(client_flags())
    for piece in pieces:
        try:
            outcome = machine.feed(piece)
        except NbdError:
            return
        if isinstance(outcome, TlsWanted):
            machine.secured()
        elif not isinstance(outcome, Haggling):
            return
        assert len(machine._buffer) <= OPTION_BYTES_MAX + 16 + 80
