"""Histories of one page: which of them a register can have."""

from __future__ import annotations

from sparrow.sim.compiled.history import PageHistory


def history(*operations: tuple[str, int, float, float]) -> PageHistory:
    """``("w", value, start, end)`` writes, an end of 0 was never answered; ``("r", value, start, end)`` reads."""
    page = PageHistory()
    for kind, value, start, _end in operations:
        if kind == "w":
            page.write_began(value, start)
    for kind, value, start, end in operations:
        if kind == "r":
            page.read(value, start, end)
        elif end:
            page.write_answered(value, end)
    return page


def test_one_after_the_other_is_fine() -> None:
    assert (
        history(
            ("r", 0, 0, 1), ("w", 1, 2, 3), ("r", 1, 4, 5), ("w", 2, 6, 7), ("r", 2, 8, 9)
        ).fault()
        == ""
    )


def test_a_read_beside_a_write_may_see_either() -> None:
    assert history(("w", 1, 1, 9), ("r", 0, 2, 3), ("r", 1, 4, 5)).fault() == ""
    assert history(("w", 1, 1, 9), ("r", 1, 2, 3), ("r", 1, 10, 11)).fault() == ""


def test_what_was_seen_does_not_vanish() -> None:
    assert history(("w", 1, 1, 0), ("r", 1, 2, 3), ("r", 0, 4, 5)).fault()
    assert history(("w", 1, 1, 9), ("r", 1, 2, 3), ("r", 0, 4, 5)).fault()


def test_an_answered_write_is_not_lost() -> None:
    assert history(("w", 1, 1, 2), ("r", 0, 3, 4)).fault()
    assert history(("w", 1, 1, 2), ("w", 2, 3, 4), ("r", 1, 5, 6)).fault()


def test_an_overwritten_value_does_not_come_back() -> None:
    assert history(("w", 1, 1, 2), ("w", 2, 3, 0), ("r", 2, 4, 5), ("r", 1, 6, 7)).fault()
    assert history(
        ("w", 1, 1, 2), ("w", 2, 1, 2), ("r", 1, 3, 4), ("r", 2, 5, 6), ("r", 1, 7, 8)
    ).fault()


def test_a_write_that_was_never_answered_may_come_late_or_never() -> None:
    assert history(("w", 1, 1, 0), ("w", 2, 2, 3), ("r", 2, 4, 5), ("r", 1, 6, 7)).fault() == ""
    assert history(("w", 1, 1, 0), ("w", 2, 2, 3), ("r", 2, 4, 5), ("r", 2, 6, 7)).fault() == ""


def test_a_ghost_write_between_two_reads_of_one_value_is_found() -> None:
    # 2 was written and answered while 1 was there before and after.
    assert history(("w", 1, 1, 2), ("r", 1, 3, 4), ("w", 2, 5, 6), ("r", 1, 7, 8)).fault()


def test_nobody_reads_what_nobody_wrote_or_has_not_yet_written() -> None:
    assert history(("r", 5, 1, 2)).fault()
    assert history(("w", 1, 5, 6), ("r", 1, 1, 2)).fault()
