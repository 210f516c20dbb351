"""Blocks of checksums that a loss of power tears on the only copy: made whole from the log, or found (S23)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

import pytest

from sparrow._native.crc import crc32c
from sparrow.authority.types import ReplicaState
from sparrow.base.constants import PAGE_BYTES
from sparrow.dataplane.events import Mail
from sparrow.dataplane.files.superblock import volume_key
from sparrow.dataplane.virtual import SIZES
from sparrow.formats.layout import Record
from sparrow.formats.sums import PAGES_PER_BLOCK, SUMS_BLOCK, SUMS_LIST, SUMS_LIST_PLACES
from sparrow.formats.superblock import STATE_QUARANTINED, SUMS_LISTS_OFFSET
from sparrow.rpc.messages import ResizeVolumeRequest
from sparrow.sim.compiled.fencing import RECORDS
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import V

SECTOR = 512
SECTORS = SUMS_BLOCK.size // SECTOR
#: Pages that no client uses. Their sums lie in three sectors; their states, and the check, in the first.
PAGES = (40, 100, 240)
ZEROED = range(41, 43)
#: Never written: zeros over it leave it a hole.
HOLE = 43
#: Short enough that nothing is missed between two looks at a disk.
LOOK_S = 0.00001
MIB = 1 << 20
#: Blocks of one list of these cores.
LIST_ROWS = SIZES.frames // 8


@pytest.fixture
def lone() -> Iterator[CompiledStage]:
    """One replica, whose client has stopped, and with everything applied."""
    with compiled_stage(1, 1, nodes=1) as s:
        s.client.quiet = True
        s.run(3)
        yield s


def content(page: int, number: int) -> bytes:
    return struct.pack("<2Q", page, number) * (PAGE_BYTES // 16)


def ask(s: CompiledStage, kind: str, first: int, count: int = 1, data: bytes = b"") -> Mail:
    answer = s.plane(s.a).submit(V, kind, first, count, data, nexus=RECORDS[0])
    assert answer is not None
    s.until(answer.done)
    mail: Mail = answer.result()
    return mail


def put(s: CompiledStage, pages: Iterable[int], number: int) -> None:
    for page in pages:
        assert ask(s, "write", page, data=content(page, number)).rc == 0


def assert_holds(s: CompiledStage, pages: Iterable[int], number: int) -> None:
    for page in pages:
        mail = ask(s, "read", page)
        assert mail.rc == 0, f"page {page}"
        assert mail.payload == content(page, number), f"page {page}"


def start_again(s: CompiledStage) -> None:
    s.world.start_node(s.a)
    s.until(lambda: s.serves(s.a), seconds=30)


def applied_again(s: CompiledStage) -> None:
    """A checkpoint has met every block: before that, reads of what was written last are answered from the log."""
    s.run(4)
    inside = s.look(s.a)
    assert inside.applied == inside.head


def place(s: CompiledStage, number: int) -> Record | None:
    """The list in this place, when it is whole."""
    at = SUMS_LISTS_OFFSET + number * SUMS_LIST.size
    raw = s.cluster.room.pread(s.files(s.a).superblock_fd, at, SUMS_LIST.size)
    seed = crc32c(struct.pack("<2Q", volume_key(V), number))
    if crc32c(raw[4:], seed) != struct.unpack_from("<I", raw)[0]:
        return None
    return SUMS_LIST.unpack(raw)


def until_listed(s: CompiledStage, block: int, *, number: int = 0) -> Record:
    """The moment at which a checkpoint that is under way has listed this block in that place."""

    def listed() -> bool:
        found = place(s, number)
        return (
            found is not None
            and found.number("applied_lsn") == s.look(s.a).applied
            and block in found.numbers("blocks")[: found.number("count")]
        )

    ios = s.cluster.room.counters()[0]
    s.until(lambda: s.cluster.room.counters()[0] != ios, look_s=0.0002)
    s.until(listed, seconds=1, look_s=LOOK_S)
    found = place(s, number)
    assert found is not None
    return found


# ---------------------------------------------------------------- one block


def set_aside(s: CompiledStage) -> None:
    """What a node does with a replica whose volume went on without it."""
    process = s.node(s.a).process
    done = process.spawn(s.plane(s.a).set_state(V, ReplicaState.QUARANTINED), "set_state")
    s.until(done.done, look_s=LOOK_S)


def interrupted(s: CompiledStage, number: int, *, aside: bool = False) -> tuple[bytes, bytes]:
    """Power goes when a checkpoint has listed the first block: what it was, and what it was to become.

    The replica may be set aside before the checkpoint begins.
    """
    room, files = s.cluster.room, s.files(s.a)
    put(s, [*PAGES, *ZEROED], number - 1)
    s.run(3)
    old = room.pread(files.sums_fd, 0, SUMS_BLOCK.size)
    put(s, PAGES, number)
    assert ask(s, "zero", ZEROED[0], HOLE + 1 - ZEROED[0]).rc == 0
    if aside:
        set_aside(s)
    row = until_listed(s, 0)
    s.lose_power(s.a)
    new = bytearray(old)
    for page in PAGES:
        data = room.pread(files.extents_fd, page * PAGE_BYTES, PAGE_BYTES)
        assert data == content(page, number)
        at = SUMS_BLOCK.offset_of("sums") + 4 * page
        new[at : at + 4] = struct.pack("<I", crc32c(data))
    for page in ZEROED:
        at, shift = SUMS_BLOCK.offset_of("states") + page // 4, 2 * (page % 4)
        new[at] = new[at] & ~(3 << shift) | 1 << shift
    new[:4] = struct.pack("<I", row.numbers("checks")[0])
    assert (
        crc32c(bytes(new[4:]), crc32c(struct.pack("<2Q", volume_key(V), 0)))
        == row.numbers("checks")[0]
    )
    return old, bytes(new)


def mixed(old: bytes, new: bytes, sectors: int) -> bytes:
    """The sectors of this mask are new."""
    return b"".join(
        (new if sectors >> i & 1 else old)[i * SECTOR : (i + 1) * SECTOR] for i in range(SECTORS)
    )


def test_s23_every_mixture_of_old_and_new_sectors_becomes_whole(lone: CompiledStage) -> None:
    """The only copy loses power again and again, and each time its block is another mixture.

    Rule: what a block will be is durable before it is written, and the log has what a torn one lacks.
    """
    s = lone
    torn = 0
    for sectors in range(8):
        old, new = interrupted(s, number=2 * sectors + 2)
        found = mixed(old, new, sectors)
        s.cluster.room.pwrite(s.files(s.a).sums_fd, 0, found)
        torn += found not in {old, new}
        start_again(s)
        assert_holds(s, PAGES, 2 * sectors + 2)
        for page in (*ZEROED, HOLE):
            assert ask(s, "read", page).payload == bytes(PAGE_BYTES)
        assert s.heard("sums.completed", blocks=1) == torn
    assert torn == 6
    assert s.heard("sums.damaged") == 0
    s.ends_well()


def test_s23_rot_in_a_block_that_was_being_written_is_not_taken_for_a_tear(
    lone: CompiledStage,
) -> None:
    """One bit of a sum that the checkpoint does not change is wrong besides.

    Rule: a block that was put together is believed when it has the check that its list says.
    """
    s = lone
    old, new = interrupted(s, number=2)
    found = bytearray(mixed(old, new, 0b010))
    found[SUMS_BLOCK.offset_of("sums") + 4 * 200] ^= 1
    s.cluster.room.pwrite(s.files(s.a).sums_fd, 0, bytes(found))
    start_again(s)
    assert s.heard("sums.completed") == 0
    assert ask(s, "read", 240).rc != 0 or ask(s, "read", 1).rc != 0
    assert s.heard("sums.damaged") > 0


def test_s23_power_that_goes_while_a_block_is_made_whole_costs_nothing(
    lone: CompiledStage,
) -> None:
    """It goes as soon as the block is written, which is not flushed yet, and leaves another mixture each time."""
    s = lone
    old, new = interrupted(s, number=2)
    for times, sectors in enumerate((0b001, 0b010, 0b101), 1):
        s.cluster.room.pwrite(s.files(s.a).sums_fd, 0, mixed(old, new, sectors))
        s.world.start_node(s.a)
        s.until(lambda times=times: s.heard("sums.completed") == times, look_s=0.001)
        s.lose_power(s.a)
    start_again(s)
    assert_holds(s, PAGES, 2)
    assert s.heard("sums.damaged") == 0


def test_s23_a_replica_that_was_set_aside_has_its_torn_blocks_made_whole(
    lone: CompiledStage,
) -> None:
    """What was committed when it was set aside is applied, and power goes in the middle of that.

    Rule: an operator may make it the last copy, so it lists its blocks and is looked through as any other.
    """
    s = lone
    old, new = interrupted(s, number=2, aside=True)
    files = s.files(s.a)
    s.cluster.room.pwrite(files.sums_fd, 0, mixed(old, new, 0b010))
    s.world.start_node(s.a)
    s.until(lambda: s.heard("sums.completed", blocks=1) == 1)
    assert s.cluster.room.pread(files.sums_fd, 0, SUMS_BLOCK.size) == new
    assert {s.superblock(s.a, copy).number("state") for copy in (0, 1)} == {int(STATE_QUARANTINED)}


def test_s23_a_torn_block_that_cannot_be_written_back_keeps_no_replica_from_opening(
    lone: CompiledStage,
) -> None:
    """The write that would make it whole fails.

    Rule: the block stays as it is, the replica opens, and the next opening makes the block whole.
    """
    s = lone
    room, fd = s.cluster.room, s.files(s.a).sums_fd
    old, new = interrupted(s, number=2)
    torn = mixed(old, new, 0b010)
    room.pwrite(fd, 0, torn)
    began = room.counters()[0]
    s.world.start_node(s.a)
    s.until(lambda: s.heard("sums.completed") == 1, look_s=LOOK_S)
    # It was one of the last operations before that.
    for number in range(room.counters()[0] - began, 0, -1):
        s.lose_power(s.a)
        room.pwrite(fd, 0, torn)
        room.strike(number, "enospc")
        s.world.start_node(s.a)
        s.until(lambda: room.struck == s.host(s.a), look_s=0.001)
        s.run(0.05)
        if room.pread(fd, 0, SUMS_BLOCK.size) == torn:
            break
    assert s.look(s.a).head > s.look(s.a).applied
    s.lose_power(s.a)
    before = s.heard("sums.completed")
    start_again(s)
    assert s.heard("sums.completed") == before + 1
    applied_again(s)
    assert_holds(s, PAGES, 2)
    assert s.heard("sums.damaged") == 0
    s.ends_well()


def test_s23_zeros_whose_block_found_no_room_are_written_when_there_is_some() -> None:
    """Each operation of a checkpoint that only zeros pages finds the disk full once; one of them writes the block.

    Rule: what is in memory alone is written, whether or not a checkpoint changes it.
    """
    given_up = 0
    for number in range(1, 5):
        with compiled_stage(1, 1, nodes=1) as s:
            s.client.quiet = True
            s.run(3)
            put(s, ZEROED, 1)
            s.run(3)
            before = s.look(s.a).applied
            assert ask(s, "zero", ZEROED[0], len(ZEROED)).rc == 0
            s.cluster.room.strike(number, "enospc")
            s.run(6)
            assert s.cluster.room.struck == s.host(s.a)
            given_up += s.heard("pool.full") > 0
            inside = s.look(s.a)
            assert before < inside.applied == inside.head
            s.lose_power(s.a)
            start_again(s)
            for page in ZEROED:
                assert ask(s, "read", page).payload == bytes(PAGE_BYTES)
    assert given_up == 1


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_s23_zeros_that_a_failed_flush_lost_are_written_by_the_next_process(seed: int) -> None:
    """The flush of the block fails: the page cache has it, the disk may not. The replica's process starts again.

    Rule: a block that a process before may have changed is written by the next, though it looks as it should.
    """
    with compiled_stage(1, 1, seed, nodes=1) as s:
        s.client.quiet = True
        s.run(3)
        put(s, ZEROED, 1)
        s.run(3)
        room, fd = s.cluster.room, s.files(s.a).sums_fd
        before = s.look(s.a).applied
        assert ask(s, "zero", ZEROED[0], len(ZEROED)).rc == 0
        until_listed(s, 0)
        room.fail_flush(fd, 1)
        s.until(lambda: room.flush_failed(fd), seconds=1)
        s.run(1)
        s.world.kill_node(s.a)
        start_again(s)
        applied_again(s)
        assert s.look(s.a).applied > before
        s.lose_power(s.a)
        start_again(s)
        for page in ZEROED:
            assert ask(s, "read", page).payload == bytes(PAGE_BYTES)


def test_s23_a_list_that_finds_no_room_holds_up_no_checkpoint() -> None:
    """Each operation of a checkpoint up to the superblock finds the disk full once; one of them is the list.

    Rule: a replica whose file has no place for lists, in a pool that is full, writes its blocks without.
    """
    unlisted = 0
    for number in range(1, 8):
        with compiled_stage(1, 1, nodes=1) as s:
            s.client.quiet = True
            s.run(3)
            before = s.look(s.a).applied
            put(s, PAGES, 1)
            s.cluster.room.strike(number, "enospc")
            s.run(6)
            assert s.cluster.room.struck == s.host(s.a)
            inside = s.look(s.a)
            assert before < inside.applied == inside.head
            listed = place(s, 0)
            assert listed is not None
            if listed.number("target_lsn") < inside.applied:
                unlisted += 1
                assert s.heard("pool.full") == 0
            s.lose_power(s.a, strike="tear")
            start_again(s)
            assert_holds(s, PAGES, 1)
    assert unlisted == 1


# ---------------------------------------------------------------- many blocks


def grown(s: CompiledStage, blocks: int) -> None:
    size = -(-blocks * PAGES_PER_BLOCK * PAGE_BYTES // MIB) * MIB
    request = ResizeVolumeRequest(name=V, size_bytes=size)
    s.call(lambda master, call: master.volumes.resize(request, call))

    def is_grown() -> bool:
        status = s.world.status(V)
        return status is not None and status.size_bytes == size

    s.until(is_grown, seconds=30)
    s.run(3)


def first_pages(blocks: Iterable[int]) -> list[int]:
    """One page of each, whose sum is in another sector than its state; none that a client uses."""
    return [block * PAGES_PER_BLOCK + 100 for block in blocks]


def written_at_once(s: CompiledStage, pages: Sequence[int], number: int) -> None:
    answers = [
        s.plane(s.a).submit(V, "write", page, 1, content(page, number), nexus=RECORDS[0])
        for page in pages
    ]
    s.until(lambda: all(one is not None and one.done() for one in answers))
    assert [one.result().rc for one in answers if one is not None] == [0] * len(pages)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_s23_more_blocks_than_all_places_can_name_are_whole_after_a_tear(seed: int) -> None:
    """A checkpoint writes one list more than there are places; power goes when the first place has the last list.

    Rule: a place is written again when all that was written under its list is flushed.
    """
    blocks = range(int(SUMS_LIST_PLACES) * LIST_ROWS + 1)
    with compiled_stage(1, 1, seed, nodes=1) as s:
        s.client.quiet = True
        grown(s, len(blocks))
        pages = first_pages(blocks)
        written_at_once(s, pages, 1)
        until_listed(s, blocks[-1])
        s.lose_power(s.a, strike="tear")
        start_again(s)
        applied_again(s)
        assert_holds(s, pages, 1)
        assert s.heard("sums.damaged") == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_s23_what_a_killed_process_left_unflushed_is_flushed_before_its_lists_go(seed: int) -> None:
    """It is killed when it has written the blocks of two lists. The next one lists other blocks first, and power goes.

    Rule: the first list of a process is written when all blocks are flushed.
    """
    first, later = range(10, 10 + 2 * LIST_ROWS), range(1, 1 + LIST_ROWS)
    with compiled_stage(1, 1, seed, nodes=1) as s:
        s.client.quiet = True
        grown(s, 10 + 2 * LIST_ROWS)
        room, fd, at = s.cluster.room, s.files(s.a).sums_fd, first[-1] * SUMS_BLOCK.size
        old, applied = room.pread(fd, at, SUMS_BLOCK.size), s.look(s.a).applied
        written_at_once(s, first_pages(first), 1)
        until_listed(s, first[0])
        # Too late for this checkpoint, and what the next one begins with.
        answers = [
            s.plane(s.a).submit(V, "write", page, 1, content(page, 2), nexus=RECORDS[0])
            for page in first_pages(later)
        ]

        def written() -> bool:
            return room.pread(fd, at, SUMS_BLOCK.size) != old and all(
                one is not None and one.done() for one in answers
            )

        s.until(written, seconds=1, look_s=LOOK_S)
        assert s.look(s.a).applied == applied
        s.world.kill_node(s.a)
        s.world.start_node(s.a)
        until_relisted(s, later[0], applied)
        s.lose_power(s.a, strike="tear")
        start_again(s)
        applied_again(s)
        assert_holds(s, first_pages(first), 1)
        assert_holds(s, first_pages(later), 2)
        assert s.heard("sums.damaged") == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_s23_what_a_round_that_was_given_up_left_unflushed_is_flushed_before_its_lists_go(
    seed: int,
) -> None:
    """The disk is full for one block of its second list. The next round lists other blocks first, and power goes.

    Rule: a round flushes what the one before it may have left unflushed before it writes over its lists.
    """
    first, later = range(10, 10 + 2 * LIST_ROWS), range(1, 1 + LIST_ROWS)
    with compiled_stage(1, 1, seed, nodes=1) as s:
        s.client.quiet = True
        grown(s, first[-1] + 1)
        written_at_once(s, first_pages([*later, *first]), 1)
        s.run(4)
        applied = s.look(s.a).applied
        assert applied == s.look(s.a).head
        written_at_once(s, first_pages(first), 2)
        until_listed(s, first[0])
        # Their blocks are in memory: behind those of the first list come the second list and its blocks.
        s.cluster.room.strike(3, "enospc")
        s.until(lambda: s.heard("pool.full") > 0, look_s=0.0002)
        written_at_once(s, first_pages(later), 3)
        assert s.look(s.a).applied == applied
        until_relisted(s, later[0], applied)
        s.lose_power(s.a, strike="tear")
        start_again(s)
        applied_again(s)
        assert_holds(s, first_pages(first), 2)
        assert_holds(s, first_pages(later), 3)
        assert s.heard("sums.damaged") == 0


def until_relisted(s: CompiledStage, block: int, applied: int) -> None:
    """The moment at which the next round has listed this block first of all."""

    def listed() -> bool:
        found = place(s, 0)
        return (
            found is not None
            and found.number("applied_lsn") == applied
            and found.numbers("blocks")[0] == block
        )

    room, end, busy = s.cluster.room, s.world.loop.now + 20, 0
    while not (busy and listed()):
        assert s.world.loop.now < end
        ios = room.counters()[0]
        s.run(LOOK_S if busy else 20 * LOOK_S)
        busy = 50 if room.counters()[0] != ios else max(busy - 1, 0)
