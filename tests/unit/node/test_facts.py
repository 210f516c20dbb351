"""What a node says of its replicas."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import structlog

from sparrow.authority.types import ReplicaState
from sparrow.base.ids import Lsn, VolumeId
from sparrow.frontends.scsi.unit import UnitState
from sparrow.node import events as ev
from sparrow.node.facts import SlotReports, slot_fact, told_silence_ms
from sparrow.node.primacy import SETTLED_S
from sparrow.node.units import unit_state
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DiskFailed, VolumeStatus
from tests.support.lines import VOLUME
from tests.support.model_cluster import Cluster, play


def test_facts_say_what_the_core_says() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 1, b"one")
        await cluster.idle(1.0)
        facts = {}
        for r in "ab":
            node = cluster.node(r)
            status = await node.dataplane.status(VOLUME)
            facts[r] = slot_fact(node.replicas.get(VOLUME), status, node.me)
        assert facts["a"].gate_open
        assert facts["a"].role_claim.name == "PRIMARY"
        assert facts["b"].role_claim.name == "NONE"
        assert facts["a"].commit_lsn == facts["b"].durable_lsn == 2
        assert facts["a"].lineage == cluster.line.lineage
        assert facts["b"].ready_for_primary
        cluster.pools["nb"].files[VOLUME].state = ReplicaState.REBUILDING
        status = await cluster.node("b").dataplane.status(VOLUME)
        b = cluster.node("b")
        assert not slot_fact(b.replicas.get(VOLUME), status, b.me).ready_for_primary

    play(story)


def test_a_log_that_was_longer_once_is_not_ready_to_lead() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.pools["nb"].files[VOLUME].must_reach = Lsn(99)
        b = cluster.node("b")
        found = slot_fact(b.replicas.get(VOLUME), await b.dataplane.status(VOLUME), b.me)
        assert not found.ready_for_primary
        assert found.suspect

    play(story)


def test_l9_a_core_that_does_not_answer_is_told_while_it_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(cluster: Cluster) -> None:
        a = cluster.node("a")
        reports = SlotReports(a.replicas, a.dataplane, a.me, structlog.get_logger())
        (before,) = await reports.take()
        assert not before.withdrawn

        async def never(_volume_id: VolumeId) -> VolumeStatus:
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(a.dataplane, "status", never)
        (after,) = await reports.take()
        assert after == replace(before, withdrawn=True)
        monkeypatch.undo()

    play(story)


def test_a_fact_is_made_anew_only_when_what_it_is_made_of_is_another() -> None:
    async def story(cluster: Cluster) -> None:
        for node in (cluster.node("a"), cluster.node("b")):
            volume = node.replicas.get(VOLUME)
            view = {VOLUME: await node.dataplane.status(VOLUME)}
            views = [view]

            async def told(
                views: list[dict[VolumeId, VolumeStatus]] = views,
            ) -> dict[VolumeId, VolumeStatus]:
                return views[-1]

            async def one(
                _id: VolumeId, views: list[dict[VolumeId, VolumeStatus]] = views
            ) -> VolumeStatus:
                return views[-1][VOLUME]

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(node.dataplane, "statuses", told)
                # What the model's own heartbeats show is the same view.
                patch.setattr(node.dataplane, "status", one)
                reports = SlotReports(
                    node.replicas, node.dataplane, node.me, structlog.get_logger()
                )
                (first,) = await reports.take()
                await asyncio.sleep(SETTLED_S)
                await reports.take()
                await asyncio.sleep(SETTLED_S)
                before = await reports.take()
                assert await reports.take() is before, "nothing was looked at"
                assert before[0] == replace(first, peers=before[0].peers)
                views.append(dict(view))
                assert (await reports.take())[0] is before[0], "looked at, and the same"
                if volume.primacy is not None:
                    seen: list[VolumeStatus] = []

                    def observe(
                        status: VolumeStatus,
                        volume: Volume = volume,
                        seen: list[VolumeStatus] = seen,
                    ) -> None:
                        seen.append(status)
                        Volume.observe(volume, status)

                    patch.setattr(volume, "observe", observe)
                    volume.primacy.tell(ev.ControlChanged(live=True))
                    for _ in range(3):
                        await reports.take()
                    assert len(seen) == 3, "what is measured over several looks is looked at"
                volume.take(DiskFailed(volume_id=VOLUME, file="wal", errno=5, frozen=False))
                assert (await reports.take())[0].disk_failed
                volume.disk_failed = False
                node.replicas._around.stirs.note()
                assert not (await reports.take())[0].disk_failed
                log_now = view[VOLUME].log
                views.append(
                    {VOLUME: replace(view[VOLUME], log=replace(log_now, last_lsn=Lsn(99)))}
                )
                assert (await reports.take())[0].last_lsn == 99

    play(story)


def test_only_an_open_gate_is_called_optimized() -> None:
    async def story(cluster: Cluster) -> None:
        a = cluster.node("a").replicas.get(VOLUME)
        b = cluster.node("b").replicas.get(VOLUME)
        await cluster.idle(0.1)
        assert unit_state(a, gate_open=True, primary_lives=False) is UnitState.OPTIMIZED
        assert unit_state(a, gate_open=False, primary_lives=False) is UnitState.TRANSITIONING
        assert unit_state(b, gate_open=False, primary_lives=True) is UnitState.STANDBY
        assert unit_state(b, gate_open=False, primary_lives=False) is UnitState.TRANSITIONING

    play(story)


@pytest.mark.parametrize(
    ("silent", "told"),
    [(None, None), (0, 299), (299, 299), (300, 999), (999, 999), (1000, 1000), (90_000, 1000)],
)
def test_silence_is_told_in_steps_and_never_shorter_than_it_is(
    silent: int | None, told: int | None
) -> None:
    async def story(cluster: Cluster) -> None:
        node = cluster.node("a")
        status = replace(await node.dataplane.status(VOLUME), primary_silent_ms=silent)
        assert told_silence_ms(status) == told

    play(story)
