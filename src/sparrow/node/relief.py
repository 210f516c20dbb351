"""When a primary asks to be relieved for its pace, and for how long a replica is none to hand over to (L9).

A hand-over costs seconds without a primary, and where all disks are equally slow it makes nothing better: the successor
asks for the next one. So a primary asks only when it has seen that another is better. It can see that: an entry is in
its own log and in those of its peers, so what they take for it is compared over the same entries and the same time.

- Its own disk is slow: an entry has waited for the own log for more than GRAY_S. It asks when a peer in sync has it,
  and was not late for long before (``Pace.quick``). With no such peer it stays.
- Every peer is slow to it (``all_slow``), so it may be what is between: it asks when its own disk was quick for CALM_S,
  else it is the load, or all disks. Whether it was this replica is seen only afterwards, so having asked it does not
  ask for that again until a pause is over.

Whoever was slow is not to be handed a volume again because the next one is slow, too: as a follower it says so until a
pause is over that doubles with every time, up to ten minutes. It is kept here and not by the master, which may be
another one by then; a node that restarts has forgotten it, which costs one hand-over.

Safety: nothing here is more than a word in a heartbeat. The controller alone decides, on the evidence and by the rules
of every other Reassign; lines, fences and in-sync sets do not know of it.

Liveness: a disk that failed is told as failed and never passes through here. One that hangs is left at the first wish.
When no peer is quick, or nobody may follow a wish because the others were slow lately, it is left all the same after
HUNG_S without one entry more on disk, as one that is not ready (``hung``): need passes over wishes
(``authority.decide``). All that takes is one peer in sync that has more on its disk, however slow that is; where there
is none all of them hang, and whoever leads is as good as another. Who opens and does not serve yet may have nobody to
compare with and loses nothing, so it is ``hung`` without.
"""

from __future__ import annotations

import math
from typing import Final

from sparrow.base.ids import Lsn
from sparrow.node.pace import CALM_ACK_S, CALM_S, GrowingPause

#: A write of the own log that is outstanding for longer makes the disk one to get away from.
GRAY_S: Final = 1.0
#: One that hung is not trusted again at once.
GRAY_HOLD_S: Final = 10.0
#: Without one more entry on disk, it does not serve.
HUNG_S: Final = 10.0
#: A replica that was slow is none to hand over to for so long, the first time: many times what a hand-over costs.
PAUSE_FIRST_S: Final = 60.0
#: Between two looks; after longer it was this process that stood still, and what waited did not wait for the disk.
STILL_S: Final = 1.0


class Relief:
    """What one replica says of itself as a primary, from looks at its core. Times are the node's clock, seconds."""

    def __init__(self) -> None:
        self._slow_until = 0.0
        self._asks_until = 0.0
        self._slow_pause = GrowingPause(PAUSE_FIRST_S)
        #: Nobody else's pace counts: it asks because every peer is slow.
        self._asks_for_all = False
        self._all_pause = GrowingPause(PAUSE_FIRST_S)
        self._calm_since: float | None = None
        self._looked_at = -math.inf
        #: The newest entry on disk, and since when it is while others wait.
        self._durable = Lsn(0)
        self._stuck_since = 0.0
        #: It leads, its log has taken nothing for long, and a peer in sync has more, or it does not serve.
        self.hung = False

    def look(
        self,
        *,
        own_lag_s: float,
        durable_lsn: Lsn,
        serves: bool,
        quicker: bool,
        behind: bool,
        all_slow: bool,
        now: float,
    ) -> None:
        """One look at a replica that leads.

        Args:
            own_lag_s: for how long the oldest entry that is not on the own disk has waited for it.
            serves: its gate is open.
            quicker: a peer in sync acknowledges quickly.
            behind: a peer in sync has more on its disk.
            all_slow: there are several peers and each of them holds commits up.
        """
        steady = now - self._looked_at <= STILL_S
        self._looked_at = now
        if steady and own_lag_s > GRAY_S:
            if not self.slow(now):
                self._slow_pause.begin(now)
            self._slow_pause.go_on(now)
            self._slow_until = now + GRAY_HOLD_S
            if quicker:
                self._asks_until = now + GRAY_HOLD_S
        if own_lag_s >= CALM_ACK_S:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        self._look_at_all(all_slow, now)
        if not steady or own_lag_s == 0 or durable_lsn != self._durable:
            self._durable, self._stuck_since = durable_lsn, now
        self.hung = (behind or not serves) and now - self._stuck_since > HUNG_S

    def slow(self, now: float) -> bool:
        """Whether its disk is slow, or was a moment ago."""
        return now < self._slow_until

    def asks(self, now: float) -> bool:
        """Whether it, being primary, asks to be relieved."""
        return self._asks_for_all or now < self._asks_until

    def was_slow(self, now: float) -> bool:
        """Whether it, being a follower, is none to hand over to."""
        return now < self._slow_pause.until

    def _look_at_all(self, all_slow: bool, now: float) -> None:
        calm = self._calm_since is not None and now - self._calm_since >= CALM_S
        if not all_slow:
            self._asks_for_all = False
        elif not self._asks_for_all and calm and now >= self._all_pause.until:
            self._asks_for_all = True
            self._all_pause.begin(now)
