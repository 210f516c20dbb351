"""A connection until its host is let in: the first command, the answer to its Connect, the proof of a secret."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

from sparrow.base.access import Frontend
from sparrow.base.errors import Refused
from sparrow.frontends.access import Admitted, Asker
from sparrow.frontends.nvme.auth import Authentication, Names
from sparrow.frontends.nvme.connect import ConnectRequest
from sparrow.frontends.nvme.connection import Command, Connection
from sparrow.frontends.nvme.status import CommandRefused, Status
from sparrow.node.access import is_loopback
from sparrow.node.nvme.association import READ_BYTES, send

CONNECT_TIMEOUT_S: Final = 10.0


async def first_command(sock: socket.socket, connection: Connection) -> Command | None:
    """Run the initialization up to the first command; None when the host went away."""
    loop = asyncio.get_running_loop()
    while True:
        command = connection.next_command()
        await send(sock, connection.take_output())
        if command is not None:
            return command
        data = await loop.sock_recv(sock, READ_BYTES)
        if not data:
            return None
        connection.feed(data)


def accept(connection: Connection, command: Command, connect: ConnectRequest, result: int) -> None:
    """Answer a Connect with success; the queue is as the host wants it from then on."""
    connection.sq_entries = connect.entries
    connection.flow_control = connect.flow_control
    connection.complete(command.cid, Status.SUCCESS, result)


async def authenticate(
    sock: socket.socket,
    connection: Connection,
    connect: ConnectRequest,
    admitted: Admitted,
) -> None:
    """Run DH-HMAC-CHAP on a queue whose Connect was answered. Raises: Refused, NvmeError."""
    assert admitted.secret is not None
    exchange = Authentication(
        Names(host=connect.host_nqn, subsystem=connect.subsystem_nqn),
        secret=admitted.secret,
        target_secret=admitted.target_secret,
        random_bytes=os.urandom,
    )
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        while not (exchange.done or exchange.failed):
            command = await first_command(sock, connection)
            if command is None:
                raise Refused("The host went away before it had authenticated.")
            try:
                connection.complete(command.cid, Status.SUCCESS, 0, exchange.execute(command))
            except CommandRefused as refusal:
                connection.complete(command.cid, refusal.status, refusal.result)
            await send(sock, connection.take_output())
    if exchange.failed:
        raise Refused("The host did not prove its secret.")


def asker_of(sock: socket.socket, connect: ConnectRequest) -> Asker:
    """The host as the access list knows it, and whether it is on this machine."""
    loopback = is_loopback(sock.getsockname()[0])
    return Asker(protocol=Frontend.NVME, name=connect.host_nqn, loopback=loopback)
