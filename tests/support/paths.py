"""Where a volume can be found: a client asks every portal, as multipath's path checkers do."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import Final

from tests.support.cluster import Cluster
from tests.support.iscsi_client import IscsiClient, LoginError, ProtocolViolation, ScsiError

WAIT_S: Final = 60.0
LOOK_S: Final = 0.02
#: Without any answer for this long a client gives its session up, as an initiator's time-out does.
SILENCE_S: Final = 6.0
LOGIN_S: Final = 2.0
#: SPC-4: NOT READY, asymmetric access state transition or standby; UNIT ATTENTION, that state has changed.
PATH_SENSE: Final = ((0x2, 0x04, 0x0A), (0x2, 0x04, 0x0B), (0x6, 0x2A, 0x06))


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where a volume can be found: all portals, one target name."""

    portals: tuple[tuple[str, int], ...]
    target: str

    def connect(self, *, timeout_s: float = SILENCE_S, within_s: float = WAIT_S) -> IscsiClient:
        """A session with whoever serves the volume. Raises TimeoutError.

        All portals are asked at the same time, as multipath's path checkers do: a silent one holds up no other.
        """
        found: queue.SimpleQueue[IscsiClient | BaseException] = queue.SimpleQueue()
        enough = threading.Event()
        claim = threading.Lock()
        for host, port in self.portals:
            others = {"timeout_s": timeout_s, "found": found, "enough": enough, "claim": claim}
            threading.Thread(
                target=self._seek, args=(host, port), kwargs=others, daemon=True
            ).start()
        try:
            first = found.get(timeout=within_s)
        except queue.Empty:
            if not claim.acquire(blocking=False):
                return self._first(found.get())
            raise TimeoutError(f"nobody served {self.target} for {within_s} s") from None
        finally:
            enough.set()
        return self._first(first)

    @staticmethod
    def _first(found: IscsiClient | BaseException) -> IscsiClient:
        if isinstance(found, BaseException):
            raise found
        return found

    def _seek(
        self,
        host: str,
        port: int,
        *,
        timeout_s: float,
        found: queue.SimpleQueue[IscsiClient | BaseException],
        enough: threading.Event,
        claim: threading.Lock,
    ) -> None:
        """Ask one portal again and again until it, or another one, serves the volume; ``claim`` is for the first."""
        while not enough.is_set():
            try:
                client = self.try_portal(host, port, timeout_s=timeout_s)
            except ProtocolViolation as error:
                if claim.acquire(blocking=False):
                    found.put(error)
                return
            if client is not None:
                if claim.acquire(blocking=False):
                    found.put(client)
                else:
                    client.close()
                return
            enough.wait(LOOK_S)

    def try_portal(self, host: str, port: int, *, timeout_s: float) -> IscsiClient | None:
        """A session there if it serves the volume now."""
        try:
            client = IscsiClient(host, port, self.target, timeout_s=LOGIN_S)
        except ProtocolViolation:
            raise
        except (LoginError, OSError):
            return None
        try:
            client.test_unit_ready()
            client.read_capacity()
        except ProtocolViolation:
            raise
        except (ScsiError, ConnectionError):
            client.close()
            return None
        client.timeout_s = timeout_s
        return client


def cluster_paths(cluster: Cluster, name: str) -> Paths:
    """All portals of a cluster for one of its volumes."""
    frontends = cluster.volume(name).frontends
    target = frontends[0].name if frontends else f"iqn.2026-01.io.sparrow:{name}"
    return Paths(portals=tuple(node.portal for node in cluster.nodes.values()), target=target)
