"""When the gate may open: once every promise under which somebody else may serve has run out or was given back."""

from __future__ import annotations

import math

from sparrow.base.constants import GRANT_DRIFT, GRANT_MARGIN_S
from sparrow.base.ids import ReplicaId
from sparrow.node import effects as fx
from sparrow.node.opening.base import Base
from sparrow.node.opening.state import Phase, Promise
from sparrow.ports.dataplane import FenceReport


class Promised(Base):
    """Keeps the promises that answers named, and waits for the longest."""

    def _note_promise(self, replica: ReplicaId, report: FenceReport, now: float) -> None:
        # Once the term is promised no older one is promised anything more: the newest answer is the nearest.
        self.promises[replica] = Promise(
            until=now + report.promise_ms / 1000,
            to=report.promised_to,
            older_until=now + report.older_promise_ms / 1000,
        )
        if report.closed is not None:
            self.closed.add(report.closed)

    def _allow(self, now: float) -> None:
        if self.phase is not Phase.COMMITTING:
            return
        self.phase = Phase.ALLOWED
        self._open_gate(now)

    def _open_gate(self, now: float) -> None:
        self._out.append(fx.OpenGate(wait_ms=math.ceil(self._wait_s(now) * 1000)))

    def _wait_s(self, now: float) -> float:
        """How long the longest promise that somebody may still serve under runs, told by our clock."""
        untils = [p.older_until if p.to in self.closed else p.until for p in self.promises.values()]
        left = max([until - now for until in untils], default=0.0)
        # Waited for on our clock, promised on theirs.
        return left * (1 + GRANT_DRIFT) + GRANT_MARGIN_S if left > 0 else 0.0
