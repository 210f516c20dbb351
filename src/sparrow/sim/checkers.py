"""What must be true after every step, whatever happened to whom.

Safety only; that things go well again once the faults stop is asked by ``sim.run``. Everything is compared with what
was durable in the master's store and in the nodes' files, not with what any process believes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sparrow.authority.quorum import answers_needed, commits_on_some
from sparrow.authority.types import Line, Lineage, Member
from sparrow.base.ids import Epoch, Lsn, NodeId, ReplicaId, VolumeId
from sparrow.dataplane.model.state import ModelFiles, ModelPool
from sparrow.sim.node import SimDataPlane


class Violation(Exception):
    """Something that must never be true was."""


class Bug(Violation):
    """A part of the cluster raised what it has no name for: a run fails by it, and it says nothing of a rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acked:
    """The newest acknowledged write; by its parents it names all before it. ``epoch``: whose primary answered."""

    epoch: Epoch
    lsn: Lsn
    check: int


class Checkers:
    """Watches one simulation.

    Args:
        pools: every node's files.
        dataplanes: of the nodes whose process lives, stopped ones included.
    """

    def __init__(
        self,
        pools: Mapping[NodeId, ModelPool],
        dataplanes: Callable[[], Iterable[tuple[NodeId, SimDataPlane]]],
    ) -> None:
        self._pools = pools
        self._dataplanes = dataplanes
        self.newest: dict[VolumeId, Line] = {}
        self.acked: dict[VolumeId, Acked] = {}
        #: Every acknowledged write that must still be there, oldest first.
        self._history: dict[VolumeId, list[Acked]] = {}
        #: Told what is the last LSN that is left after a recovery.
        self.on_loss: Callable[[VolumeId, Lsn], None] = lambda _volume_id, _lsn: None
        #: Up to where an operator was told that everything is kept.
        self._windows: dict[VolumeId, Lsn] = {}
        self.minted = 0
        #: Told when a tombstone is durable.
        self.on_deleted: Callable[[VolumeId, Epoch], None] = lambda _volume_id, _epoch: None
        #: Volumes that somebody deleted at some time.
        self.deleted: set[VolumeId] = set()
        #: Epoch of the newest tombstone: what was acknowledged up to it is given up.
        self._over: dict[VolumeId, Epoch] = {}
        #: Last epoch of a life that a restored store knew nothing of when it began another one under the same name.
        self._past: dict[VolumeId, Epoch] = {}
        self._durable: dict[tuple[VolumeId, Lineage], Line] = {}
        self._primaries: dict[tuple[VolumeId, Epoch], ReplicaId] = {}
        #: Per store: its newest lines and the generation that minted last.
        self._stores: dict[int, tuple[dict[VolumeId, Line], list[int]]] = {}
        self._told: dict[tuple[NodeId, VolumeId], Line] = {}
        self._files: dict[str, Lineage] = {}
        self._open: set[tuple[NodeId, VolumeId]] = set()
        #: Two gates of one volume stand open; only one of them may hold its rights.
        self._doubled = False
        self._touched = True
        self._found: BaseException | None = None

    # ------------------------------------------------------------ what happened

    def durable(self, store: int, generation: int, lines: Sequence[Line]) -> None:
        """A store took these lines from the master of this generation.

        Of each store the lines go forward and are those of its newest master. Of all stores together, when one was
        restored beside another, no two lines of one lineage differ and no epoch has two primaries.
        """
        newest, newest_generation = self._stores.setdefault(store, ({}, [0]))
        for line in lines:
            self.minted += 1
            where = (line.volume_id, line.lineage)
            held = newest.get(line.volume_id)
            if where in self._durable:
                self._fail(f"{_name(line)} was minted twice")
            if held is not None and line.lineage <= held.lineage:
                self._fail(f"{_name(line)} was minted after {_name(held)}")
            if line.master_generation != generation or generation < newest_generation[0]:
                self._fail(f"{_name(line)} is not of the one living master")
            primary = self._primaries.setdefault((line.volume_id, line.lineage.epoch), line.primary)
            if primary != line.primary:
                self._fail(f"{_name(line)} names {line.primary}, its epoch began with {primary}")
            if held is not None and _passes_over_everyone(held, line):
                self._check_recovered(line)
            if held is not None and _thins_out(held, line):
                self._fail(
                    f"{_name(line)} has {len(line.members)} of {line.replication_factor} members"
                )
            newest_generation[0] = generation
            self._durable[where] = line
            newest[line.volume_id] = line
            self._note_newest(line)
        self._touched = True

    def _note_newest(self, line: Line) -> None:
        """What a replaced master mints concerns nobody once its successor has minted, whatever its epoch."""
        held = self.newest.get(line.volume_id)
        if held is not None and _order(line) < _order(held):
            return
        self.newest[line.volume_id] = line
        if line.retired:
            self._over[line.volume_id] = line.lineage.epoch
            self.deleted.add(line.volume_id)
            self.acked.pop(line.volume_id, None)
            self._history.pop(line.volume_id, None)
            # A backup may remember a deletion, and not that the volume was made again: that life ends too, if no node
            # that has it was heard (``ended_in_silence``).
            epochs = [one.lineage.epoch for one in (line, held) if one is not None]
            self.on_deleted(line.volume_id, max(epochs))

    def recovered(self, lines: Sequence[Line]) -> None:
        """Nodes proved these lines. A volume whose deletion no node had heard of goes on with what it holds."""
        for line in lines:
            if not line.retired and self._over.pop(line.volume_id, None) is not None:
                self.on_deleted(line.volume_id, Epoch(0))

    def begins(self, store: int, generation: int, lines: Sequence[Line]) -> None:
        """Another store begins, with these lines. What was recorded beyond them is known to nodes or to nobody."""
        self._stores[store] = ({line.volume_id: line for line in lines}, [generation])

    def forget_volume(self, volume_id: VolumeId) -> None:
        """Nobody remembers that there ever was such a volume; its epochs are not used again all the same."""
        self.newest.pop(volume_id, None)
        self.acked.pop(volume_id, None)
        self._history.pop(volume_id, None)
        self._over.pop(volume_id, None)
        self.on_deleted(volume_id, Epoch(0))

    def unknown_life(self, store: int, line: Line) -> Line | None:
        """The newest line of a life that a line is about to begin another one beside, in a store without any of it."""
        held = self.newest.get(line.volume_id)
        if held is None or held.retired or line.retired or _order(line) < _order(held):
            return None
        return held if line.volume_id not in self._stores.get(store, ({}, []))[0] else None

    def life_ended_by(self, line: Line) -> Line | None:
        """The newest line of a life that a tombstone is about to end."""
        held = self.newest.get(line.volume_id)
        return None if held is None or held.retired or _order(line) < _order(held) else held

    def ended_in_silence(self, tombstone: Line, acted_on: Line, node: NodeId) -> None:
        """A master took a deletion for the end of a volume by itself, and knew a node of its next life."""
        self._fail(f"{_name(tombstone)} ends {_name(acted_on)} of {node}, which was heard")

    def begins_anew(self, line: Line) -> None:
        """A volume begins with this line, and the one that had its name is given up with all that it holds."""
        volume_id, past = line.volume_id, Epoch(line.lineage.epoch - 1)
        self.acked.pop(volume_id, None)
        self._history.pop(volume_id, None)
        self._past[volume_id] = past
        self.on_deleted(volume_id, past)

    def told(self, node: NodeId, line: Line, *, in_stream: bool) -> None:
        """A node hears of a line; nothing it did with it happened yet."""
        self._check_durable(line, f"{node} was told")
        where = (node, line.volume_id)
        before = self._told.get(where)
        # A line that only a lost store knew, and that this node was told and never wrote down, is as if unsaid.
        if (
            in_stream
            and before is not None
            and line.lineage < before.lineage
            and line.master_generation <= before.master_generation
        ):
            self._fail(f"{node} was told {_name(line)} after {_name(before)}")
        if in_stream:
            self._told[where] = line

    def stale(self, node: NodeId, line: Line) -> None:
        """A stream gave a line that had been replaced before the stream began."""
        self._fail(f"{node} subscribed and was told {_name(line)}, which was over by then")

    def acknowledged(self, volume_id: VolumeId, acked: Acked) -> None:
        """A client has the answer to a write."""
        if acked.epoch <= max(self._over.get(volume_id, 0), self._past.get(volume_id, 0)):
            return
        self._history.setdefault(volume_id, []).append(acked)
        before = self.acked.get(volume_id)
        if before is None or acked.lsn > before.lsn:
            self.acked[volume_id] = acked
        self._touched = True

    def loss_named(self, volume_id: VolumeId, kept_lsn: Lsn) -> None:
        """An operator was told that a recovery from a stale replica loses nothing up to here, and wants it."""
        self._windows[volume_id] = kept_lsn

    def touched(self) -> None:
        """Files changed."""
        self._touched = True

    def forget(self, node: NodeId, volume_id: VolumeId) -> None:
        """The files of a replica were destroyed by the world."""
        self._told.pop((node, volume_id), None)

    def report(self, text: str) -> None:
        """A violation found elsewhere; it ends the run at the end of this step."""
        self._fail(text)

    def bug(self, text: str) -> None:
        """An error that nobody of the cluster expects; it ends the run at the end of this step."""
        if self._found is None:
            self._found = Bug(text)

    def interrupted(self, error: BaseException) -> None:
        """Who watches over the run ended it in the middle of a step, by a timeout: nobody in the cluster failed."""
        self._found = error

    # ------------------------------------------------------------ after every step

    def after_step(self) -> None:
        """Raises: Violation, or what interrupted the run."""
        if self._touched or self._doubled:
            self._check_gates()
        if self._touched:
            self._touched = False
            self._check_files()
        if self._found is not None:
            raise self._found

    def _check_gates(self) -> None:
        """At most one replica of a volume may serve, and it holds everything that was acknowledged.

        Asked when a gate moved, and at every step while two of one volume stand open: rights run out by themselves.
        """
        gates = [
            (node, volume_id, dataplane)
            for node, dataplane in self._dataplanes()
            for volume_id in dataplane.open_gates
            if not self._is_past(node, volume_id)
        ]
        self._doubled = len(gates) > len({volume_id for _, volume_id, _ in gates})
        now_open = {
            (node, volume_id)
            for node, volume_id, dataplane in gates
            if dataplane.may_serve(volume_id)
        }
        serving: dict[VolumeId, NodeId] = {}
        for node, volume_id in sorted(now_open):
            other = serving.setdefault(volume_id, node)
            if other != node:
                self._fail(f"{other} and {node} may both serve {volume_id}")
        for node, volume_id in sorted(now_open - self._open):
            self._check_serves_all(node, volume_id)
        self._open = now_open

    def _is_past(self, node: NodeId, volume_id: VolumeId) -> bool:
        """Whether a node serves a life that is given up: it has not heard of the other one."""
        if volume_id not in self._past:
            return False
        line = self._pools[node].files[volume_id].line
        return line is not None and line.lineage.epoch <= self._past[volume_id]

    def _check_serves_all(self, node: NodeId, volume_id: VolumeId) -> None:
        files, acked = self._pools[node].files[volume_id], self.acked.get(volume_id)
        if acked is None:
            return
        if not _holds(files, acked) or files.applied < acked.lsn:
            self._fail(
                f"{node} serves {volume_id} with commit {files.applied} of {files.log.last_lsn}, "
                f"and {acked.lsn} was acknowledged"
            )

    def _check_recovered(self, line: Line) -> None:
        """A replica that was not in sync takes over: only by an operator's word, and only what was named is lost."""
        volume_id, member = line.volume_id, line.primary_member
        kept_lsn = self._windows.pop(volume_id, None)
        files = None if kept_lsn is None else self._files_of(member, volume_id)
        if kept_lsn is None or files is None:
            self._fail(f"{_name(line)} passes over everyone who has the acknowledged writes")
            return
        history = self._history.get(volume_id, [])
        held = [one for one in history if _holds(files, one)]
        lost = [one.lsn for one in history if one not in held and one.lsn <= kept_lsn]
        if lost:
            self._fail(f"{_name(line)} loses {lost[0]}, everything to {kept_lsn} was to be kept")
        self._history[volume_id] = held
        self.acked.pop(volume_id, None)
        if held:
            self.acked[volume_id] = max(held, key=lambda one: one.lsn)
        self.on_loss(volume_id, self.acked[volume_id].lsn if held else Lsn(0))

    def _check_files(self) -> None:
        """What files hold: only durable lines, never older ones; acknowledged writes wherever they must be."""
        for node, pool in self._pools.items():
            for volume_id, files in pool.files.items():
                line = files.line
                if line is None:
                    continue
                before = self._files.get(files.uuid)
                if before == line.lineage:
                    continue
                self._check_durable(line, f"{node} acts on")
                if before is not None and line.lineage < before:
                    self._fail(f"{node} went back from {before} to {_name(line)} of {volume_id}")
                self._files[files.uuid] = line.lineage
        for volume_id, acked in self.acked.items():
            line = self.newest[volume_id]
            if line.retired:
                continue
            # Where an entry commits on some, so many may lack it that any that must answer an opening do not.
            spared = answers_needed(line) - 1 if commits_on_some(line) else 0
            for replica_id in line.in_sync:
                member = line.member(replica_id)
                held = None if member is None else self._files_of(member, volume_id)
                if held is not None and not _holds(held, acked):
                    spared -= 1
                if held is not None and not _holds(held, acked) and spared < 0:
                    self._fail(
                        f"{replica_id} is in sync by {_name(line)} without LSN {acked.lsn}: "
                        f"its log ends at {held.log.last_lsn}, state {held.state}"
                    )

    def _files_of(self, member: Member, volume_id: VolumeId) -> ModelFiles | None:
        """None when these very files were destroyed."""
        files = self._pools[member.node_id].files.get(volume_id)
        return files if files is not None and files.uuid == member.uuid else None

    def _check_durable(self, line: Line, who: str) -> None:
        held = self._durable.get((line.volume_id, line.lineage))
        if held is None:
            self._fail(f"{who} {_name(line)}, which was never durable")
        elif held != line:
            self._fail(f"{who} another {_name(line)} than the durable one")

    def _fail(self, text: str) -> None:
        if self._found is None:
            self._found = Violation(text)


def _holds(files: ModelFiles, acked: Acked) -> bool:
    log = files.log
    return log.base_lsn > acked.lsn or log.check_at(acked.lsn) == acked.check


def _passes_over_everyone(held: Line, line: Line) -> bool:
    """The next epoch begins with somebody who was not in sync. Lines recovered from nodes skip epochs."""
    next_one = line.lineage.epoch == held.lineage.epoch + 1
    return next_one and not held.retired and line.primary not in (*held.in_sync, *held.eligible)


def _thins_out(held: Line, line: Line) -> bool:
    """A member was given up that nobody stands in for."""
    fewer = len(line.members) < min(len(held.members), line.replication_factor)
    return fewer and not held.retired and not line.retired


def _order(line: Line) -> tuple[int, Lineage]:
    return (line.master_generation, line.lineage)


def _name(line: Line) -> str:
    lineage = line.lineage
    who = ",".join(line.in_sync)
    return f"{line.volume_id}({lineage.epoch},{lineage.endpoint_version}) {line.primary}{{{who}}}"
