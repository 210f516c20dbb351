"""What is fed, and what must hold whatever it is fed.

A target is made anew for each round of ``ROUND`` inputs, so that a failure is played again from the beginning of its
round. A machine of Python's accepts an input or refuses it with a RemoteProtocolError of its own; anything else is a
bug of ours. A parser in the core does what it likes with the connection, but the core goes on: it answers its control
side, serves the next connection, and has all its pages back at the end of the round.
"""

from __future__ import annotations

import contextlib
import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from sparrow.base.errors import RemoteProtocolError
from sparrow.base.ids import VolumeId
from sparrow.frontends.iscsi.directory import Portal, TargetDirectory, TargetEntry
from sparrow.frontends.iscsi.discovery_session import DiscoverySession
from sparrow.frontends.iscsi.login import LoginAccepted, LoginMachine
from sparrow.frontends.iscsi.naming import target_name
from sparrow.frontends.iscsi.session import SessionType
from sparrow.frontends.nbd.exports import Refusal, TlsPolicy
from sparrow.frontends.nbd.negotiation import OPTION_BYTES_MAX, Haggling, Negotiation, TlsWanted
from sparrow.frontends.nvme.admin import (
    Completion,
    Controller,
    DiscoveryController,
    DiscoveryView,
    VolumeController,
    VolumeView,
)
from sparrow.frontends.nvme.connect import decode_connect
from sparrow.frontends.nvme.connection import Command, Connection
from sparrow.frontends.nvme.logs import DiscoveryEntry
from sparrow.frontends.nvme.naming import DISCOVERY_NQN
from sparrow.frontends.nvme.status import CommandRefused
from sparrow.frontends.nvme.subsystem import Subsystem
from tests.support.front_bed import Bed
from tests.support.nbd_bed import FLUSH, NbdPeer
from tests.support.nbd_peer import FixedExports, export
from tests.support.nvme_bed import Host

#: Inputs between a target's making and its end.
ROUND: Final = 200
MACHINE_ROUND: Final = 2000
SEND_TRIES: Final = 40
#: The longest PDU an NVMe/TCP host may send: H2CData with its header, padding and digests.
NVME_PDU_MAX: Final = 255 + 131072 + 4


class Target(Protocol):
    """Fed one input at a time; raises when something is not as it must be."""

    def run(self, chunks: Sequence[bytes]) -> None: ...
    def close(self) -> None: ...


class NbdNegotiation:
    """The negotiation of NBD in each of its modes: the first byte of the input chooses."""

    def __init__(self) -> None:
        self._exports = FixedExports(
            export("vm1"),
            export("away", refusal=Refusal.NOT_HERE, explanation="elsewhere"),
        )

    def run(self, chunks: Sequence[bytes]) -> None:
        first = chunks[0][0] if chunks and chunks[0] else 0
        policy = list(TlsPolicy)[first % 3]
        machine = Negotiation(exports=self._exports, tls=policy, default="vm1")
        machine.greeting()
        try:
            for number, chunk in enumerate(chunks):
                outcome = machine.feed(chunk[1:] if number == 0 else chunk)
                if isinstance(outcome, TlsWanted):
                    machine.secured()
                elif not isinstance(outcome, Haggling):
                    return
                held = len(machine._buffer)
                assert held <= OPTION_BYTES_MAX + 16, f"{held} bytes are held"
        except RemoteProtocolError:
            return

    def close(self) -> None:
        pass


class IscsiLogin:
    """A login and, where it leads to one, the discovery session behind it."""

    def __init__(self) -> None:
        portal = Portal(host="127.0.0.1", port=3260, group_tag=1)
        entry = TargetEntry(
            name=target_name(VolumeId("demo")),
            volume_id=VolumeId("demo"),
            portals=(portal,),
            group_tag=1,
        )
        self._directory = TargetDirectory((entry,))

    def run(self, chunks: Sequence[bytes]) -> None:
        machine: Any = LoginMachine(directory=self._directory, tsih=1)
        try:
            for chunk in chunks:
                outcome = machine.feed(chunk)
                if isinstance(outcome, LoginAccepted):
                    if outcome.session.session_type is not SessionType.DISCOVERY:
                        return
                    machine = DiscoverySession(outcome.session, self._directory)
                    outcome = machine.feed(b"")
                if getattr(outcome, "closed", False):
                    return
        except RemoteProtocolError:
            return

    def close(self) -> None:
        pass


class _Core(ABC):
    """A core with a volume in memory; one connection per input."""

    def __init__(self) -> None:
        self.bed = Bed()
        self._number = 0

    @abstractmethod
    def connect(self, number: int) -> socket.socket:
        """The client's end of a new connection, past its negotiation."""

    def run(self, chunks: Sequence[bytes]) -> None:
        self._number += 1
        sock = self.connect(self._number)
        sock.setblocking(False)
        with contextlib.suppress(ConnectionError):
            for chunk in chunks:
                _send(sock, chunk)
        if self._number % 3 == 0:
            # Some ends are met by a core that has looked at everything.
            self.bed.counts()
        sock.close()
        if self._number % 20 == 0:
            self.bed.counts()
            self.bed.forget()

    def close(self) -> None:
        NbdPeer(self.bed).good(FLUSH)
        self.bed.close()


def _send(sock: socket.socket, data: bytes) -> None:
    """As a client does that takes its answers. A core that does not read any more is left alone after a while."""
    for _ in range(SEND_TRIES):
        with contextlib.suppress(BlockingIOError):
            data = data[sock.send(data) :]
        with contextlib.suppress(BlockingIOError):
            while sock.recv(1 << 20):
                pass
        if not data:
            return
        select.select([sock], [sock], [], 0.005)


class NbdTransmission(_Core):
    """The transmission phase of NBD, with structured replies and without."""

    def connect(self, number: int) -> socket.socket:
        return NbdPeer(self.bed, structured=number % 2 == 0, allocation=number % 4 == 0).socket


class NvmeConversation:
    """An NVMe/TCP connection up to its Connect, then the admin queue of a volume's controller or of discovery."""

    def run(self, chunks: Sequence[bytes]) -> None:
        connection = Connection()
        controller: Controller[Any] | None = None
        view: Any = None
        try:
            for chunk in chunks:
                connection.feed(chunk)
                while (command := connection.next_command()) is not None:
                    if controller is not None:
                        done = controller.execute(command, view, 0.0)
                    else:
                        controller, view, done = self._connect(command)
                    for one in done:
                        connection.complete(one.cid, one.status, one.result, one.data)
                connection.take_output()
                held = len(connection.residual)
                assert held <= NVME_PDU_MAX, f"{held} bytes are held"
        except RemoteProtocolError:
            return

    def _connect(
        self, command: Command
    ) -> tuple[Controller[Any] | None, Any, tuple[Completion, ...]]:
        try:
            connect = decode_connect(command)
        except CommandRefused as refusal:
            return None, None, (Completion(command.cid, refusal.status, refusal.result),)
        answered = (Completion(command.cid, result=1),)
        if connect.subsystem_nqn == DISCOVERY_NQN:
            entry = DiscoveryEntry(nqn=DISCOVERY_NQN, host="10.0.0.1", port=4420, port_id=1)
            view: Any = DiscoveryView(entries=(entry,), generation=1)
            return DiscoveryController(cntlid=1, connect=connect, now=0.0), view, answered
        subsystem = Subsystem(volume_id=VolumeId("demo"), size_bytes=1 << 30)
        volume = VolumeController(cntlid=1, connect=connect, now=0.0)
        return volume, VolumeView(subsystem=subsystem), answered

    def close(self) -> None:
        pass


class NvmeQueue(_Core):
    """An NVMe/TCP I/O queue after its Connect; digests are rare for the same reason as below."""

    def connect(self, number: int) -> socket.socket:
        digests = number % 16 == 0
        return Host.connect(
            self.bed,
            depth=(128, 4)[number % 2],
            flow_control=number % 4 < 2,
            header_digest=digests,
            data_digest=digests,
        ).socket


class IscsiFullFeature(_Core):
    """The full-feature phase of iSCSI; digests would keep nearly every mutation out, so they are rare."""

    def connect(self, number: int) -> socket.socket:
        digests = number % 16 == 0
        segment = (512, 8192, 1 << 24)[number % 3]
        return self.bed.connect(
            header_digest=digests, data_digest=digests, target_recv=segment
        ).socket


#: By name: how it is made, and how many inputs one of them takes.
TARGETS: Final[dict[str, tuple[Callable[[], Target], int]]] = {
    "iscsi_full_feature": (IscsiFullFeature, ROUND),
    "iscsi_login": (IscsiLogin, MACHINE_ROUND),
    "nbd_negotiation": (NbdNegotiation, MACHINE_ROUND),
    "nbd_transmission": (NbdTransmission, ROUND),
    "nvme_conversation": (NvmeConversation, MACHINE_ROUND),
    "nvme_queue": (NvmeQueue, ROUND),
}
