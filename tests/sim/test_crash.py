"""What a crash leaves of a log, and that nothing acknowledged was in what it takes."""

from __future__ import annotations

from random import Random

import pytest

from sparrow.authority.types import Term
from sparrow.base.ids import Epoch, Lsn, ReplicaId, ReplicaUuid
from sparrow.dataplane.model.log import Batch, ModelLog
from sparrow.dataplane.model.state import ModelFiles
from sparrow.sim.checkers import Violation
from sparrow.sim.logdisk import LogDisk, _Writing
from tests.support.stage import Stage, V, stage

TERM = Term(epoch=Epoch(1), start=1)


def files_with(entries: int, *, durable: int) -> ModelFiles:
    files = ModelFiles(
        replica_id=ReplicaId("r1"), uuid=ReplicaUuid("u"), size_bytes=1 << 20, block_size=4096
    )
    log = files.log
    for number in range(1, entries + 1):
        log.append(
            Batch(term=TERM, lsn=Lsn(number), parent=log.last_check, page=0, data=b"%d" % number)
        )
    log.undurable_after = Lsn(durable)
    files.applied = Lsn(durable)
    return files


def test_lost_power_leaves_a_prefix_of_the_write_in_flight_and_all_that_was_durable() -> None:
    ends = set()
    for seed in range(40):
        files = files_with(9, durable=4)
        disk = LogDisk(Random(seed), lambda *_: None)
        disk._writing[V] = _writing(files.log, handed=7)
        disk.crash(files, power=True)
        ends.add(int(files.log.last_lsn))
        assert files.log.torn
        assert files.log.durable_lsn == files.log.last_lsn
        assert files.applied <= 4
    assert ends == {4, 5, 6, 7}


def test_a_killed_process_leaves_what_the_kernel_had() -> None:
    files = files_with(9, durable=4)
    disk = LogDisk(Random(1), lambda *_: None)
    disk._writing[V] = _writing(files.log, handed=7)
    disk.crash(files, power=False)
    assert files.log.last_lsn == 7


def test_power_lost_everywhere_takes_tails_and_nothing_acknowledged() -> None:
    """Ten times the whole rack, in the middle of writes."""
    with stage(rf=3, min_in_sync=2) as s:
        assert sum(_lose_the_rack(s) for _ in range(10)) > 0


def test_an_acknowledgement_of_what_is_not_durable_is_a_violation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same, with followers and primaries that count what is only written."""
    with stage(rf=2, min_in_sync=1) as s:
        monkeypatch.setattr(ModelLog, "durable_lsn", property(lambda log: log.last_lsn))
        monkeypatch.setattr(LogDisk, "crash", _crash_to_what_is_durable)
        with pytest.raises(Violation, match="without LSN"):
            _lose_the_rack_often(s)


def _lose_the_rack_often(s: Stage) -> None:
    for _ in range(40):
        _lose_the_rack(s)


def _lose_the_rack(s: Stage) -> int:
    """Power goes while something is being written; how many logs lost a tail."""
    pools = s.world.pools
    before = s.acked
    s.until(lambda: s.acked > before + 1)
    s.until(
        lambda: any(pools[name].files[V].log.undurable_after is not None for name in s.world.names),
        look_s=0.0002,
    )
    ends = {name: pools[name].files[V].log.last_lsn for name in s.world.names}
    for name in s.world.names:
        s.world.kill_node(name, silently=True)
    cut = sum(pools[name].files[V].log.last_lsn < ends[name] for name in s.world.names)
    s.run(0.5)
    for name in s.world.names:
        s.world.start_node(name)
    s.until(s.world.all_healthy, seconds=60)
    return cut


def _crash_to_what_is_durable(_disk: LogDisk, files: ModelFiles, *, power: bool) -> None:
    assert power
    log = files.log
    end = log.last_lsn if log.undurable_after is None else min(log.undurable_after, log.last_lsn)
    log.cut(end)
    log.undurable_after = None


def _writing(log: ModelLog, *, handed: int) -> _Writing:
    return _Writing(log=log, handed=Lsn(handed))
