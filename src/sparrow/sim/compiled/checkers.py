"""What must be true of compiled cores after every step; who may act on which line is checked as in ``sim.checkers``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sparrow.authority.quorum import answers_needed, commits_on_some
from sparrow.authority.types import Line, Member
from sparrow.base.ids import Epoch, NodeId, VolumeId
from sparrow.dataplane.virtual import Room
from sparrow.sim.checkers import Checkers
from sparrow.sim.compiled.plane import CompiledDataPlane, Inside
from sparrow.sim.compiled.survival import Mark, Survival


class CompiledCheckers(Checkers):
    """At most one serves, it has everything acknowledged, and so has every member of the in-sync set, dead or alive."""

    def __init__(
        self,
        room: Room,
        planes: Callable[[], Iterable[tuple[NodeId, CompiledDataPlane]]],
        *,
        local: bool = False,
    ) -> None:
        super().__init__({}, planes)  # type: ignore[arg-type]  # two twins of one port, as the base class uses them
        self._room = room
        self._planes = planes
        self._local = local
        self._survivals: dict[VolumeId, Survival] = {}
        #: Of each volume, uuid of the files that lead in an epoch.
        self._leaders: dict[VolumeId, dict[Epoch, str]] = {}
        #: The highest LSN that any client has an answer for; under ack=local the highest one that is committed by then.
        self.acked_lsn: dict[VolumeId, int] = {}
        #: Nodes whose log somebody shortened: what is gone is not held against them, only what they do without it.
        self.shortened: set[NodeId] = set()
        #: What the cores of killed processes had on their disks.
        self._resting: dict[tuple[NodeId, VolumeId], Inside] = {}
        #: Openings of gates that were looked at.
        self._openings = 0
        #: Volumes with a write that was answered in this step.
        self._answered: set[VolumeId] = set()

    def acked_up_to(self, volume_id: VolumeId, lsn: int) -> None:
        """A client has the answer to a write."""
        if lsn > self.acked_lsn.get(volume_id, 0):
            self.acked_lsn[volume_id] = lsn
            self._answered.add(volume_id)

    def survival_of(self, volume_id: VolumeId) -> Survival | None:
        """What becomes of answered writes of a volume with ack=local; None under the other policies."""
        if not self._local:
            return None
        if volume_id not in self._survivals:
            leaders = self._leaders.setdefault(volume_id, {})
            self._survivals[volume_id] = Survival(volume_id, leaders, self._fail)
        return self._survivals[volume_id]

    def durable(self, store: int, generation: int, lines: Sequence[Line]) -> None:
        super().durable(store, generation, lines)
        for line in lines:
            leaders = self._leaders.setdefault(line.volume_id, {})
            leaders[line.lineage.epoch] = line.primary_member.uuid

    def answered(self, volume_id: VolumeId, mark: Mark) -> None:
        """A client has the answer to a write, which has committed unless its policy is ack=local."""
        survival = self.survival_of(volume_id)
        if survival is None:
            self.acked_up_to(volume_id, mark.lsn)
        else:
            survival.acknowledged(mark)
            self.acked_up_to(volume_id, min(mark.lsn, mark.commit))

    def dies(self, node: NodeId, plane: CompiledDataPlane) -> None:
        """A process is killed now. What was durable stays so: of what it had under way more may be."""
        for volume_id, inside in plane.insides():
            self._resting[node, volume_id] = inside

    def after_step(self) -> None:
        room = self._room
        if room.bug is not None:
            self._fail(room.bug)
        if room.openings != self._openings:
            self._openings = room.openings
            self._check_gates()
        if self._touched:
            self._touched = False
            self._answered.clear()
            self._check_files()
        elif self._answered:
            self._check_disks(self._answered)
            self._answered.clear()
        if self._found is not None:
            raise self._found

    def _check_gates(self) -> None:
        """When somebody began to serve: nobody else does, stopped ones included, and it has everything."""
        serving: dict[VolumeId, NodeId] = {}
        for node, plane in self._planes():
            for volume_id in plane.open_gates:
                other = serving.setdefault(volume_id, node)
                if other != node:
                    self._fail(f"{other} and {node} may both serve {volume_id}")
                self._check_whole(plane, node, volume_id)
                survival = self.survival_of(volume_id)
                if survival is not None:
                    survival.opened(node, plane.terms(volume_id))

    def _check_whole(self, plane: CompiledDataPlane, node: NodeId, volume_id: VolumeId) -> None:
        inside = plane.look(volume_id)
        acked = self.acked_lsn.get(volume_id, 0)
        if inside is not None and inside.commit < acked:
            self._fail(
                f"{node} serves {volume_id} with commit {inside.commit}, and {acked} was acknowledged"
            )

    def _check_recovered(self, line: Line) -> None:
        """A stale replica takes over: only by an operator's word, and what clients have an answer for is not lost.

        Their histories have no word for a loss: what is given up is written by somebody whom nobody checks.
        """
        kept_lsn = self._windows.pop(line.volume_id, None)
        acked = self.acked_lsn.get(line.volume_id, 0)
        if kept_lsn is None or kept_lsn < acked:
            self._fail(
                f"{line.volume_id} goes on from a stale replica, and {acked} was acknowledged"
            )

    def _check_files(self) -> None:
        self._check_disks(tuple(self.newest))

    def _check_disks(self, volumes: Iterable[VolumeId]) -> None:
        """Whoever the newest line counts as in sync has on its disk what was acknowledged, as far as policy says."""
        planes = dict(self._planes())
        for volume_id in volumes:
            line = self.newest.get(volume_id)
            if line is None or line.retired:
                continue
            found = [
                why
                for member in line.members
                if member.replica_id in line.in_sync
                and (why := self._lacks(line, member, planes.get(member.node_id)))
            ]
            spared = answers_needed(line) - 1 if commits_on_some(line) else 0
            if len(found) > spared:
                self._fail(found[0])

    def somebody_lags(self) -> bool:
        """Whether a member of a set in which an entry commits on some lacks what was acknowledged."""
        planes = dict(self._planes())
        return any(
            self._lacks(line, member, planes.get(member.node_id))
            for line in self.newest.values()
            if not line.retired and commits_on_some(line)
            for member in line.members
            if member.replica_id in line.in_sync
        )

    def _lacks(self, line: Line, member: Member, plane: CompiledDataPlane | None) -> str:
        """What a member in sync does not have; empty when it has everything, or nobody can look."""
        acked = self.acked_lsn.get(line.volume_id, 0)
        inside = None if plane is None else plane.look(line.volume_id)
        if inside is None:
            inside = self._resting.get((member.node_id, line.volume_id))
        if inside is None or inside.uuid != member.uuid or member.node_id in self.shortened:
            return ""
        if inside.durable >= acked or inside.suspect:
            return ""
        return (
            f"{member.replica_id} of {line.volume_id} is in sync at {line.lineage} with durable LSN "
            f"{inside.durable}, and {acked} was acknowledged"
        )
