"""Text of negotiations: pairs, numbers, text cut over several PDUs, and the bounds of all of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparrow.base.errors import RemoteProtocolError
from sparrow.frontends.iscsi.errors import MalformedText
from sparrow.frontends.iscsi.keys import (
    PAIRS_MAX,
    TextAssembler,
    TextSplitter,
    decode_pairs,
    encode_pairs,
    parse_bool,
    parse_number,
)


def test_pairs_keep_their_order_and_their_empty_values():
    assert decode_pairs(b"B=1\0A=\0C=x=y\0") == (("B", "1"), ("A", ""), ("C", "x=y"))


def test_empty_strings_between_pairs_are_skipped():
    assert decode_pairs(b"A=1\0\0\0B=2\0\0") == (("A", "1"), ("B", "2"))


def test_no_text_is_no_pairs():
    assert decode_pairs(b"") == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"A=1", "NUL"),
        (b"A\0", "'='"),
        (b"=1\0", "no key"),
        (b"1A=1\0", "no key"),
        (b"A B=1\0", "no key"),
        (b"K" * 64 + b"=1\0", "no key"),
        (b"A=1\0A=2\0", "twice"),
        (b"A=\xff\0", "UTF-8"),
        (b"".join(b"K%d=\0" % n for n in range(PAIRS_MAX + 1)), "more than"),
    ],
)
def test_text_that_breaks_the_rules_is_refused(text, complaint):
    with pytest.raises(MalformedText, match=complaint):
        decode_pairs(text)


def test_the_longest_key_and_the_most_pairs_are_taken():
    assert decode_pairs(b"K" * 63 + b"=1\0")
    assert len(decode_pairs(b"".join(b"K%d=\0" % n for n in range(PAIRS_MAX)))) == PAIRS_MAX


@given(st.binary(max_size=300))
def test_any_text_decodes_or_is_the_peers_fault(text):
    try:
        pairs = decode_pairs(text)
    except RemoteProtocolError:
        return
    assert decode_pairs(encode_pairs(pairs)) == pairs


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("0", 0),
        ("8192", 8192),
        ("0x2000", 8192),
        ("0X2a", 42),
        ("18446744073709551615", (1 << 64) - 1),
        ("18446744073709551616", None),
        ("-1", None),
        ("", None),
        ("1 ", None),
        ("0x", None),
        ("1e3", None),
        ("\u0661", None),
    ],
)
def test_numbers_are_decimal_or_hexadecimal(value, number):
    assert parse_number(value) == number


def test_truth_is_spelt_one_way():
    assert [parse_bool(value) for value in ("Yes", "No", "yes", "1")] == [True, False, None, None]


def test_text_cut_anywhere_is_joined():
    assembler = TextAssembler()
    whole = b"InitiatorName=iqn.x\0TargetName=iqn.y\0"
    for at in range(len(whole) - 1):
        assert assembler.add(whole[at : at + 1], continued=True) is None
        assert assembler.partial
    assert assembler.add(whole[-1:], continued=False) == whole
    assert not assembler.partial


def test_joined_text_is_bounded():
    assembler = TextAssembler(text_bytes_max=10)
    assembler.add(bytes(6), continued=True)
    with pytest.raises(MalformedText, match="more than 10"):
        assembler.add(bytes(5), continued=True)


def test_an_answer_is_cut_into_segments_that_join_to_it():
    splitter = TextSplitter()
    splitter.load(b"abcdefghij")
    pieces = []
    while splitter.pending:
        pieces.append(splitter.next_segment(4))
    assert pieces == [b"abcd", b"efgh", b"ij"]
    assert splitter.next_segment(4) == b""
