"""The iSCSI portal of a node: logins and discovery in Python, then the socket goes to the core.

Unauthenticated bytes meet only the sans-IO machines of ``frontends.iscsi``. A login is bounded in time, their number
is bounded, and a new login of a nexus ends the session that had it before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.base import events as names
from sparrow.base.access import Frontend
from sparrow.base.errors import NotFound, Refused, SparrowError
from sparrow.base.ids import ReplicaId, VolumeId
from sparrow.formats.reservations import ReservationNexus
from sparrow.frontends.access import Admitted, Asker, VolumeAccess, decide
from sparrow.frontends.iscsi.chap import Chap
from sparrow.frontends.iscsi.directory import (
    LoginDirectory,
    Portal,
    TargetDirectory,
    TargetEntry,
)
from sparrow.frontends.iscsi.discovery_session import DiscoverySession
from sparrow.frontends.iscsi.errors import IscsiError
from sparrow.frontends.iscsi.login import LoginAccepted, LoginMachine
from sparrow.frontends.iscsi.naming import target_name, volume_of_target
from sparrow.frontends.iscsi.security import AuthPolicy
from sparrow.frontends.iscsi.session import NegotiatedSession, Nexus, SessionType
from sparrow.frontends.paths import path_number
from sparrow.frontends.reservations.machine import Notice
from sparrow.frontends.scsi.persistent import nexus_of
from sparrow.node.access import AccessBook, is_loopback
from sparrow.node.links import prepare
from sparrow.node.replicas import Replicas
from sparrow.node.reservations import Reservations, abort_commands
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DataPlane, SessionParameters
from sparrow.runtime.config import split_address

LOGIN_TIMEOUT_S: Final = 10.0
DISCOVERY_TIMEOUT_S: Final = 30.0
SEND_TIMEOUT_S: Final = 5.0
#: Initiators that are asked to log out have so long; then their sessions are ended.
LEAVE_MS: Final = 3000
#: Connections in login or discovery at one time; more wait in the kernel's queue.
LOGINS_MAX: Final = 128
#: Living sessions of this node; a login beyond is refused by closing it.
SESSIONS_MAX: Final = 4096
READ_BYTES: Final = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class LivingSession:
    """A session the core moves now."""

    session_key: int
    volume_id: VolumeId
    session: NegotiatedSession
    peer: str
    asker: Asker
    #: What it was let in with; it stays while the answer is the same.
    admitted: Admitted

    @property
    def nexus(self) -> ReservationNexus:
        """Whom reservations know it as."""
        return nexus_of(self.session.initiator_name, self.session.isid)


class IscsiPortal:
    """Accepts initiators on listening, non-blocking sockets; ``addresses`` is how others reach these."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        *,
        addresses: Sequence[str],
        replicas: Replicas,
        access: AccessBook,
        dataplane: DataPlane,
        reservations: Reservations,
        log: FilteringBoundLogger,
    ) -> None:
        self.addresses = tuple(addresses)
        self._sockets = tuple(sockets)
        self._replicas = replicas
        self._access = access
        access.watch(self.recheck)
        self._reservations = reservations
        reservations.watch(self.notify, self.end_commands)
        reservations.sessions(self.has_session)
        self._ending: set[asyncio.Task[None]] = set()
        self._dataplane = dataplane
        self._log = log
        self._talking: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(LOGINS_MAX)
        self._sessions: dict[int, LivingSession] = {}
        self._by_nexus: dict[Nexus, int] = {}
        self._ends: dict[int, asyncio.Event] = {}
        self._next_key = 1
        self._next_tsih = 1

    async def serve(self) -> None:
        """Accept on every portal until cancelled."""
        async with asyncio.TaskGroup() as portals:
            for listening in self._sockets:
                portals.create_task(self._accept(listening))

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            sock, address = await loop.sock_accept(listening)
            task = loop.create_task(self._talk(sock, f"{address[0]}:{address[1]}"))
            self._talking.add(task)
            task.add_done_callback(self._talked)

    async def close(self) -> None:
        for task in self._talking:
            task.cancel()
        for listening in self._sockets:
            listening.close()

    def session(self, session_key: int) -> LivingSession | None:
        return self._sessions.get(session_key)

    def directory(self, local: str) -> TargetDirectory:
        """The targets as they are now; ``local`` is the address the initiator reached us at."""
        return self._directory(local, self._access.snapshot())

    def _directory(self, local: str, accesses: Mapping[VolumeId, VolumeAccess]) -> TargetDirectory:
        entries = tuple(
            entry
            for volume in self._replicas
            if (entry := self._target(volume, local, accesses)) is not None
        )
        known = [accesses.get(entry.volume_id) for entry in entries]
        return TargetDirectory(
            entries, discovery=partial(_discovery_policy, known, is_loopback(_host(local)))
        )

    def _target(
        self, volume: Volume, local: str, accesses: Mapping[VolumeId, VolumeAccess]
    ) -> TargetEntry | None:
        """None: it is not shown yet, or no more."""
        if volume.known_line is None or volume.known_line.retired:
            return None
        access = accesses.get(volume.volume_id)
        return TargetEntry(
            name=target_name(volume.volume_id),
            volume_id=volume.volume_id,
            group_tag=port_group(volume),
            portals=self._portals(volume, local),
            admission=partial(_policy, access, is_loopback(_host(local))),
        )

    def _portals(self, volume: Volume, local: str) -> tuple[Portal, ...]:
        """Every portal of every replica, the one asked first; the tag is that of the replica's target port group."""
        assert volume.known_line is not None
        # Alone, it may be known by other names than the one it was reached by; it is one portal all the same.
        others = self.addresses if len(self.addresses) > 1 else ()
        own = dict.fromkeys((local, *others))
        found = [_portal(address, port_group(volume)) for address in own]
        for member in sorted(volume.known_line.members, key=lambda member: member.replica_id):
            if member.replica_id != volume.replica_id:
                tag = group_of(volume, member.replica_id)
                found += [
                    _portal(address, tag)
                    for address in volume.portals_of(member.replica_id, Frontend.ISCSI)
                ]
        return tuple(found)

    async def dismiss(self, volume_id: VolumeId) -> None:
        """Ask the initiators of a volume to log out, and wait until they are gone; who stays is cut off."""
        keys = [key for key, living in self._sessions.items() if living.volume_id == volume_id]
        gone = [self._ends[key] for key in keys]
        for key in keys:
            await self._dataplane.end_session(key, leave_ms=LEAVE_MS)
        for event in gone:
            await event.wait()

    def recheck(self, volume_id: VolumeId) -> None:
        """The access list, or a secret, is another: end the sessions that would not be let in as they were."""
        for key, living in self._sessions.items():
            if living.volume_id != volume_id:
                continue
            if self._access.decide(volume_id, living.asker) == living.admitted:
                continue
            self._log.warning(
                names.SESSION_REFUSED,
                volume=volume_id,
                session=key,
                peer=living.peer,
                initiator=living.session.initiator_name,
                cause="the access list does not allow it any more",
            )
            task = asyncio.get_running_loop().create_task(self._dataplane.end_session(key))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def has_session(self, volume_id: VolumeId, nexus: ReservationNexus) -> bool:
        """Has this initiator, as reservations know it, a session here?"""
        return any(
            living.volume_id == volume_id and living.nexus == nexus
            for living in self._sessions.values()
        )

    def notify(self, volume_id: VolumeId, nexus: ReservationNexus, notice: Notice) -> None:
        """Reservations changed in a way that this initiator is to hear of."""
        for key, living in self._sessions.items():
            if living.volume_id == volume_id and living.nexus == nexus:
                self._dataplane.raise_attention(key, notice)

    async def end_commands(self, volume_id: VolumeId, nexus: ReservationNexus) -> None:
        """Somebody preempted this initiator, and wants what it has under way aborted."""
        keys = [
            key
            for key, living in self._sessions.items()
            if living.volume_id == volume_id and living.nexus == nexus
        ]
        await abort_commands(self._dataplane, keys)

    def ended(self, session_key: int, cause: str) -> None:
        """The core says that a session is gone."""
        living = self._sessions.pop(session_key, None)
        if living is None:
            return
        if self._by_nexus.get(living.session.nexus) == session_key:
            del self._by_nexus[living.session.nexus]
        if not self.has_session(living.volume_id, living.nexus):
            self._reservations.session_ended(living.volume_id, living.nexus)
        event = self._ends.pop(session_key, None)
        if event is not None:
            event.set()
        self._log.info(
            names.SESSION_ENDED,
            volume=living.volume_id,
            initiator=living.session.initiator_name,
            session=session_key,
            cause=cause,
        )

    # ------------------------------------------------------------ one connection

    def _talked(self, task: asyncio.Task[None]) -> None:
        self._talking.discard(task)
        self._room.release()

    async def _talk(self, sock: socket.socket, peer: str) -> None:
        try:
            prepare(sock)
            async with asyncio.timeout(LOGIN_TIMEOUT_S):
                # What the login is judged by, as it was when it began.
                access = self._access.snapshot()
                accepted = await self._log_in(sock, access)
                if accepted is not None and accepted.session.session_type is SessionType.NORMAL:
                    await self._hand_over(sock, peer, accepted, access)
                    return
            if accepted is not None:
                await self._discover(sock, accepted)
        except TimeoutError:
            self._log.info(names.SESSION_REFUSED, peer=peer, cause="no progress in time")
        except IscsiError as error:
            await _say(sock, error.reply)
            self._log.info(names.SESSION_REFUSED, peer=peer, code=error.code, cause=str(error))
        except (SparrowError, OSError) as error:
            self._log.info(names.SESSION_REFUSED, peer=peer, cause=str(error))
        finally:
            sock.close()

    async def _log_in(
        self, sock: socket.socket, access: Mapping[VolumeId, VolumeAccess]
    ) -> LoginAccepted | None:
        """Run the login; None when the initiator went away. The last response is not sent yet."""
        if len(self._sessions) >= SESSIONS_MAX:
            return None
        loop = asyncio.get_running_loop()
        local = _local(sock)
        directory = LoginDirectory(
            find=partial(self._asked_for, local, access),
            everything=partial(self._directory, local, access),
        )
        machine = LoginMachine(directory=directory, tsih=self._take_tsih())
        while True:
            data = await loop.sock_recv(sock, READ_BYTES)
            if not data:
                return None
            outcome = machine.feed(data)
            if isinstance(outcome, LoginAccepted):
                return outcome
            if outcome.send:
                await loop.sock_sendall(sock, outcome.send)

    def _asked_for(
        self, local: str, access: Mapping[VolumeId, VolumeAccess], name: str
    ) -> TargetEntry | None:
        volume_id = volume_of_target(name)
        volume = None if volume_id is None else self._replicas.find(volume_id)
        return None if volume is None else self._target(volume, local, access)

    async def _hand_over(
        self,
        sock: socket.socket,
        peer: str,
        accepted: LoginAccepted,
        access: Mapping[VolumeId, VolumeAccess],
    ) -> None:
        """End the session this one replaces, tell the initiator that it is in, give the socket to the core."""
        session = accepted.session
        assert session.volume_id is not None
        asker = Asker(
            protocol=Frontend.ISCSI,
            name=session.initiator_name,
            loopback=is_loopback(sock.getsockname()[0]),
        )
        reinstated = await self._end_older(session.nexus)
        await asyncio.get_running_loop().sock_sendall(sock, accepted.send)
        if self._replicas.find(session.volume_id) is None:
            raise NotFound(f"{session.volume_id} was removed meanwhile.")
        # No await from here to the entry in _sessions, so that no change of the list falls between the two.
        admitted = self._access.decide(session.volume_id, asker)
        if admitted != decide(access.get(session.volume_id), asker) or not isinstance(
            admitted, Admitted
        ):
            raise Refused(f"Access to {session.volume_id} was changed during the login.")
        key = self._next_key
        self._next_key += 1
        living = LivingSession(
            session_key=key,
            volume_id=session.volume_id,
            session=session,
            peer=peer,
            asker=asker,
            admitted=admitted,
        )
        self._sessions[key] = living
        self._by_nexus[session.nexus] = key
        self._ends[key] = asyncio.Event()
        self._log.info(
            names.SESSION_STARTED,
            volume=session.volume_id,
            initiator=session.initiator_name,
            session=key,
            peer=peer,
        )
        try:
            await self._dataplane.adopt_session(
                session.volume_id,
                os.dup(sock.fileno()),
                parameters_of(key, session, reinstated=reinstated),
            )
        except SparrowError:
            self.ended(key, "not adopted")
            raise

    async def _end_older(self, nexus: Nexus) -> bool:
        """Session reinstatement: the old one is gone before the new one begins (RFC 7143, 6.3.5). Was there one?

        Commands of the old session without an LSN die with it, so none of them can land after the new login.
        """
        found = False
        while (key := self._by_nexus.get(nexus)) is not None:
            found = True
            gone = self._ends[key]
            await self._dataplane.end_session(key)
            await gone.wait()
        return found

    async def _discover(self, sock: socket.socket, accepted: LoginAccepted) -> None:
        loop = asyncio.get_running_loop()
        session = DiscoverySession(accepted.session, self.directory(_local(sock)))
        await loop.sock_sendall(sock, accepted.send)
        data = b""
        async with asyncio.timeout(DISCOVERY_TIMEOUT_S):
            while True:
                outcome = session.feed(data)
                if outcome.send:
                    await loop.sock_sendall(sock, outcome.send)
                if outcome.closed:
                    return
                data = await loop.sock_recv(sock, READ_BYTES)
                if not data:
                    return

    def _take_tsih(self) -> int:
        """1 to 65535, not of a living session."""
        living = {session.session.tsih for session in self._sessions.values()}
        assert len(living) < SESSIONS_MAX + 1
        while True:
            tsih = self._next_tsih
            self._next_tsih = tsih % 65535 + 1
            if tsih not in living:
                return tsih


def _policy(access: VolumeAccess | None, loopback: bool, initiator_name: str) -> AuthPolicy | None:
    """What the access decision means in the words of iSCSI."""
    found = decide(access, Asker(protocol=Frontend.ISCSI, name=initiator_name, loopback=loopback))
    if not isinstance(found, Admitted):
        return None
    if found.secret is None:
        return AuthPolicy()
    return AuthPolicy(allow_none=False, methods=(Chap((found,), random_bytes=os.urandom),))


def _discovery_policy(
    accesses: Sequence[VolumeAccess | None],
    loopback: bool,
    initiator_name: str,
) -> AuthPolicy:
    """Discovery tells an initiator only what it could log in to, so it may be anonymous; it may also prove a secret."""
    asker = Asker(protocol=Frontend.ISCSI, name=initiator_name, loopback=loopback)
    known = [decide(access, asker) for access in accesses]
    proofs = [one for one in known if isinstance(one, Admitted) and one.secret is not None]
    return AuthPolicy(methods=(Chap(proofs, random_bytes=os.urandom),) if proofs else ())


def port_group(volume: Volume) -> int:
    """Target port group and relative port of this replica."""
    return group_of(volume, volume.replica_id)


def group_of(volume: Volume, replica: ReplicaId) -> int:
    """Target port group of a replica."""
    line = volume.known_line
    return path_number(replica, () if line is None else (one.replica_id for one in line.members))


def _host(address: str) -> str:
    return split_address(address)[0]


def _portal(address: str, group_tag: int) -> Portal:
    host, port = split_address(address)
    return Portal(host=host, port=port, group_tag=group_tag)


def parameters_of(
    session_key: int, session: NegotiatedSession, *, reinstated: bool
) -> SessionParameters:
    """What the core needs of a finished login."""
    agreed = session.parameters
    return SessionParameters(
        session_key=session_key,
        tsih=session.tsih,
        cid=session.cid,
        exp_cmd_sn=session.exp_cmd_sn,
        stat_sn=session.stat_sn,
        initiator_recv_bytes_max=agreed.initiator_segment_bytes_max,
        target_recv_bytes_max=agreed.target_segment_bytes_max,
        max_burst_bytes=agreed.burst_bytes_max,
        first_burst_bytes=agreed.first_burst_bytes_max,
        max_outstanding_r2t=agreed.outstanding_r2t_max,
        initial_r2t=agreed.initial_r2t,
        immediate_data=agreed.immediate_data,
        header_digest=agreed.header_digest,
        data_digest=agreed.data_digest,
        reinstated=reinstated,
        pending=session.residual,
        nexus=nexus_of(session.initiator_name, session.isid).record(),
    )


async def _say(sock: socket.socket, reply: bytes) -> None:
    """The last words before a close, if the peer still listens."""
    if not reply:
        return
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await asyncio.get_running_loop().sock_sendall(sock, reply)


def _local(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
