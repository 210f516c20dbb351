"""Grants between nodes, and the gate that they keep open."""

from __future__ import annotations

from typing import Any

from sparrow.authority.types import Term
from sparrow.base.constants import GRANT_DRIFT, GRANT_MARGIN_S, GRANT_S
from sparrow.base.errors import StaleEpoch
from sparrow.base.ids import VolumeId
from sparrow.dataplane.model.base import Base
from sparrow.dataplane.model.links import End
from sparrow.dataplane.model.state import ModelVolume
from sparrow.ports.dataplane import GateClosed, GateOpened, GrantLinkLost, NewerEpochSeen


class Grants(Base):
    """Who asks, who promises, and when the gate is open."""

    async def open_gate(self, volume_id: VolumeId, *, wait_ms: int) -> None:
        volume = self._volume(volume_id)
        if volume.over:
            raise StaleEpoch(f"The gate of {volume_id} was closed for the rest of {volume.term}.")
        volume.allowed = True
        volume.released = False
        volume.open_at = self._clock() + wait_ms / 1000
        self._look_at_gate(volume_id, volume)

    async def close_gate(self, volume_id: VolumeId, cause: str) -> None:
        volume = self._volume(volume_id)
        over = volume.over
        self._close_for_good(volume_id, volume, cause)
        volume.over = over or cause != "command"

    async def grant_ask_link(self, node_key: int, fd: int) -> None:
        end = self._end(fd)
        self._asking[node_key] = end
        end.attach(
            lambda message: self._on_verdicts(node_key, message),
            lambda _cause: self._on_grant_lost(node_key, end),
        )

    async def grant_serve_link(self, fd: int) -> None:
        end = self._end(fd)
        end.attach(lambda message: self._on_grant_ask(end, message), lambda _cause: None)

    def granted(self, volume: ModelVolume) -> bool:
        """Whether every grant that the gate needs is held at this moment."""
        now = self._clock()

        def held(slot: int) -> bool:
            return volume.rights.get(volume.node_of.get(slot, -1), 0.0) > now

        enough = not volume.one_of or any(map(held, volume.one_of))
        return enough and all(map(held, volume.needed))

    def _look_at_gate(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        now, granted = self._clock(), self.granted(volume)
        if volume.gate_open and not granted:
            self._close(volume_id, volume, "grant")
        elif (
            volume.allowed
            and not volume.gate_open
            and granted
            and now >= volume.open_at
            # What was promised here to an older primary binds too, as long as that one does not give it back.
            and all(
                until <= now
                for held, until in volume.promises.items()
                if held.epoch != volume.term.epoch
            )
        ):
            volume.gate_open = True
            self._emit(GateOpened(volume_id=volume_id, term=volume.term))

    def _close_for_good(self, volume_id: VolumeId, volume: ModelVolume, cause: str) -> None:
        """Closed by somebody, not by time: nothing of this term is served any more, so its grants go back."""
        volume.allowed, volume.over, volume.released = False, True, True
        volume.released_at = self._clock()
        self._close(volume_id, volume, cause)
        for node_key, end in self._asking.items():
            if volume.rights.pop(node_key, None) is not None:
                end.send(("release", volume.released_at, [(volume_id, volume.term)]))

    def _close(self, volume_id: VolumeId, volume: ModelVolume, cause: str) -> None:
        if volume.gate_open:
            volume.gate_open = False
            self._emit(
                GateClosed(
                    volume_id=volume_id,
                    term=volume.term,
                    cause=cause,
                    deadline_ns=0,
                    lateness_us=0,
                )
            )

    def _on_grant_ask(self, end: End, message: Any) -> None:
        kind, stamp, wanted = message
        if kind == "release":
            self._take_release(stamp, wanted)
            return
        now = self._clock()
        verdicts = []
        for volume_id, term in wanted:
            volume = self._volumes.get(volume_id)
            if volume is None:
                verdicts.append((volume_id, term, "none", 0))
                continue
            promised = volume.files.promised_epoch
            if promised > term.epoch:
                verdicts.append((volume_id, term, "newer", promised))
            elif (
                volume.term == term
                and not volume.primary
                and not volume.files.suspect
                and stamp > volume.given_back.get(term, float("-inf"))
            ):
                running = {held: until for held, until in volume.promises.items() if until > now}
                volume.promises = {**running, term: now + GRANT_S}
                volume.granted_for[term] = stamp
                verdicts.append((volume_id, term, "granted", promised))
            else:
                verdicts.append((volume_id, term, "none", promised))
        end.send(("verdicts", stamp, verdicts))

    def _take_release(self, stamp: float, terms: list[tuple[VolumeId, Term]]) -> None:
        """Forget what was promised to a term that gave it back, unless it asked again since."""
        for volume_id, term in terms:
            volume = self._volumes.get(volume_id)
            if volume is None:
                continue
            volume.given_back[term] = max(stamp, volume.given_back.get(term, stamp))
            if stamp >= volume.granted_for.get(term, float("-inf")):
                volume.promises.pop(term, None)
                self._look_at_gate(volume_id, volume)

    def _on_verdicts(self, node_key: int, message: Any) -> None:
        _kind, stamp, verdicts = message
        for volume_id, term, verdict, promised in verdicts:
            volume = self._volumes.get(volume_id)
            if volume is None or not volume.primary or volume.term != term:
                continue
            if verdict == "granted" and stamp > volume.released_at:
                # The asker's right ends before the granter's promise, whoever's clock runs faster.
                for peer in volume.peers.values():
                    if peer.node_key == node_key:
                        peer.heard_at = self._clock()
                volume.rights[node_key] = stamp + GRANT_S * (1 - GRANT_DRIFT) - GRANT_MARGIN_S
                self._look_at_gate(volume_id, volume)
            elif verdict == "newer":
                self._close_for_good(volume_id, volume, "fenced")
                self._emit(NewerEpochSeen(volume_id=volume_id, epoch=promised))

    def _on_grant_lost(self, node_key: int, end: End) -> None:
        if self._asking.get(node_key) is end:
            del self._asking[node_key]
            self._emit(GrantLinkLost(node_key=node_key))
