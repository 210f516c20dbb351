"""The disk under the logs of one simulated node: a write takes time, and what a crash leaves depends on its kind.

Entries are appended in memory first. One write per volume is in flight; what is appended meanwhile goes with the next
one (group commit). A killed process leaves what it had handed to the kernel. A machine that loses power leaves what
was durable, and of the write in flight a prefix that ends anywhere: the torn batch behind it is cut when the log is
walked. Nothing between the two is ever acknowledged, shipped entries excepted: those count where they are durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from sparrow.base.ids import Lsn, VolumeId
from sparrow.dataplane.model.log import ModelLog
from sparrow.dataplane.model.state import ModelFiles, ModelVolume

#: What one write takes, and what it takes now and then.
WRITE_S: Final = (0.0002, 0.003)
SLOW_WRITE_S: Final = (0.03, 0.4)
SLOW_CHANCE: Final = 0.02


@dataclass(slots=True)
class _Writing:
    """One run of writes, from the first entry that is not durable until none is left. ``handed`` is in the kernel."""

    log: ModelLog
    handed: Lsn


class LogDisk:
    """Schedules the writes of one process.

    Args:
        flushed: more of a volume's log is durable.
    """

    def __init__(self, rng: Random, flushed: Callable[[VolumeId, ModelVolume], None]) -> None:
        self._rng = rng
        self._flushed = flushed
        self._writing: dict[VolumeId, _Writing] = {}
        #: What every write takes besides; a hung disk finishes none.
        self.delay_s = 0.0
        self.hung = False

    def before_write(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        """Entries are appended in this turn."""
        log = volume.files.log
        if log.undurable_after is None:
            log.undurable_after = log.last_lsn
            run = _Writing(log=log, handed=log.last_lsn)
            self._writing[volume_id] = run
            asyncio.get_running_loop().call_soon(self._submit, volume_id, volume, run)

    def crash(self, files: ModelFiles, *, power: bool) -> None:
        """The process ends here and now. What it knew to be committed is forgotten back to some checkpoint."""
        log = files.log
        handed = max((run.handed for run in self._writing.values() if run.log is log), default=0)
        durable = log.durable_lsn
        handed = max(durable, min(handed, log.last_lsn))
        log.crash(survives=Lsn(self._rng.randint(durable, handed) if power else handed))
        files.applied = Lsn(self._rng.randint(log.base_lsn, max(log.base_lsn, files.applied)))

    def _submit(self, volume_id: VolumeId, volume: ModelVolume, run: _Writing) -> None:
        if self._writing.get(volume_id) is not run or run.log.undurable_after is None:
            return
        run.handed = run.log.last_lsn
        slow = self._rng.random() < SLOW_CHANCE
        took = self._rng.uniform(*(SLOW_WRITE_S if slow else WRITE_S)) + self.delay_s
        if self.hung:
            return
        asyncio.get_running_loop().call_later(took, self._done, volume_id, volume, run)

    def _done(self, volume_id: VolumeId, volume: ModelVolume, run: _Writing) -> None:
        log = run.log
        if self._writing.get(volume_id) is not run or log.undurable_after is None:
            return  # a command flushed it, or emptied the files, meanwhile
        if volume.files.log is not log:
            return
        if log.last_lsn > run.handed:
            log.undurable_after = run.handed
            self._submit(volume_id, volume, run)
        else:
            log.undurable_after = None
        self._flushed(volume_id, volume)
