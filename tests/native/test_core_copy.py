"""The follower's side of a rebuild, with the primary played by hand: what it takes, and when its copy is whole."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from sparrow.authority.types import ReplicaState, Term
from sparrow.base.ids import Epoch, Lsn, ReplicaId
from sparrow.formats.crc32c import crc32c
from sparrow.formats.links import (
    BASE_HEAD,
    BASE_MARK,
    BASE_PAGES_MAX,
    BASE_START,
    FRAME_BASE,
    FRAME_BASE_DONE,
    FRAME_BASE_MARK,
    FRAME_BASE_START,
    FRAME_BATCH,
)
from sparrow.formats.sums import PAGE_DATA
from sparrow.formats.superblock import TERM_ROW, TERM_ROWS_MAX
from sparrow.ports.dataplane import (
    DiskFailed,
    LogSummary,
    PrimaryLost,
    RebuildKind,
    RebuildPlan,
    TermRow,
)
from tests.support.core_client import page_of
from tests.support.core_cluster import (
    DEMO,
    PAGE,
    VOLUME_BYTES,
    CoreCluster,
    CoreNode,
    core_cluster,
)
from tests.support.core_files import batches, superblock
from tests.support.core_peer import joined
from tests.support.ship_peer import Link, checked, frame, link
from tests.support.waiting import until

#: The term of the copy, and who is its primary.
TERM = Term(epoch=Epoch(3), start=1)
PRIMARY = ReplicaId("r9")
#: Long enough for anything that wrongly happens at once.
MOMENT_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Donor:
    """A log of the term start and three writes of one page."""

    summary: LogSummary
    batches: list[bytes]
    checks: list[int]


async def donor_of(cluster: CoreCluster, node: CoreNode, page: int = 1) -> Donor:
    await cluster.open_term(node)
    client = await cluster.connect(node)
    for version in (1, 2, 3):
        assert (await client.write(page, page_of(page, version))).status == 0
    summary = (await node.plane.status(DEMO)).log
    await node.plane.close_replica(DEMO)
    log = (node.files() / "wal").read_bytes()
    found = batches(node.files())
    assert [one.last_lsn for one in found] == [1, 2, 3, 4]
    return Donor(
        summary=summary,
        batches=[log[one.offset : one.offset + one.size] for one in found],
        checks=[one.fields.number("check") for one in found],
    )


def start_body(donor: Donor, pin: int, *, cursor: int = 0, from_lsn: int = 0) -> bytes:
    """The log begins after ``pin``; pages below ``cursor`` are taken for whole up to ``from_lsn``."""
    row = TERM_ROW.pack(
        {
            "epoch": donor.summary.terms[0].term.epoch,
            "start": donor.summary.terms[0].term.start,
            "first_lsn": 1,
        }
    )
    values = {
        "check": donor.checks[pin - 1],
        "term_rows": 1,
        "tables": 0,
        "size_bytes": VOLUME_BYTES,
        "cursor": cursor,
        "from_lsn": from_lsn,
        "terms": row.ljust(TERM_ROWS_MAX * TERM_ROW.size, b"\0"),
    }
    return checked(BASE_START, values, "body_check")


def page_body(page: int, data: bytes, *, of: bytes | None = None) -> bytes:
    """One page of data, with the checksum of ``of`` where that is another."""
    values = {
        "first_page": page,
        "page_count": 1,
        "data_count": 1,
        "states": bytes([PAGE_DATA]).ljust(BASE_PAGES_MAX, b"\0"),
        "sums": (crc32c(data if of is None else of), *[0] * (BASE_PAGES_MAX - 1)),
    }
    return checked(BASE_HEAD, values) + data


def mark_body(cursor: int, *, durable: bool = True) -> bytes:
    """A mark: every page below ``cursor`` was sent, or needed no sending."""
    return checked(BASE_MARK, {"flags": int(durable), "cursor": cursor, "patched": 0})


async def begun(node: CoreNode, primary: Link, donor: Donor, *, pin: int) -> None:
    """The replica is made ready, and its log begins after ``pin``."""
    await node.plane.fence(DEMO, TERM, PRIMARY)
    plan = await node.plane.prepare_rebuild(DEMO, TERM, donor.summary, None)
    assert plan.kind is RebuildKind.FULL
    await node.plane.receive(DEMO, primary.theirs, TERM)
    await primary.send_body(frame(TERM, FRAME_BASE_START, as_of=pin), start_body(donor, pin))


async def state_of(node: CoreNode) -> ReplicaState:
    return (await node.plane.status(DEMO)).log.state


async def becomes_whole(node: CoreNode) -> None:
    async def whole() -> bool:
        return await state_of(node) is ReplicaState.CLEAN

    await until(whole)


async def test_d22_a_replica_that_was_not_made_ready_takes_no_copy() -> None:
    """Whoever sends it: it may hold the only copy of something."""
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        donor = await donor_of(cluster, other)
        await node.plane.fence(DEMO, TERM, PRIMARY)
        with link() as primary:
            await joined(node, TERM)
            await node.plane.receive(DEMO, primary.theirs, TERM)
            await primary.send_body(frame(TERM, FRAME_BASE_START, as_of=2), start_body(donor, 2))
            assert (await node.wait(PrimaryLost)).cause == "protocol"
        assert await state_of(node) is ReplicaState.CLEAN
        assert (await node.plane.status(DEMO)).log.last_lsn == 0


async def test_a_copy_that_cannot_be_meant_ends_the_link() -> None:
    """A page that is not what its checksum says; it is not installed, and the copy is not whole."""
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        donor = await donor_of(cluster, other)
        with link() as primary:
            await begun(node, primary, donor, pin=2)
            await primary.send_body(frame(TERM, FRAME_BASE, as_of=2), page_body(3, page_of(3, 1)))
            damaged = page_body(4, page_of(4, 2), of=page_of(4, 1))
            await primary.send_body(frame(TERM, FRAME_BASE, as_of=2), damaged)
            assert (await node.wait(PrimaryLost)).cause == "damaged"
        assert await state_of(node) is ReplicaState.REBUILDING
        await node.plane.close_replica(DEMO)
        extents = (node.files() / "extents").read_bytes()
        assert extents[3 * PAGE : 4 * PAGE] == page_of(3, 1)
        assert not any(extents[4 * PAGE : 5 * PAGE])


async def test_a_copy_is_whole_when_the_log_has_reached_its_end() -> None:
    """Pages and log come side by side; what was committed when the last page was read must be here."""
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        donor = await donor_of(cluster, other)
        with link() as primary:
            await begun(node, primary, donor, pin=2)
            await primary.send_body(frame(TERM, FRAME_BASE, as_of=2), page_body(1, page_of(1, 1)))
            await primary.send_body(frame(TERM, FRAME_BASE_DONE, as_of=4), b"")
            await primary.send_body(frame(TERM, FRAME_BATCH), donor.batches[2])

            async def has_it() -> bool:
                return (await node.plane.status(DEMO)).log.durable_lsn == 3

            await until(has_it)
            await asyncio.sleep(MOMENT_S)
            assert await state_of(node) is ReplicaState.REBUILDING
            await primary.send_body(frame(TERM, FRAME_BATCH, commit=4), donor.batches[3])
            await becomes_whole(node)
            assert await cluster.read_page(node, 1, at_least=4) == page_of(1, 3)


async def test_nothing_is_applied_that_a_page_of_the_copy_may_be_older_than() -> None:
    """The newest batch is here and committed; the copy of its page, as of before it, is still under way.

    Applied first, it would be overwritten by what is older, with a checksum to match, and not be applied again. The end
    of the volume in the core applies everything it may.
    """
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        donor = await donor_of(cluster, other)
        with link() as primary:
            await begun(node, primary, donor, pin=2)
            await primary.send_body(frame(TERM, FRAME_BATCH, commit=3), donor.batches[2])

            async def has_it() -> bool:
                log = (await node.plane.status(DEMO)).log
                return log.durable_lsn == log.commit_lsn == 3

            await until(has_it)
            await node.plane.close_replica(DEMO)
        assert superblock(node.files()).number("applied_lsn") == 2
        assert not any((node.files() / "extents").read_bytes()[PAGE : 2 * PAGE])
        await node.plane.open_replica(DEMO)
        await node.plane.fence(DEMO, TERM, PRIMARY)
        plan = await node.plane.prepare_rebuild(DEMO, TERM, donor.summary, None)
        assert (plan.kind, plan.joined_lsn) == (RebuildKind.RESUMED, 3)
        with link() as primary:
            await node.plane.receive(DEMO, primary.theirs, TERM)
            await primary.send_body(frame(TERM, FRAME_BASE, as_of=2), page_body(1, page_of(1, 1)))
            await primary.send_body(frame(TERM, FRAME_BASE_DONE, commit=3, as_of=3), b"")
            await becomes_whole(node)
            assert await cluster.read_page(node, 1, at_least=3) == page_of(1, 2)


async def kept(node: CoreNode, donor: Donor) -> RebuildPlan:
    """The replica has all of the donor's log, and is made ready for a copy of what changed since."""
    await node.plane.fence(DEMO, TERM, PRIMARY)
    await joined(node, TERM)
    with link() as primary:
        await node.plane.receive(DEMO, primary.theirs, TERM)
        for batch in donor.batches:
            await primary.send_body(frame(TERM, FRAME_BATCH, commit=4), batch)

        async def has_all() -> bool:
            return (await node.plane.status(DEMO)).log.durable_lsn == 4

        await until(has_all)
    await node.wait(PrimaryLost)
    plan = await node.plane.prepare_rebuild(DEMO, TERM, donor.summary, Lsn(0))
    assert (plan.kind, plan.from_lsn) == (RebuildKind.DELTA, 4)
    return plan


@pytest.mark.parametrize(("newer", "cause"), [(0, "closed"), (1, "protocol")])
async def test_pages_that_are_kept_are_taken_for_no_newer_than_they_are(
    newer: int, cause: str
) -> None:
    """Else what was written to them since is not copied again."""
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        donor = await donor_of(cluster, other)
        plan = await kept(node, donor)
        with link() as primary:
            await node.plane.receive(DEMO, primary.theirs, TERM)
            body = start_body(donor, 4, cursor=plan.cursor, from_lsn=plan.from_lsn + newer)
            await primary.send_body(frame(TERM, FRAME_BASE_START, as_of=4), body)
            if newer == 0:
                await primary.send_body(frame(TERM, FRAME_BASE_DONE, as_of=4, commit=4), b"")
                await becomes_whole(node)
        assert (await node.wait(PrimaryLost)).cause == cause


# ---------------------------------------------------------------- how new pages may be


async def marked(primary: Link, number: int) -> None:
    while (await primary.next_ack()).number("base_marks") < number:
        pass


async def test_a_mark_says_how_new_a_page_may_be_and_not_how_new_it_is_at_least() -> None:
    """It was read while more committed: what the frame says of its age is a lower bound."""
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        donor = await donor_of(cluster, other)
        with link() as primary:
            await begun(node, primary, donor, pin=2)
            newer = frame(TERM, FRAME_BASE, as_of=2, commit=4)
            await primary.send_body(newer, page_body(1, page_of(1, 3)))
            await primary.send_body(frame(TERM, FRAME_BASE_MARK, as_of=2), mark_body(10))
            await marked(primary, 1)
        assert superblock(node.files()).number("base_cursor") == 10
        assert superblock(node.files()).number("reach_lsn") == 4


async def test_a_page_that_is_counted_on_becomes_newer_only_when_that_is_durable() -> None:
    """No mark comes behind it, and its as-of LSN was said before."""
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        donor = await donor_of(cluster, other)
        with link() as primary:
            await begun(node, primary, donor, pin=2)
            await primary.send_body(frame(TERM, FRAME_BASE_MARK, as_of=2), mark_body(10))
            await marked(primary, 1)
            assert superblock(node.files()).number("reach_lsn") == 2
            newer = frame(TERM, FRAME_BASE, as_of=2, commit=4)
            await primary.send_body(newer, page_body(1, page_of(1, 3)))

            def written() -> bool:
                with (node.files() / "extents").open("rb") as extents:
                    return extents.read(2 * PAGE)[PAGE:] == page_of(1, 3)

            await until(written)
            assert superblock(node.files()).number("reach_lsn") == 4


@contextlib.contextmanager
def only_first_pages() -> Iterator[None]:
    """Nothing is written behind the first page of any file of this process, so no superblock (setrlimit(2))."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def applicable(node: CoreNode, primary: Link, donor: Donor) -> None:
    """A page below the cursor is in a batch that is durable here; the next frame may let it be applied."""
    await begun(node, primary, donor, pin=2)
    await primary.send_body(frame(TERM, FRAME_BASE_MARK, as_of=2), mark_body(10))
    await marked(primary, 1)
    assert superblock(node.files()).number("reach_lsn") == 2
    await primary.send_body(frame(TERM, FRAME_BATCH, commit=2), donor.batches[2])
    while (await primary.next_ack()).number("durable_lsn") < 3:
        pass


async def test_a_page_that_is_counted_on_is_applied_only_when_that_is_durable() -> None:
    """A round of the flusher writes it; the superblock cannot be written any more, and the replica ends."""
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        donor = await donor_of(cluster, other, page=0)
        with link() as primary:
            await applicable(node, primary, donor)
            with only_first_pages():
                told = frame(TERM, FRAME_BASE_MARK, commit=3, as_of=3)
                await primary.send_body(told, mark_body(10, durable=False))
                await node.wait(DiskFailed)
            await node.plane.close_replica(DEMO)
        assert not any((node.files() / "extents").read_bytes()[:PAGE])


async def test_a_round_says_how_new_the_pages_become_that_it_writes() -> None:
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        donor = await donor_of(cluster, other, page=0)
        with link() as primary:
            await applicable(node, primary, donor)
            told = frame(TERM, FRAME_BASE_MARK, commit=3, as_of=3)
            await primary.send_body(told, mark_body(10, durable=False))

            def written() -> bool:
                with (node.files() / "extents").open("rb") as extents:
                    return extents.read(PAGE) == page_of(0, 2)

            await until(written)
            assert superblock(node.files()).number("reach_lsn") == 3


@pytest.mark.parametrize(("last", "kind"), [(3, RebuildKind.FULL), (4, RebuildKind.RESUMED)])
async def test_a_history_that_ends_below_what_pages_may_hold_keeps_none_of_them(
    last: int, kind: RebuildKind
) -> None:
    """The next primary knows the term of the copy, and how far it went in what is its own history."""
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        donor = await donor_of(cluster, other)
        with link() as primary:
            await begun(node, primary, donor, pin=2)
            newer = frame(TERM, FRAME_BASE, as_of=2, commit=4)
            await primary.send_body(newer, page_body(1, page_of(1, 3)))
            await primary.send_body(frame(TERM, FRAME_BASE_MARK, as_of=2), mark_body(10))
            await marked(primary, 1)
        (first,) = donor.summary.terms
        terms = (
            replace(first, last_lsn=Lsn(2)),
            TermRow(term=TERM, first_lsn=Lsn(3), last_lsn=Lsn(last)),
        )
        history = replace(donor.summary, terms=terms, last_term=TERM, last_lsn=Lsn(last))
        later = Term(epoch=Epoch(4), start=1)
        await node.plane.fence(DEMO, later, PRIMARY)
        plan = await node.plane.prepare_rebuild(DEMO, later, history, None)
        assert plan.kind is kind
        assert plan.cursor == (10 if kind is RebuildKind.RESUMED else 0)


async def test_a_copy_that_is_whole_says_how_new_its_pages_may_be() -> None:
    """Pages that came after the last mark are counted on from there."""
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        donor = await donor_of(cluster, other)
        with link() as primary:
            await begun(node, primary, donor, pin=2)
            newer = frame(TERM, FRAME_BASE, as_of=2, commit=4)
            await primary.send_body(newer, page_body(1, page_of(1, 3)))
            await primary.send_body(frame(TERM, FRAME_BASE_DONE, as_of=4), b"")
            for batch in donor.batches[2:]:
                await primary.send_body(frame(TERM, FRAME_BATCH), batch)
            await becomes_whole(node)
            assert superblock(node.files()).number("reach_lsn") == 4


# ---------------------------------------------------------------- several at once

#: More than are under way at the same time.
FRAMES = 24
MARKS = 12


async def test_more_frames_and_marks_than_can_be_under_way_are_all_taken() -> None:
    """They come in one piece; what there is no place for waits where it is."""
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        donor = await donor_of(cluster, other)
        with link() as primary:
            await begun(node, primary, donor, pin=2)
            base = frame(TERM, FRAME_BASE, as_of=2)
            frames = [(base, page_body(page, page_of(page, 7))) for page in range(FRAMES)]
            mark = frame(TERM, FRAME_BASE_MARK, as_of=2)
            frames += [(mark, mark_body(FRAMES + number)) for number in range(MARKS)]
            await primary.send_bodies(frames)
            await marked(primary, MARKS)
            await node.plane.close_replica(DEMO)
        assert superblock(node.files()).number("base_cursor") == FRAMES + MARKS - 1
        extents = (node.files() / "extents").read_bytes()
        for page in range(FRAMES):
            assert extents[page * PAGE : (page + 1) * PAGE] == page_of(page, 7)


async def test_of_several_frames_that_speak_of_one_page_the_last_counts() -> None:
    """They come in one piece, so they would all be written at once."""
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        donor = await donor_of(cluster, other)
        with link() as primary:
            await begun(node, primary, donor, pin=2)
            base = frame(TERM, FRAME_BASE, as_of=2)
            frames = [(base, page_body(9, page_of(9, version))) for version in range(1, 7)]
            await primary.send_bodies([*frames, (frame(TERM, FRAME_BASE_DONE, as_of=2), b"")])
            await becomes_whole(node)
            assert await cluster.read_page(node, 9) == page_of(9, 6)
