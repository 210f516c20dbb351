"""Who may use the volumes of this node: what the master said last, asked by every frontend.

It is kept in the pool, so that a node which starts while the master is away lets in who it let in before. The files
have secrets in them and are its user's alone. One that is damaged is as if it were not there: nobody is let in until
the master has been heard.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from sparrow.authority.effects import AllowAccess
from sparrow.authority.record import BadRecord, Body, access_body, access_of, checksum, dump, load
from sparrow.base import events as names
from sparrow.base.access import AccessList, Secret
from sparrow.base.ids import VolumeId
from sparrow.frontends.access import Admitted, Asker, Denied, VolumeAccess, decide


class AccessBook:
    """The newest list of each volume.

    Args:
        folder: where lists are kept, a file per volume; None keeps them in memory only.
    """

    def __init__(self, log: FilteringBoundLogger, folder: Path | None = None) -> None:
        self._log = log
        self._folder = folder
        self._held: dict[VolumeId, VolumeAccess] = {}
        self._watchers: list[Callable[[VolumeId], None]] = []
        if folder is not None:
            self._held = dict(self._read(folder))

    def watch(self, changed: Callable[[VolumeId], None]) -> None:
        """Call this after each change: living sessions are to be judged anew."""
        self._watchers.append(changed)

    def learn(self, word: AllowAccess) -> bool:
        """The master's newest word; whether it is news."""
        access = VolumeAccess(allowed=word.access, secrets=word.secrets)
        if self._held.get(word.volume_id) == access:
            return False
        self._held[word.volume_id] = access
        self._log.info(
            names.VOLUME_ACCESS_CHANGED,
            volume=word.volume_id,
            revision=word.access.revision,
            entries=len(word.access.entries),
            allow_none=word.access.allow_none,
        )
        for changed in self._watchers:
            changed(word.volume_id)
        return True

    async def keep(self, word: AllowAccess) -> None:
        """Learn it, then make it durable; one that cannot be written counts all the same."""
        changed = self.learn(word)
        if self._folder is None:
            return
        if changed or not (self._folder / f"{word.volume_id}.json").exists():
            try:
                await asyncio.to_thread(_write, self._folder, word)
            except OSError as error:
                self._log.error(
                    names.COMMAND_FAILED,
                    command="keep access list",
                    volume=word.volume_id,
                    cause=str(error),
                )

    def forget(self, volume_id: VolumeId) -> None:
        """The volume has nothing here any more."""
        self._held.pop(volume_id, None)
        if self._folder is not None:
            (self._folder / f"{volume_id}.json").unlink(missing_ok=True)

    def _read(self, folder: Path) -> Iterator[tuple[VolumeId, VolumeAccess]]:
        for path in sorted(folder.glob("*.json")):
            try:
                access = _decode(path.read_text(), VolumeId(path.stem))
            except (OSError, ValueError, BadRecord) as error:
                # Not the text of it, which may have a secret in it.
                self._log.error(
                    names.RECORD_QUARANTINED, volume=path.stem, cause=type(error).__name__
                )
                continue
            yield VolumeId(path.stem), access

    def of(self, volume_id: VolumeId) -> VolumeAccess | None:
        """A frozen picture, for a login that takes a while."""
        return self._held.get(volume_id)

    def snapshot(self) -> dict[VolumeId, VolumeAccess]:
        """All of it, as it is now."""
        return dict(self._held)

    def decide(self, volume_id: VolumeId, asker: Asker) -> Admitted | Denied:
        """As it is now."""
        return decide(self._held.get(volume_id), asker)


def _write(folder: Path, word: AllowAccess) -> None:
    """Replace the file of one volume, durably and readable by nobody else."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{word.volume_id}.json"
    new = path.with_suffix(".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(_encode(word))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _encode(word: AllowAccess) -> str:
    body = dump(
        {
            "volume_id": word.volume_id,
            "access": access_body(word.access),
            "secrets": [{"name": one.name, "value": one.value.hex()} for one in word.secrets],
        }
    )
    return f"{checksum(body)} {body}\n"


def _decode(text: str, wanted: VolumeId) -> VolumeAccess:
    """Raises: BadRecord, ValueError."""
    found, _, body = text.rstrip("\n").partition(" ")
    if checksum(body) != found:
        raise BadRecord("the checksum differs")
    fields = Body(load(body), "access file")
    if fields.text("volume_id") != wanted:
        raise BadRecord("it is about another volume")
    access = VolumeAccess(
        allowed=fields.value_if_any("access", access_of, AccessList()),
        secrets=fields.rows("secrets", _secret),
    )
    fields.end()
    return access


def _secret(value: object) -> Secret:
    fields = Body(value, "secret")
    secret = Secret(name=fields.text("name"), value=bytes.fromhex(fields.text("value")))
    fields.end()
    return secret


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address that a connection came to."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
