"""Random asks, restarts, failed writes and damaged rows: a line never goes back and never lies."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sparrow.authority.invariants import check
from sparrow.authority.results import Minted
from sparrow.authority.types import Intent, Line, Lineage
from sparrow.base.ids import ReplicaId, VolumeId
from sparrow.store.memory import MemoryDisk
from tests.support.authority import ask, lineage, member, members, new_publisher, shape

VOLUMES = st.sampled_from(["a", "b"])
REPLICAS = st.sampled_from(["r1", "r2", "r3", "r4"])


class PublisherMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.highest: dict[str, Lineage] = {}
        self.delivered: list[Line] = []

    @initialize()
    def boot(self) -> None:
        self.disk.crash()
        self.disk.faults.clear()
        self.publisher = new_publisher(self.disk)
        self.reader = self.publisher.subscribe(None)
        self.reader.take()

    @rule()
    def restart(self) -> None:
        self.boot()

    @rule(cause=st.sampled_from(["no space", None]))
    def put_will_fail(self, cause: str | None) -> None:
        self.disk.faults.append(cause)

    @rule(volume=VOLUMES)
    def damage(self, volume: str) -> None:
        if VolumeId(volume) in self.disk.lines:
            self.disk.damage_line(VolumeId(volume))

    @rule(
        volume=VOLUMES,
        intent=st.sampled_from(list(Intent)),
        replica=REPLICAS,
        asker=REPLICAS,
        count=st.integers(1, 4),
        current=st.booleans(),
        basis=st.tuples(st.integers(0, 5), st.integers(0, 5)),
        flag=st.booleans(),
    )
    def apply(  # noqa: PLR0917 - hypothesis passes them by name
        self,
        volume: str,
        intent: Intent,
        replica: str,
        asker: str,
        count: int,
        current: bool,
        basis: tuple[int, int],
        flag: bool,
    ) -> None:
        recorded = self.publisher.line(VolumeId(volume))
        at = recorded.lineage if current and recorded else lineage(*basis)
        some = (member(int(replica[1:])),) if intent is Intent.REFRESH_ENDPOINT else members(count)
        wanted = ask(
            intent,
            volume_id=VolumeId(volume),
            replica_id=ReplicaId(replica),
            asker=ReplicaId(asker),
            basis=None if intent is Intent.BIND and recorded is None else at,
            members=some,
            shape=shape(min(count, 3)),
            from_eligible=flag,
            clear_eligible=flag,
        )
        before = dict(self.disk.lines)
        result = self.publisher.apply(wanted)
        if isinstance(result, Minted):
            assert self.disk.lines[result.line.volume_id].epoch == result.line.lineage.epoch
            assert before != self.disk.lines
        self.delivered.extend(self.reader.take())

    @invariant()
    def lines_only_grow(self) -> None:
        for line in self.delivered:
            check(line)
            held = self.highest.get(line.volume_id)
            assert held is None or line.lineage > held, "delivered lineage went back"
            self.highest[line.volume_id] = line.lineage
        self.delivered.clear()
        for volume, row in self.disk.lines.items():
            held = self.highest.get(volume)
            assert held is None or (row.epoch, row.endpoint_version) >= (
                held.epoch,
                held.endpoint_version,
            ), "the stored lineage went back"


TestPublisherMachine = PublisherMachine.TestCase
TestPublisherMachine.settings = settings(max_examples=60, stateful_step_count=40)
