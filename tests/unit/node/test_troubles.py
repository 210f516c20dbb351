"""What a node complains of stands while it goes on, and is bounded."""

from __future__ import annotations

from sparrow.node.troubles import KEEP_S, TROUBLES_MAX, Troubles


def test_a_trouble_stands_while_it_is_repeated() -> None:
    now = 0.0
    troubles = Troubles(lambda: now)
    troubles.note("n2", "n2 has another key.")
    now = KEEP_S - 1
    troubles.note("n2", "n2 has another key still.")
    assert troubles.current() == ("n2 has another key still.",)
    now = 2 * KEEP_S - 2
    assert troubles.current() == ("n2 has another key still.",)
    now = 2 * KEEP_S
    assert troubles.current() == ()


def test_strangers_cannot_fill_the_heartbeat() -> None:
    troubles = Troubles(lambda: 0.0)
    for n in range(1000):
        troubles.note(f"x{n}", f"{n}")
    assert len(troubles.current()) == TROUBLES_MAX
