"""A reader's mailbox: the newest value per volume, nothing older, nothing queued."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from sparrow.base.ids import VolumeId

T = TypeVar("T")


def _nobody() -> None:
    """Wake nobody: for readers that look on their own."""


class Subscription(Generic[T]):
    """Depth one per volume, overwritten by the latest, so a slow reader skips but always ends at the newest.

    Bound: one value per volume. ``wake`` is called when an empty mailbox gets its first value, not for every
    value after it. Thread: the owner's; nothing here locks.
    """

    def __init__(self, wake: Callable[[], None] = _nobody) -> None:
        self._wake = wake
        self._latest: dict[VolumeId, T] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def offer(self, volume_id: VolumeId, value: T) -> None:
        """Put the newest value; the giver gives them in order. Nothing happens once closed."""
        if self._closed:
            return
        was_empty = not self._latest
        self._latest[volume_id] = value
        if was_empty:
            self._wake()

    def take(self) -> list[T]:
        """Everything waiting, oldest volume first; the mailbox is empty afterwards."""
        values = list(self._latest.values())
        self._latest.clear()
        return values

    def close(self) -> None:
        """End it: what waits is dropped, the reader is woken once to see it. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._latest.clear()
        self._wake()
