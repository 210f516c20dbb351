"""The sole minter: turns asks into lines, one record per volume, durable before anybody hears of it.

An ask is validated, its basis compared with the recorded line, the next line computed and checked, written to the
store, and only then remembered and delivered. A write that fails leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from sparrow.authority.invariants import check_recovered, check_transition
from sparrow.authority.mint import MintRefused, next_line
from sparrow.authority.ordered import OrderedNames
from sparrow.authority.recovery import Mark, Recovered
from sparrow.authority.results import AskResult, Minted, PutFailed, Refusal, RefusedAsk, Unchanged
from sparrow.authority.subscription import Subscription
from sparrow.authority.types import Ask, Line, LoadedLines, SkippedRecord
from sparrow.authority.validation import fault
from sparrow.base.errors import SparrowError
from sparrow.base.ids import ReplicaId, VolumeId

#: ``(line, leaving)``: can a peer that reaches the others take over, so that the shrink need not be minted?
CanHandOver = Callable[[Line, ReplicaId], bool]


class LineStore(Protocol):
    """Where lines are kept. Called by the publisher alone."""

    @property
    def epoch_floor(self) -> int:
        """What epochs of volumes without a line begin above (``authority.floor``); 0 in a cluster's first store."""
        ...

    def load_with_skips(self) -> LoadedLines:
        """Every line that can be believed and every record that cannot.

        Raises:
            StorageError: the store as a whole cannot be read; the master must not start.
        """
        ...

    def put_lines(self, lines: Sequence[Line]) -> None:
        """Make lines durable, all or none.

        Raises:
            SparrowError: not durable, nothing changed; also when a stored line is not older than the new one.
        """
        ...

    def load_marks(self) -> tuple[Mark, ...]:
        """Volumes that are unconfirmed, sorted by id."""
        ...

    def put_recovered(self, recovered: Recovered) -> None:
        """Take a volume over in one change: its line, its desired volume, the audit entry; its mark goes.

        A damaged row is kept aside.

        Raises:
            SparrowError: not durable, nothing changed; also when a row that can be read is not older than the line.
        """
        ...


def _never(_line: Line, _leaving: ReplicaId) -> bool:
    return False


class Publisher:
    """Owner of every volume's line.

    Args:
        store: where lines become durable; nobody else may call its ``put_lines``.
        master_generation: of this boot, durable already; carried by every line minted here.
        can_hand_over: asked before a shrink that goes below ``min_in_sync``.
    """

    def __init__(
        self,
        store: LineStore,
        master_generation: int,
        *,
        can_hand_over: CanHandOver = _never,
    ) -> None:
        assert master_generation >= 1, "a master has raised its generation before it mints"
        self.master_generation = master_generation
        self._store = store
        self._can_hand_over = can_hand_over
        #: Epochs of volumes without a line begin above it.
        self.epoch_floor = store.epoch_floor
        self._lines: dict[VolumeId, Line] = {}
        self._names = OrderedNames()
        self._skips: tuple[SkippedRecord, ...] = ()
        self._quarantined: frozenset[VolumeId] = frozenset()
        self._unconfirmed: dict[VolumeId, Mark] = {}
        self._unconfirmed_names = OrderedNames()
        #: Recorded lines of unconfirmed volumes: evidence for their recovery, delivered to nobody.
        self._doubted: dict[VolumeId, Line] = {}
        self._all: list[Subscription[Line]] = []
        self._by_volume: dict[VolumeId, list[Subscription[Line]]] = {}

    def load(self) -> LoadedLines:
        """Take over what the store holds; once, before the first ask.

        A record minted by a later generation than ours is not believed either: the store is a copy of something
        that went on without it. Lines of unconfirmed volumes are set aside: a node that was away would take such a
        line for the newest there is.
        """
        self._unconfirmed = {mark.volume_id: mark for mark in self._store.load_marks()}
        self._unconfirmed_names = OrderedNames(self._unconfirmed)
        loaded = self._store.load_with_skips()
        skips = list(loaded.skips)
        lines: dict[VolumeId, Line] = {}
        for line in loaded.lines:
            if line.master_generation > self.master_generation:
                cause = (
                    f"minted by master generation {line.master_generation}, "
                    f"this master is generation {self.master_generation}"
                )
                skips.append(SkippedRecord(volume_id=line.volume_id, cause=cause))
            elif line.volume_id in self._unconfirmed:
                self._doubted[line.volume_id] = line
            else:
                lines[line.volume_id] = line
        self._lines = lines
        self._names = OrderedNames(lines)
        self._skips = tuple(skips)
        self._quarantined = frozenset(
            skip.volume_id for skip in skips if skip.volume_id is not None
        )
        return LoadedLines(lines=tuple(lines.values()), skips=self._skips)

    @property
    def skips(self) -> tuple[SkippedRecord, ...]:
        """Records that were not believed at start."""
        return self._skips

    @property
    def lines(self) -> Mapping[VolumeId, Line]:
        """A read-only view of every recorded line, tombstones included."""
        return MappingProxyType(self._lines)

    @property
    def names(self) -> OrderedNames:
        """Volumes with a recorded line, tombstones included. To be read only."""
        return self._names

    def line(self, volume_id: VolumeId) -> Line | None:
        return self._lines.get(volume_id)

    def quarantined(self, volume_id: VolumeId) -> bool:
        """Whether the volume's record is not believed, so that nothing may be minted for it or delivered."""
        return volume_id in self._quarantined or volume_id in self._unconfirmed

    @property
    def unconfirmed(self) -> Mapping[VolumeId, Mark]:
        """Volumes that wait for the word of their nodes or of an operator."""
        return MappingProxyType(self._unconfirmed)

    @property
    def unconfirmed_names(self) -> OrderedNames:
        """Those volumes in order. To be read only."""
        return self._unconfirmed_names

    def doubted_line(self, volume_id: VolumeId) -> Line | None:
        """What an older copy of the store says of an unconfirmed volume."""
        return self._doubted.get(volume_id)

    def doubt(self, marks: Sequence[Mark]) -> None:
        """Take volumes as unconfirmed from now on; the marks are durable already and none has a line here."""
        for mark in marks:
            assert mark.volume_id not in self._lines, (
                "a recorded line is not doubted while it is in use"
            )
            self._unconfirmed[mark.volume_id] = mark
            self._unconfirmed_names.add(mark.volume_id)

    def recover(self, recovered: Recovered) -> None:
        """Take an unconfirmed volume over from what its nodes, or an operator, said.

        Raises:
            SparrowError: the store did not take it; nothing changed.
        """
        volume_id, line = recovered.volume_id, recovered.line
        assert volume_id not in self._lines, "a recorded line is never recovered over"
        if line is not None:
            assert line.master_generation == self.master_generation, "minted here"
            check_recovered(recovered.basis, line, epoch_floor=self.epoch_floor)
        self._store.put_recovered(recovered)
        self._unconfirmed.pop(volume_id, None)
        self._unconfirmed_names.discard(volume_id)
        self._doubted.pop(volume_id, None)
        self._quarantined -= {volume_id}
        self._skips = tuple(skip for skip in self._skips if skip.volume_id != volume_id)
        if line is not None:
            self._commit(line)

    def record_wish(self, recovered: Recovered) -> None:
        """Put what is wanted of a volume in the place of a damaged row; lines stay as they are.

        Raises:
            SparrowError: the store did not take it; nothing changed.
        """
        assert recovered.line is None, "a wish is no line"
        assert not self.quarantined(recovered.volume_id), "its line is believed, or there is none"
        self._store.put_recovered(recovered)

    def apply(self, ask: Ask) -> AskResult:
        """Apply one ask; see ``apply_all``."""
        return self.apply_all((ask,))[0]

    def apply_all(self, asks: Sequence[Ask]) -> tuple[AskResult, ...]:
        """Apply asks in order with one durable write for all their lines; results in the same order.

        When that write fails each ask is tried by itself, so that one bad record does not hold up the others.
        """
        results, pending = self._compute(asks)
        if pending:
            try:
                self._store.put_lines([minted.line for minted in pending])
            except SparrowError as error:
                if len(asks) == 1:
                    return (PutFailed(ask=asks[0], cause=str(error)),)
                return tuple(self.apply(ask) for ask in asks)
            for minted in pending:
                self._commit(minted.line)
        return tuple(results)

    def subscribe(
        self, volume_id: VolumeId | None, wake: Callable[[], None] | None = None
    ) -> Subscription[Line]:
        """A mailbox of one volume's newest line, or of every volume's (None).

        What is recorded now is in it when this returns: no gap, and nothing older than the newest.
        """
        subscription: Subscription[Line] = Subscription(wake) if wake else Subscription()
        if volume_id is None:
            for line in self._lines.values():
                subscription.offer(line.volume_id, line)
            self._all.append(subscription)
            return subscription
        recorded = self._lines.get(volume_id)
        if recorded is not None:
            subscription.offer(volume_id, recorded)
        self._by_volume.setdefault(volume_id, []).append(subscription)
        return subscription

    def close(self) -> None:
        """Close every live subscription."""
        for subscription in self._subscriptions():
            subscription.close()
        self._all.clear()
        self._by_volume.clear()

    def _compute(self, asks: Sequence[Ask]) -> tuple[list[AskResult], list[Minted]]:
        """Results as if the write succeeded, and the mints that need it. Nothing is remembered yet."""
        overlay: dict[VolumeId, Line] = {}
        results: list[AskResult] = []
        pending: list[Minted] = []
        for ask in asks:
            old = overlay.get(ask.volume_id, self._lines.get(ask.volume_id))
            result, line = self._decide(ask, old)
            results.append(result)
            if line is not None:
                check_transition(old, line, epoch_floor=self.epoch_floor)
                overlay[ask.volume_id] = line
                pending.append(Minted(ask=ask, line=line, previous=old))
        return results, pending

    def _decide(self, ask: Ask, old: Line | None) -> tuple[AskResult, Line | None]:
        """The result of one ask, and the line it mints if any.

        A refused Grow whose basis is the recorded line mints too: only a newer line makes sure that a delayed
        copy of the same ask, which its sender has stopped waiting for, is never applied.
        """
        found = fault(ask)
        if found is not None:
            return _refused(ask, found[0], found[1], old), None
        if self.quarantined(ask.volume_id):
            text = "the volume's record is damaged or unconfirmed; nothing is minted until that is mended"
            return _refused(ask, Refusal.QUARANTINED, text, old), None
        try:
            line = next_line(
                old,
                ask,
                self.master_generation,
                self._can_hand_over,
                epoch_floor=self.epoch_floor,
            )
        except MintRefused as refused:
            burnt = refused.burnt
            return _refused(ask, refused.refusal, str(refused), burnt or old), burnt
        if line is None:
            assert old is not None, "nothing to change means there is a line"
            return Unchanged(ask=ask, line=old), None
        return Minted(ask=ask, line=line, previous=old), line

    def _commit(self, line: Line) -> None:
        self._lines[line.volume_id] = line
        self._names.add(line.volume_id)
        for subscription in (*self._all, *self._by_volume.get(line.volume_id, ())):
            subscription.offer(line.volume_id, line)
        self._drop_closed(line.volume_id)

    def _drop_closed(self, volume_id: VolumeId) -> None:
        self._all = [one for one in self._all if not one.closed]
        left = [one for one in self._by_volume.get(volume_id, ()) if not one.closed]
        if left:
            self._by_volume[volume_id] = left
        else:
            self._by_volume.pop(volume_id, None)

    def _subscriptions(self) -> Iterator[Subscription[Line]]:
        yield from self._all
        for some in self._by_volume.values():
            yield from some


def _refused(ask: Ask, code: Refusal, message: str, recorded: Line | None) -> RefusedAsk:
    return RefusedAsk(ask=ask, code=code, message=message, basis=ask.basis, recorded=recorded)
