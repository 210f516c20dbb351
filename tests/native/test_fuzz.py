"""A short, fixed run of every fuzz target, so that the sanitizers see it too, and the harness itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.fuzz import play as player
from tests.fuzz.mutate import INPUT_BYTES_MAX, chunks_of, corpus, input_of, parse
from tests.fuzz.play import play
from tests.fuzz.targets import TARGETS
from tests.support.needs import needs_io_uring

pytestmark = [needs_io_uring(), pytest.mark.timeout(300)]

INPUTS = 250


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_fixed_run_finds_nothing(target: str) -> None:
    outcome = play(target, 1, count=INPUTS)
    assert outcome.failure == "", f"input {outcome.failed_at}"
    assert outcome.inputs == INPUTS


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_an_input_is_the_same_whenever_it_is_made(target: str) -> None:
    seeds = corpus(target)
    assert seeds
    assert [input_of(target, seeds, 3, i) for i in range(len(seeds))] == list(seeds)
    made = [input_of(target, seeds, 3, i) for i in range(300)]
    assert made == [input_of(target, seeds, 3, i) for i in range(300)]
    assert len(set(made)) > 250
    assert max(map(len, made)) <= INPUT_BYTES_MAX
    for number, data in enumerate(made):
        assert b"".join(chunks_of(target, data, 3, number)) == data


def test_a_corpus_file_is_digits_and_words() -> None:
    assert parse("# a request\n2560 9513 # its magic\n\n00ff\n") == b"\x25\x60\x95\x13\x00\xff"


def test_a_failure_is_found_named_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Faulty:
        """Fails at any input with this byte at this place, and only after it has seen another one."""

        def __init__(self) -> None:
            self.ready = False

        def run(self, chunks: Sequence[bytes]) -> None:
            data = b"".join(chunks)
            if self.ready and data[20:21] == b"\xff":
                raise ValueError("planted")
            self.ready = True

        def close(self) -> None:
            pass

    monkeypatch.setitem(player.TARGETS, "nbd_negotiation", (Faulty, 500))
    found = play("nbd_negotiation", 9, count=20000)
    assert "planted" in found.failure
    again = play("nbd_negotiation", 9, first=found.failed_at, count=1)
    assert (again.failed_at, "planted" in again.failure) == (found.failed_at, True)
