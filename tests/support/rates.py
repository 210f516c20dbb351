"""What this machine's disk and loopback do without sparrow: what copies and catch-ups are held against."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20


def disk_rate(folder: Path, size: int) -> float:
    """MiB per second of one file of ``size`` bytes written in order, durable at the end."""
    block = os.urandom(MIB)
    path = folder / "rate"
    began = time.monotonic()
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(block)
        file.flush()
        os.fdatasync(file.fileno())
    took = time.monotonic() - began
    path.unlink()
    return size / MIB / took


def loopback_rate(size: int) -> float:
    """MiB per second of one connection that carries ``size`` bytes."""
    block = os.urandom(MIB)
    with socket.create_server(("127.0.0.1", 0)) as server:
        out = socket.create_connection(server.getsockname())
        into, _ = server.accept()

    def send() -> None:
        for _ in range(size // MIB):
            out.sendall(block)
        out.close()

    thread = threading.Thread(target=send, daemon=True)
    began = time.monotonic()
    thread.start()
    with into:
        while into.recv(MIB):
            pass
    thread.join()
    return size / MIB / (time.monotonic() - began)
