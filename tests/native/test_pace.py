"""The pacer of copies: what it lets pass beside clients, and that it forgets clients that are gone."""

from __future__ import annotations

from sparrow._native.replication.testbed import PaceBed

MS = 1_000_000
SECOND = 1000 * MS
MIB = 1 << 20
#: What one granule of 64 pages and its head moves.
GRANULE = 65 * 4096
RATE_MIN = 2 * MIB


class Rig:
    """Clients that write every millisecond, and a copy that takes what it is given."""

    def __init__(self, **options: int) -> None:
        self.bed = PaceBed(**options)
        self.now = SECOND

    def clients(self, seconds: float, took: int) -> None:
        """Only clients; each write takes so long."""
        until = self.now + round(seconds * SECOND)
        while self.now < until:
            self.now += MS
            self.bed.note(self.now, took)

    def both(self, seconds: float, took: int) -> int:
        """Clients beside a copy; bytes copied."""
        until = self.now + round(seconds * SECOND)
        copied = 0
        while self.now < until:
            self.now += MS
            self.bed.note(self.now, took)
            copied += self._granules()
        return copied

    def alone(self, seconds: float) -> int:
        """Only the copy, a granule a millisecond at most."""
        until = self.now + round(seconds * SECOND)
        copied = 0
        while self.now < until:
            self.now += MS
            copied += self._granules()
        return copied

    def _granules(self) -> int:
        if self.bed.next(self.now) != 0:
            return 0
        self.bed.spend(self.now, GRANULE)
        return GRANULE

    def begin(self) -> None:
        self.bed.lane(self.now, 1)


def test_a_copy_yields_to_clients_who_wait_longer_than_usual() -> None:
    rig = Rig()
    rig.clients(3, MS)
    rig.begin()
    first = rig.bed.rate
    rig.both(0.5, 5 * MS)
    assert 0 < rig.bed.rate < first
    rig.both(1.5, 5 * MS)
    assert rig.bed.rate == RATE_MIN
    # At the lowest rate no more than that passes.
    assert rig.both(1, 5 * MS) <= RATE_MIN + 2 * GRANULE


def test_a_copy_takes_more_again_as_soon_as_clients_wait_no_longer() -> None:
    rig = Rig()
    rig.clients(3, MS)
    rig.begin()
    rig.both(3, 5 * MS)
    slowest = rig.bed.rate
    rig.both(10, MS)
    assert rig.bed.rate > 8 * slowest


def test_a_little_longer_than_usual_is_no_reason_to_yield() -> None:
    rig = Rig(stretch_percent=125)
    rig.clients(3, 4 * MS)
    rig.begin()
    first = rig.bed.rate
    rig.both(3, 4 * MS + MS // 2)
    assert rig.bed.rate > first


def test_a_copy_is_not_starved_for_ever_by_a_load_that_has_grown() -> None:
    rig = Rig()
    rig.clients(3, MS)
    rig.begin()
    rig.both(60, 5 * MS)
    assert rig.bed.usual >= 4 * MS
    assert rig.bed.rate > 8 * RATE_MIN


def test_a_copy_that_begins_when_clients_have_just_gone_is_not_held_back() -> None:
    """Their last window had writes enough to count as load; nobody has written for a second since."""
    rig = Rig()
    rig.clients(2.6, MS)
    rig.now += SECOND
    rig.begin()
    assert rig.bed.rate == 0
    assert rig.alone(1) == 1000 * GRANULE


def test_a_copy_is_let_go_within_two_seconds_of_the_last_client() -> None:
    rig = Rig()
    rig.clients(3, MS)
    rig.begin()
    rig.both(3, 5 * MS)
    assert rig.bed.rate > 0
    rig.alone(2)
    assert rig.bed.rate == 0


def test_the_cap_holds_with_and_without_clients() -> None:
    rig = Rig(cap=8 * MIB)
    rig.begin()
    assert 7 * MIB <= rig.alone(1) <= 8 * MIB + 2 * GRANULE
    assert rig.both(1, MS) <= 8 * MIB + 2 * GRANULE
