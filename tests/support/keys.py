"""Cluster keys for tests."""

from __future__ import annotations

from sparrow.formats.hello import ClusterKey


class KeyRing:
    """Keys in memory; the first is the one to prove with."""

    def __init__(self, *secrets: bytes) -> None:
        self.keys = [ClusterKey(secret=secret.ljust(32, b"\0")) for secret in secrets]

    def own(self) -> ClusterKey:
        return self.keys[0]

    def find(self, key_id: bytes) -> ClusterKey | None:
        return next((key for key in self.keys if key.key_id == key_id), None)
