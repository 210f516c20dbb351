"""What a checkpoint and a mark of a copy claim, against what is on the platter, on the compiled core."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from sparrow.base.constants import PAGE_BYTES
from sparrow.base.ids import NodeId
from sparrow.dataplane.files.superblock import choose_superblock
from sparrow.formats.layout import Record
from sparrow.formats.sums import SUMS_BLOCK
from sparrow.formats.superblock import STATE_REBUILDING, SUPERBLOCK, SUPERBLOCK_BYTES
from sparrow.sim.compiled.client import RUN_MAX
from sparrow.sim.compiled.fencing import RECORDS
from sparrow.sim.world import World
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import V

#: Pages of the piece that is given back as a whole; a volume of two of them.
PIECE: Final = 256
#: Ends of what may be overwritten, one after the other.
FLOORS: Final = 6
WRITES_AT_ONCE: Final = 4
#: Written behind the zero entry: more than a fifth of the ring, so that a checkpoint would let the entry go.
BEHIND: Final = 3 * 90


def superblock(s: CompiledStage, name: NodeId) -> Record:
    """The newer copy on the disk."""
    both = s.cluster.room.pread(s.files(name).superblock_fd, 0, 2 * SUPERBLOCK_BYTES)
    best, _ = choose_superblock([both[:SUPERBLOCK_BYTES], both[SUPERBLOCK_BYTES:]], Path())
    return SUPERBLOCK.unpack(best)


def platter(s: CompiledStage, name: NodeId, first: int, count: int) -> bytes:
    """These pages of the extents, as a loss of power would leave them."""
    fd = s.files(name).extents_fd
    return s.cluster.room.pread(fd, first * PAGE_BYTES, count * PAGE_BYTES, platter=True)


def free_floor(s: CompiledStage, name: NodeId) -> int:
    """The offset in its log up to which new batches may overwrite old ones."""
    plane = s.plane(name)
    return plane.direct.free_floor(plane._volumes[V].index)


def test_what_is_applied_is_in_the_extents_when_the_power_goes() -> None:
    """All is written and applied on both, then both lose power at once.

    Rule: the extents of a round are durable before the superblock says that it is applied.
    """
    with compiled_stage(2, 1) as s:
        s.client.quiet = True
        values = {page: s.written(s.a, page) for page in sorted(s.client.pages)}
        head = s.look(s.a).head
        s.until(lambda: min(s.look(s.a).applied, s.look(s.b).applied) >= head)
        s.lose_power(s.a, s.b)
        s.world.start_node(s.a)
        s.world.start_node(s.b)
        s.until(lambda: s.serves(s.a) or s.serves(s.b), seconds=30)
        serving = s.a if s.serves(s.a) else s.b
        assert {page: s.last_read(serving, page) for page in values} == values
        s.ends_well()


def test_no_place_of_the_log_is_free_before_the_superblock_says_so() -> None:
    """The log runs full on a slow disk, and is looked at each millisecond.

    Rule: what a superblock on the disk takes for the log's tail is not overwritten; both copies must be past it, for a
    recovery may have to take the older one.
    """
    with compiled_stage(1, 1) as s:
        s.slow_disk(s.a, 0.05)
        said: tuple[set[int], set[int]] = (set(), set())
        floors: set[int] = set()
        while len(floors) < FLOORS:
            for _ in range(WRITES_AT_ONCE):
                s.client.write(s.plane(s.a), 0, RUN_MAX)
            s.run(0.001)
            for copy, tails in enumerate(said):
                tails.add(s.superblock(s.a, copy, platter=True).number("tail_offset"))
            floors.add(free_floor(s, s.a))
            assert floors <= said[0] & said[1]
        s.ends_well()


def test_zero_entries_stay_in_the_log_until_their_place_was_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A piece is unmapped, and so much is written behind it at once that the round that applies it would let it go.

    Rule: the tail stays before a zero entry until its place was given back, durably; a crash before that finds the
    entry and takes it for a hint again.
    """
    monkeypatch.setattr(World, "size_bytes", 2 * PIECE * PAGE_BYTES)
    with compiled_stage(1, 1) as s:
        unmapped_and_written_behind(s)


def unmapped_and_written_behind(s: CompiledStage) -> None:
    s.client.quiet = True
    s.run(3)
    plane, data = s.plane(s.a), bytes([7]) * PAGE_BYTES

    def all_applied() -> bool:
        inside = s.look(s.a)
        return inside.applied == inside.commit == inside.head

    def ask(kind: str, first: int, count: int) -> int:
        """The LSN, when it is answered."""
        payload = data * count if kind == "write" else b""
        answers = [plane.submit(V, kind, first, count, payload, nexus=one) for one in RECORDS]
        s.until(lambda: all(one is not None and one.done() for one in answers))
        return max(one.result().a for one in answers if one is not None)

    ask("write", PIECE, 8)
    s.until(all_applied)
    assert any(platter(s, s.a, PIECE, 8))
    unmapped = plane.submit(V, "zero", PIECE, PIECE, nexus=RECORDS[0])
    written = [
        plane.submit(V, "write", first, 90, data * 90, nexus=RECORDS[0])
        for first in range(0, BEHIND // 2, 45)
    ]
    answers = [unmapped, *written]
    s.until(lambda: all(one is not None and one.done() for one in answers))
    assert [one.result().rc for one in answers if one is not None] == [0] * len(answers)
    assert unmapped is not None
    zero_lsn = unmapped.result().a
    assert s.look(s.a).applied < zero_lsn

    def kept_long_enough() -> bool:
        gone = superblock(s, s.a).number("tail_lsn") >= zero_lsn
        assert not gone or not any(platter(s, s.a, PIECE, 8))
        return True

    def given_back() -> bool:
        fd = s.files(s.a).extents_fd
        there = s.cluster.room.pread(fd, PIECE * PAGE_BYTES, 8 * PAGE_BYTES)
        return superblock(s, s.a).number("applied_lsn") >= zero_lsn and not any(there)

    s.slow_disk(s.a, 0.2)
    s.until(lambda: kept_long_enough() and given_back(), seconds=120)
    # The next round makes that durable, and then nothing keeps the entry.
    again = plane.submit(V, "write", 0, 90, data * 90, nexus=RECORDS[0])
    assert again is not None
    s.until(
        lambda: kept_long_enough() and superblock(s, s.a).number("tail_lsn") >= zero_lsn,
        seconds=120,
    )


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_mark_of_a_copy_claims_what_is_on_the_platter(seed: int) -> None:
    """b is copied to on a slow disk, and loses power again and again while frames and marks of it are under way.

    Rule: a mark becomes durable when the pages and checksums of every frame that came before it are.
    """
    with compiled_stage(2, 1, seed) as s:
        s.client.quiet = True
        s.fill_volume(s.a)
        s.fill_log(s.a)
        for page in sorted(s.client.pages):
            # By both hosts: one of them may be kept out by a reservation.
            for _ in range(2):
                s.until(s.write(s.a, page)[1].done)
        s.until(lambda: s.look(s.a).applied == s.look(s.a).head)
        copies: list[NodeId] = []
        s.cluster.on_copy = copies.append
        s.world.wipe_node(s.b)
        s.until(lambda: s.in_sync == {s.a})
        s.slow_disk(s.b, 0.1)
        room, claimed = s.cluster.room, 0
        for turn in range(1, 13):
            s.world.start_node(s.b)
            s.until(lambda turn=turn: len(copies) >= turn, seconds=60)
            s.run(0.06 * turn)
            s.lose_power(s.b)
            inside = superblock(s, s.b)
            if inside.number("state") != STATE_REBUILDING:
                break
            cursor = inside.number("base_cursor")
            claimed = max(claimed, cursor)
            right = room.pread(s.files(s.a).extents_fd, 0, cursor * PAGE_BYTES)
            assert room.pread(s.files(s.b).extents_fd, 0, cursor * PAGE_BYTES) == right
            sums = [
                SUMS_BLOCK.unpack(room.pread(s.files(name).sums_fd, 0, SUMS_BLOCK.size))
                for name in (s.a, s.b)
            ]
            # Two bits a page, and marks lie between whole granules.
            assert len({one.blob("states")[: cursor // 4] for one in sums}) == 1
            assert len({one.numbers("sums")[:cursor] for one in sums}) == 1
        assert claimed > 0
        s.works_again(s.b)
        s.ends_well()
