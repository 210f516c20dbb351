"""What an operator should see beside this node's name: sentences that stand as long as they are repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Whatever still goes on is tried again, and told again, well before.
KEEP_S: Final = 10.0
#: Strangers choose what they are called by; more than this many at one time are not told apart.
TROUBLES_MAX: Final = 8

#: The master takes no heartbeat with a longer sentence in it than this and some words around it.
CAUSE_BYTES_MAX: Final = 600

Note = Callable[[str, str], None]


class Troubles:
    """Told with each heartbeat. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told: dict[str, tuple[float, str]] = {}

    def note(self, about: str, sentence: str) -> None:
        """Say it from now on; a newer sentence about the same takes its place."""
        self._drop_old()
        if about in self._told or len(self._told) < TROUBLES_MAX:
            self._told[about] = (self._clock() + KEEP_S, sentence)

    def current(self) -> tuple[str, ...]:
        self._drop_old()
        return tuple(sorted({sentence for _until, sentence in self._told.values()}))

    def _drop_old(self) -> None:
        now = self._clock()
        self._told = {about: told for about, told in self._told.items() if told[0] > now}


def cut(text: str, bytes_max: int) -> str:
    """No more than so many bytes of UTF-8; what is no UTF-8, as a name of a file may be, is made readable."""
    return text.encode(errors="backslashreplace")[:bytes_max].decode(errors="ignore")


def ignore(_about: str, _sentence: str) -> None:
    """For who has nobody to tell."""
