"""The conversation with the master: what is believed, what is refused, what is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any, cast

import pytest
import structlog
from structlog.testing import capture_logs

from sparrow.authority.effects import HostReplica, Instruction, Synced
from sparrow.base.constants import HEARTBEAT_S
from sparrow.base.errors import ConfigError, InvalidArgument, StorageError, Unavailable, Unproven
from sparrow.base.ids import NodeId
from sparrow.node.access import AccessBook
from sparrow.node.master_link import MasterLink
from sparrow.node.outside import Identity
from sparrow.node.replicas import Replicas
from sparrow.node.troubles import CAUSE_BYTES_MAX
from sparrow.rpc.messages import AskAnswer, AskRequest, Heartbeat, HeartbeatAck
from tests.support.lines import SIZE, VOLUME, rid
from tests.support.virtual_time import run_virtual

ME = Identity(
    node_id=NodeId("na"), incarnation=3, ctrl_addr="a:1", data_addr="a:2", iscsi_addr="a:3"
)
DESIRED = HostReplica(volume_id=VOLUME, replica_id=rid("a"), size_bytes=SIZE, block_size=512)


class Master:
    """Plays one master after the other."""

    def __init__(self) -> None:
        self.cluster = "c1"
        self.generation = 1
        self.stream_generation = 1
        self.reachable = True
        #: Has another cluster key.
        self.stranger = False
        self.send_full = False
        self.beats: list[tuple[float, Heartbeat]] = []
        self.streams = 0
        self.more: asyncio.Queue[Instruction | None] = asyncio.Queue()

    async def heartbeat(self, heartbeat: Heartbeat, *, timeout_s: float) -> HeartbeatAck:
        if not self.reachable:
            await asyncio.sleep(timeout_s)
            raise Unavailable("gone")
        if self.stranger:
            raise Unproven("The cluster key 01 is not known here.", hint="Give both the same file.")
        self.beats.append((asyncio.get_running_loop().time(), heartbeat))
        return HeartbeatAck(
            sequence=heartbeat.sequence,
            master_generation=self.generation,
            cluster_id=self.cluster,
            send_full=self.send_full,
        )

    async def subscribe(self, node_id: NodeId, incarnation: int) -> AsyncGenerator[Instruction]:
        assert (node_id, incarnation) == ("na", 3)
        self.streams += 1
        yield DESIRED
        yield Synced(master_generation=self.stream_generation)
        while (instruction := await self.more.get()) is not None:
            yield instruction

    async def ask(self, request: AskRequest, *, timeout_s: float) -> AskAnswer:
        raise AssertionError("not here")


class Hosts:
    """Takes instructions; fails as often as it is told to."""

    def __init__(self) -> None:
        self.wanted: list[HostReplica] = []
        self.failures: list[Exception] = []
        self.live: list[bool] = []

    async def want(self, desired: HostReplica) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.wanted.append(desired)

    def control_changed(self, *, live: bool) -> None:
        self.live.append(live)


class Setting:
    def __init__(self, generation: int = 0) -> None:
        self.master = Master()
        self.learnt: list[int] = []
        self.noted: list[tuple[str, str]] = []
        self.full = False
        self.hosts = Hosts()
        self.built = 0
        self.resting = False
        self.tasks: list[asyncio.Task[None]] = []
        self.known_cluster = ""
        self.access = AccessBook(structlog.get_logger())
        self.link = MasterLink(
            access=self.access,
            me=ME,
            master=self.master,
            replicas=cast("Replicas", self.hosts),
            build=self._build,
            resting=lambda: self.resting,
            learn_cluster=self._learn,
            spawn=self._spawn,
            log=structlog.get_logger(),
            generation=generation,
            learn_generation=self._learn_generation,
            note=lambda about, sentence: self.noted.append((about, sentence)),
        )
        self._spawn(self.link.heartbeats(), "heartbeats")
        self._spawn(self.link.subscription(), "subscription")

    async def _build(self, sequence: int) -> Heartbeat:
        self.built += 1
        return Heartbeat(
            node_id=ME.node_id,
            incarnation=ME.incarnation,
            sequence=sequence,
            data_addr="",
            ctrl_addr="",
            iscsi_addr="",
            pool_total_bytes=1,
            pool_free_bytes=1,
        )

    def _learn(self, cluster: str) -> None:
        if self.known_cluster not in {"", cluster}:
            raise ConfigError("another cluster")
        self.known_cluster = cluster

    def _learn_generation(self, generation: int) -> None:
        if self.full:
            raise StorageError("full")
        self.learnt.append(generation)

    def _spawn(self, work: Any, _name: str) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    def stop(self) -> None:
        for task in self.tasks:
            task.cancel()


def test_facts_go_up_every_half_second_and_at_once_when_urgent() -> None:
    async def story() -> None:
        setting = Setting()
        await asyncio.sleep(5.1)
        beats = len(setting.master.beats)
        assert 9 <= beats <= 12
        setting.link.urge()
        await asyncio.sleep(0.05)
        assert len(setting.master.beats) == beats + 1
        sequences = [beat.sequence for _at, beat in setting.master.beats]
        assert sequences == sorted(set(sequences))
        setting.stop()

    run_virtual(story())


def test_at_rest_each_heartbeat_has_one_look_and_none_is_later() -> None:
    async def story() -> None:
        setting = Setting()
        setting.resting = True
        await asyncio.sleep(5.1)
        assert setting.built == len(setting.master.beats)
        # News between two heartbeats: looks come twice as often again, and once all rests the next beat is not put off.
        setting.resting = False
        await asyncio.sleep(5)
        beats, looks = len(setting.master.beats), setting.built
        assert looks - beats >= beats // 2 - 2
        setting.resting = True
        await asyncio.sleep(5)
        times = [at for at, _beat in setting.master.beats]
        assert max(b - a for a, b in pairwise(times)) <= HEARTBEAT_S + 0.01
        setting.stop()

    run_virtual(story())


def test_a_master_with_another_key_is_told_of_once_each_time_it_begins() -> None:
    async def story() -> None:
        with capture_logs() as logs:
            setting = Setting()
            for _ in range(2):
                setting.master.stranger = True
                await asyncio.sleep(3)
                setting.master.stranger = False
                await asyncio.sleep(3)
            setting.stop()
        told = [entry for entry in logs if entry["event"] == "master.lost"]
        assert [entry["log_level"] for entry in told] == ["error", "error"]
        assert told[0]["cause"] == "The cluster key 01 is not known here."
        assert told[0]["hint"] == "Give both the same file."

    run_virtual(story())


def test_only_the_first_heartbeat_of_a_stream_is_whole() -> None:
    async def story() -> None:
        setting = Setting()
        await asyncio.sleep(3.1)
        bases = [beat.base_revision for _at, beat in setting.master.beats]
        assert bases[-1] is not None
        assert bases.count(None) <= 2, "before the stream, and when it began"
        before = bases.count(None)
        setting.master.more.put_nowait(None)
        await asyncio.sleep(3)
        bases = [beat.base_revision for _at, beat in setting.master.beats]
        assert bases[-1] is not None
        assert bases.count(None) == before + 1
        setting.stop()

    run_virtual(story())


def test_a_master_that_lacks_the_base_gets_a_whole_heartbeat_at_once() -> None:
    async def story() -> None:
        setting = Setting()
        await asyncio.sleep(3.1)
        at, beat = setting.master.beats[-1]
        assert beat.base_revision is not None
        setting.master.send_full = True
        while beat.base_revision is not None or len(setting.master.beats) < 8:
            await asyncio.sleep(0.01)
            at, beat = setting.master.beats[-1]
            if beat.base_revision is not None:
                refused_at = at
        setting.master.send_full = False
        assert at - refused_at < 0.1
        setting.stop()

    run_virtual(story())


def test_a_master_that_was_never_reached_is_told_of_once() -> None:
    """Its address may be wrong, and nothing else in the log would say so. Later its stream ends, which is told of."""

    async def story() -> None:
        with capture_logs() as logs:
            setting = Setting()
            setting.master.reachable = False
            await asyncio.sleep(20)
            setting.master.reachable = True
            await asyncio.sleep(3)
            assert setting.link.live
            setting.master.reachable = False
            await asyncio.sleep(20)
            setting.stop()
        told = [entry for entry in logs if entry["event"] == "master.lost"]
        assert [(entry["log_level"], entry["cause"]) for entry in told] == [("warning", "gone")]

    run_virtual(story())


def test_an_unreachable_master_never_stops_the_observing() -> None:
    async def story() -> None:
        setting = Setting()
        setting.master.reachable = False
        await asyncio.sleep(5)
        assert setting.built >= 18
        assert not setting.master.beats
        assert setting.master.streams == 0
        setting.master.reachable = True
        await asyncio.sleep(3)
        assert setting.link.live
        setting.stop()

    run_virtual(story())


def test_nothing_is_believed_before_the_burst_is_complete_and_the_cluster_known() -> None:
    async def story() -> None:
        setting = Setting()
        setting.known_cluster = "other"
        await asyncio.sleep(5)
        assert setting.master.streams == 0
        assert not setting.hosts.wanted
        setting.stop()

    run_virtual(story())


def test_s18_a_master_older_than_one_heard_before_is_not_followed() -> None:
    async def story() -> None:
        setting = Setting()
        setting.master.generation = 5
        setting.master.stream_generation = 4
        await asyncio.sleep(5)
        assert setting.master.streams > 1
        assert not setting.hosts.wanted
        assert not setting.link.live
        setting.master.stream_generation = 5
        await asyncio.sleep(10)
        assert setting.hosts.wanted == [DESIRED]
        assert setting.link.live
        setting.stop()

    run_virtual(story())


def test_what_a_replaced_master_said_is_not_carried_out_later() -> None:
    """What waited for room on the disk was said before the new master asked what is held here."""

    async def story() -> None:
        setting = Setting()
        setting.hosts.failures = [StorageError("full") for _ in range(3)]
        await asyncio.sleep(0.5)
        assert setting.hosts.wanted == []
        assert setting.link.hear_generation(2) == 2
        await asyncio.sleep(10)
        assert setting.hosts.wanted == []
        setting.master.generation = setting.master.stream_generation = 2
        await asyncio.sleep(10)
        assert setting.hosts.wanted == [DESIRED]
        setting.stop()

    run_virtual(story())


def test_a_stream_of_a_master_that_was_replaced_is_left() -> None:
    async def story() -> None:
        setting = Setting()
        await asyncio.sleep(1)
        assert setting.hosts.wanted == [DESIRED]
        setting.master.generation = 2
        # Its stream says nothing more, and is left all the same.
        await asyncio.sleep(1)
        assert setting.hosts.live == [True, False]
        assert setting.master.streams > 1
        setting.master.stream_generation = 2
        await asyncio.sleep(5)
        assert setting.hosts.live == [True, False, True]
        setting.stop()

    run_virtual(story())


def test_a_broken_stream_is_said_and_made_again() -> None:
    async def story() -> None:
        setting = Setting()
        await asyncio.sleep(1)
        setting.master.more.put_nowait(None)
        await asyncio.sleep(1)
        assert setting.hosts.live == [True, False, True]
        setting.stop()

    run_virtual(story())


def test_what_a_full_disk_refused_is_done_later() -> None:
    """The master says an instruction once; it must not be lost."""

    async def story() -> None:
        setting = Setting()
        setting.hosts.failures = [StorageError("full"), Unavailable("busy")]
        await asyncio.sleep(3)
        assert setting.hosts.wanted == [DESIRED]
        setting.stop()

    run_virtual(story())


def test_what_this_node_cannot_do_is_told_as_often_as_it_fails() -> None:
    """A person sees the node in the master's list; a core that is merely busy is nothing to be seen."""

    async def story() -> None:
        setting = Setting()
        full = StorageError(
            "The WAL device /dev/x has no room for a log of 16 MiB.", hint="Larger."
        )
        setting.hosts.failures = [full, Unavailable("busy"), full, StorageError("y" * 5000)]
        await asyncio.sleep(10)
        assert setting.hosts.wanted == [DESIRED]
        about = f"HostReplica of {DESIRED.volume_id}"
        said = "The WAL device /dev/x has no room for a log of 16 MiB. Larger."
        assert setting.noted == [(about, said), (about, said), (about, "y" * CAUSE_BYTES_MAX)]
        setting.stop()

    run_virtual(story())


def test_s18e_an_answer_of_a_replaced_master_is_no_master() -> None:
    """A zombie and its successor both run: once the successor spoke, the zombie's answers count for nothing."""

    async def story() -> None:
        setting = Setting()
        setting.master.generation = setting.master.stream_generation = 5
        await asyncio.sleep(2)
        assert setting.link.live
        assert setting.learnt == [5]
        setting.master.generation = setting.master.stream_generation = 4
        setting.master.more.put_nowait(None)
        streams = setting.master.streams
        await asyncio.sleep(5)
        assert not setting.link.live
        assert setting.master.streams <= streams + 1
        assert setting.hosts.live[-1] is False
        setting.stop()

    run_virtual(story())


def test_s18e_a_restarted_node_still_refuses_the_zombie() -> None:
    async def story() -> None:
        setting = Setting(generation=5)
        setting.master.generation = setting.master.stream_generation = 4
        await asyncio.sleep(5)
        assert setting.master.beats
        assert setting.master.streams == 0
        assert not setting.hosts.wanted
        setting.stop()

    run_virtual(story())


def test_a_generation_no_master_can_have_reached_is_refused_and_not_learnt() -> None:
    async def story() -> None:
        setting = Setting()
        await asyncio.sleep(1)
        with pytest.raises(InvalidArgument, match="master_generation"):
            setting.link.hear_generation(1 << 40)
        assert setting.link.generation == 1
        assert setting.link.hear_generation(1025) == 1025
        assert setting.learnt == [1, 1025]
        setting.stop()

    run_virtual(story())


def test_a_generation_that_cannot_be_kept_is_not_listened_to() -> None:
    async def story() -> None:
        setting = Setting()
        setting.full = True
        await asyncio.sleep(3)
        assert setting.master.streams == 0
        setting.full = False
        await asyncio.sleep(2)
        assert setting.link.live
        setting.stop()

    run_virtual(story())
