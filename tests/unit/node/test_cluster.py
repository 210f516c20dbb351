"""Several nodes with model data planes on virtual time: failover, return, growing and shrinking, from end to end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sparrow.base.errors import Refused
from sparrow.node.volume import Volume
from sparrow.rpc.messages import AskIntent
from tests.support.lines import VOLUME
from tests.support.model_cluster import Cluster
from tests.support.virtual_time import run_virtual

Story = Callable[[Cluster], Coroutine[Any, Any, None]]


def play(story: Story, replicas: str = "abc") -> None:
    async def whole() -> None:
        cluster = Cluster(replicas)
        try:
            await story(cluster)
            cluster.check()
        finally:
            for node in cluster.nodes.values():
                node.kill()

    run_virtual(whole())


def test_a_new_volume_is_formatted_opened_and_served() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        await cluster.write("a", 1, b"one")
        assert cluster.node("a").dataplane.read(VOLUME, 1) == b"one"
        assert all(cluster.pages(r) == {1: b"one"} for r in "abc")

    play(story)


def test_zeroed_pages_are_gone_everywhere_also_for_a_replica_that_was_away() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        for page in range(6):
            await cluster.write("a", page, b"full")
        cluster.kill("c")
        await cluster.until(lambda: cluster.in_sync == "ab")
        await cluster.node("a").dataplane.zero(VOLUME, 1, 3)
        await cluster.write("a", 2, b"anew")
        await cluster.up("c")
        await cluster.until(lambda: cluster.in_sync == "abc")
        left = {0: b"full", 2: b"anew", 4: b"full", 5: b"full"}
        assert all(cluster.pages(r) == left for r in "abc")

    play(story)


def test_a_follower_that_dies_is_shrunk_out_and_writes_go_on() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        cluster.kill("c")
        took = await cluster.until(lambda: cluster.in_sync == "ab")
        assert took < 0.5
        await cluster.write("a", 1, b"one")
        assert cluster.node("a").gate_open

    play(story)


def test_a_returning_follower_catches_up_and_is_grown_again() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        cluster.kill("c")
        await cluster.until(lambda: cluster.in_sync == "ab")
        for page in range(5):
            await cluster.write("a", page, b"while away")
        await cluster.up("c")
        await cluster.until(lambda: cluster.in_sync == "abc")
        assert cluster.pages("c") == cluster.pages("a")
        assert cluster.node("a").gate_open

    play(story)


def test_a_failover_keeps_every_acknowledged_write() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        for page in range(5):
            await cluster.write("a", page, b"before")
        cluster.kill("a")
        cluster.mint(2, 1, "b", "bc")
        took = await cluster.until(lambda: cluster.node("b").gate_open)
        assert took < 1.5
        assert all(cluster.node("b").dataplane.read(VOLUME, p) == b"before" for p in range(5))
        await cluster.write("b", 9, b"after")

    play(story)


def test_the_old_primary_returns_and_loses_only_what_nobody_acknowledged() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        await cluster.write("a", 1, b"kept")
        for other in "bc":
            cluster.fabric.part("na", f"n{other}")
        lost = asyncio.ensure_future(
            cluster.node("a").dataplane.write(VOLUME, 2, b"never acknowledged")
        )
        await asyncio.sleep(0.05)
        assert not lost.done()
        lost.cancel()
        cluster.kill("a")
        for other in "bc":
            cluster.fabric.heal("na", f"n{other}")
        assert cluster.pages("a")[2] == b"never acknowledged"
        cluster.mint(2, 1, "b", "bc")
        await cluster.until(lambda: cluster.node("b").gate_open)
        await cluster.write("b", 3, b"new")
        await cluster.up("a")
        await cluster.until(lambda: cluster.in_sync == "abc")
        assert cluster.pages("a") == cluster.pages("b") == {1: b"kept", 3: b"new"}

    play(story)


def test_a_primary_cut_off_from_everyone_stops_serving_before_the_next_one_starts() -> None:
    """Both gates are watched at every step; ``check`` fails if two are open at one moment."""

    async def story(cluster: Cluster) -> None:
        await cluster.start()
        await cluster.write("a", 1, b"one")
        cluster.master.cut("na")
        for other in "bc":
            cluster.fabric.part("na", f"n{other}")
        cluster.mint(2, 1, "b", "bc")
        await cluster.until(lambda: cluster.node("b").gate_open)
        assert not cluster.node("a").gate_open
        with pytest.raises(Refused):
            cluster.node("a").dataplane.read(VOLUME, 1)
        cluster.master.restore("na")
        for other in "bc":
            cluster.fabric.heal("na", f"n{other}")
        await cluster.until(lambda: cluster.in_sync == "abc")
        assert cluster.node("b").gate_open

    play(story)


def test_s3_a_restarted_primary_waits_for_the_masters_word() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        cluster.kill("b")
        cluster.kill("c")
        await cluster.until(lambda: cluster.in_sync == "a")
        cluster.kill("a")
        cluster.master.cut("na")
        await cluster.up("a")
        await cluster.idle(10.0)
        assert not cluster.node("a").gate_open
        cluster.master.restore("na")
        await cluster.until(lambda: cluster.node("a").gate_open)

    play(story)


def test_s2_writes_that_only_a_follower_kept_survive_the_primarys_restart() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        await cluster.write("a", 1, b"one")
        cluster.node("a").dataplane.lose_own_writes = True
        lost = asyncio.ensure_future(cluster.node("a").dataplane.write(VOLUME, 2, b"only at b"))
        await asyncio.sleep(0.05)
        lost.cancel()
        cluster.kill("a")
        assert 2 not in cluster.pages("a")
        await cluster.up("a")
        await cluster.until(lambda: cluster.node("a").gate_open)
        await cluster.write("a", 3, b"three")
        await cluster.until(lambda: cluster.in_sync == "ab")
        wanted = {1: b"one", 2: b"only at b", 3: b"three"}
        assert cluster.pages("a") == cluster.pages("b") == wanted

    play(story, "ab")


def test_s5_a_lost_answer_to_a_grow_is_no_answer() -> None:
    """The peer stays needed until a line or a refusal comes, however often the transport fails."""

    async def story(cluster: Cluster) -> None:
        await cluster.start()
        cluster.kill("b")
        await cluster.until(lambda: cluster.in_sync == "a")
        cluster.master.deaf = True
        await cluster.up("b")
        files = cluster.pools["na"].files[VOLUME]
        await cluster.until(lambda: files.pending == ("b",))
        await cluster.idle(5.0)
        assert files.pending == ("b",)
        cluster.kill("b")
        stuck = asyncio.ensure_future(cluster.write("a", 1, b"needs b"))
        await cluster.idle(3.0)
        assert not stuck.done(), "b is needed until a newer line says otherwise"
        cluster.master.deaf = False
        await asyncio.wait_for(stuck, 5.0)
        assert cluster.in_sync == "a"

    play(story, "ab")


def test_s5_an_applied_grow_whose_answer_was_lost_takes_effect_once() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        cluster.kill("b")
        await cluster.until(lambda: cluster.in_sync == "a")
        cluster.master.lose_answers = True
        await cluster.up("b")
        await cluster.until(lambda: cluster.in_sync == "ab")
        await cluster.idle(3.0)
        grows = [a for a in cluster.master.asked if a.intent is AskIntent.GROW_IN_SYNC]
        assert len({a.basis for a in grows}) == 1
        assert cluster.pools["na"].files[VOLUME].pending == ()

    play(story, "ab")


def test_l12_no_peer_becomes_pending_while_the_master_is_away() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        cluster.kill("b")
        await cluster.until(lambda: cluster.in_sync == "a")
        cluster.master.cut("na")
        await cluster.up("b")
        await cluster.idle(8.0)
        assert cluster.pools["na"].files[VOLUME].pending == ()
        await cluster.write("a", 1, b"one")
        cluster.master.restore("na")
        await cluster.until(lambda: cluster.in_sync == "ab")

    play(story, "ab")


def test_a_reset_link_is_made_again_without_asking_anyone() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        before = len(cluster.master.asked)
        cluster.fabric.cut("na", "nb")
        await cluster.write("a", 1, b"one")
        await cluster.idle(2.0)
        assert len(cluster.master.asked) == before
        assert cluster.in_sync == "abc"

    play(story)


def test_a_silent_follower_is_asked_out_after_a_second() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        cluster.fabric.part("na", "nc")
        stuck = asyncio.ensure_future(cluster.write("a", 1, b"one"))
        took = await cluster.until(lambda: cluster.in_sync == "ab")
        assert 0.9 < took < 2.0
        await asyncio.wait_for(stuck, 1.0)
        cluster.fabric.heal("na", "nc")
        await cluster.until(lambda: cluster.in_sync == "abc")

    play(story)


def test_a_follower_past_the_log_is_rebuilt() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        cluster.kill("b")
        await cluster.until(lambda: cluster.in_sync == "a")
        for page in range(6):
            await cluster.write("a", page, b"new")
        cluster.pools["na"].files[VOLUME].log.recycle(cluster.pools["na"].files[VOLUME].applied)
        await cluster.up("b")
        await cluster.until(lambda: cluster.in_sync == "ab")
        assert cluster.pages("b") == cluster.pages("a")

    play(story, "ab")


def test_s17_a_replaced_disk_is_rebuilt_under_its_own_uuid() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        await cluster.write("a", 1, b"one")
        cluster.kill("b")
        await cluster.until(lambda: cluster.in_sync == "a")
        del cluster.pools["nb"].files[VOLUME]
        await cluster.up("b")
        await cluster.until(lambda: cluster.in_sync == "ab")
        assert cluster.pages("b") == {1: b"one"}
        member = cluster.line.member(cluster.line.in_sync[1])
        assert member is not None
        assert member.uuid == cluster.uuids()["b"]

    play(story, "ab")


def test_s17_a_blank_replica_named_primary_never_opens() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        await cluster.write("a", 1, b"one")
        cluster.kill("a")
        cluster.kill("b")
        del cluster.pools["nb"].files[VOLUME]
        await cluster.up("b")
        cluster.mint(2, 1, "b", "b")
        await cluster.idle(10.0)
        assert not cluster.node("b").gate_open

    play(story, "ab")


def test_s8_after_a_power_cut_the_primary_adopts_the_batch_it_lost() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        for page in range(4):
            await cluster.write("a", page, b"acknowledged")
        for r in "abc":
            cluster.kill(r)
        log = cluster.pools["na"].files[VOLUME].log
        files = cluster.pools["na"].files[VOLUME]
        files.must_reach = log.last_lsn
        files.applied = type(files.applied)(log.last_lsn - 1)
        log.cut(type(files.applied)(log.last_lsn - 1))
        for r in "abc":
            await cluster.up(r)
        await cluster.until(lambda: cluster.node("a").gate_open)
        assert cluster.node("a").dataplane.read(VOLUME, 3) == b"acknowledged"

    play(story)


def test_s11_below_min_in_sync_writes_wait_and_reads_go_on() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start(min_in_sync=2)
        await cluster.write("a", 1, b"one")
        cluster.kill("b")
        cluster.kill("c")
        await cluster.until(lambda: cluster.in_sync == "a")
        await cluster.idle(0.5)
        assert cluster.node("a").dataplane.read(VOLUME, 1) == b"one"
        with pytest.raises(Refused):
            await cluster.node("a").dataplane.write(VOLUME, 2, b"two")
        await cluster.up("b")
        await cluster.until(lambda: cluster.in_sync == "ab")
        await cluster.write("a", 2, b"two")

    play(story)


def test_all_processes_killed_at_once_come_back_with_every_acknowledged_write() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        for page in range(4):
            await cluster.write("a", page, b"acknowledged")
        for r in "abc":
            cluster.kill(r)
        for r in "cba":
            await cluster.up(r)
        await cluster.until(lambda: cluster.node("a").gate_open)
        assert all(cluster.node("a").dataplane.read(VOLUME, p) == b"acknowledged" for p in range(4))
        await cluster.until(lambda: cluster.in_sync == "abc")

    play(story)


def test_the_master_may_be_away_for_long_while_clients_write() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        for r in "abc":
            cluster.master.cut(f"n{r}")
        await cluster.idle(60.0)
        await cluster.write("a", 1, b"one")
        assert cluster.node("a").gate_open

    play(story)


def test_a_planned_change_of_epoch_moves_the_volume_and_the_old_primary_follows() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        await cluster.write("a", 1, b"one")
        cluster.mint(2, 1, "b", "bc")
        await cluster.until(lambda: cluster.node("b").gate_open)
        assert not cluster.node("a").gate_open
        await cluster.until(lambda: cluster.in_sync == "abc")
        await cluster.write("b", 2, b"two")
        assert cluster.pages("a") == {1: b"one", 2: b"two"}

    play(story)


def volume_of(cluster: Cluster, replica: str) -> Volume:
    return cluster.node(replica).replicas.get(VOLUME)


def size_of(cluster: Cluster, replica: str) -> int:
    return volume_of(cluster, replica).size_bytes


def test_a_volume_grows_whoever_is_primary_when_it_is_asked_for() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.start()
        old = size_of(cluster, "a")
        for replica in "abc":
            volume_of(cluster, replica).growth.want(2 * old)
        await cluster.until(lambda: all(size_of(cluster, r) == 2 * old for r in "abc"))
        # Wanted already of a replica that becomes primary only later.
        volume_of(cluster, "b").growth.want(3 * old)
        assert size_of(cluster, "b") == 2 * old
        cluster.kill("a")
        cluster.mint(2, 1, "b", "bc")
        await cluster.until(lambda: size_of(cluster, "b") == size_of(cluster, "c") == 3 * old)
        await cluster.up("a")
        await cluster.until(lambda: cluster.in_sync == "abc")
        assert size_of(cluster, "a") == 3 * old

    play(story)
