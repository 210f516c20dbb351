"""Descriptors of this process: pairs of sockets, a relay between two that can be held, and that none is left open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Relay:
    """Carries bytes between two sockets while it is not held; what comes meanwhile waits."""

    def __init__(self, one: socket.socket, other: socket.socket) -> None:
        self._held = False
        self._loop = asyncio.get_running_loop()
        self._pairs = ((one, other), (other, one))
        self._closed = False
        self._listen()

    @property
    def held(self) -> bool:
        return self._held

    @held.setter
    def held(self, held: bool) -> None:
        if held == self._held or self._closed:
            return
        self._held = held
        if held:
            for source, _ in self._pairs:
                self._loop.remove_reader(source)
        else:
            self._listen()

    def _listen(self) -> None:
        for source, target in self._pairs:
            self._loop.add_reader(source, self._carry, source, target)

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            data = source.recv(1 << 16)
            if data:
                # A grant is far smaller than a socket's buffer.
                target.sendall(data)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for source, _ in self._pairs:
            self._loop.remove_reader(source)
            source.close()


def tcp_pair() -> tuple[int, int]:
    """Two descriptors of one TCP connection, non-blocking, owned by the caller."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    for end in (one, other):
        end.setblocking(False)
    return one.detach(), other.detach()


def open_files() -> dict[int, str]:
    """Every descriptor of this process and what it is of."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found[int(path.name)] = str(path.readlink())
    return found


@contextmanager
def no_open_file_left() -> Iterator[None]:
    """What is opened inside is closed inside; a failure inside is told instead."""
    before = open_files()
    yield
    left = {number: name for number, name in open_files().items() if before.get(number) != name}
    assert left == {}, "descriptors were left open"
