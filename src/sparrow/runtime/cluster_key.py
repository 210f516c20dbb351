"""The cluster key on disk: what every process of a cluster proves itself to the others with.

A text file, one key per line as 64 hexadecimal digits, empty lines and lines that begin with ``#`` aside; one key, or
two while the key is changed. The first is the one proved with, both are accepted from others. So a key is changed
without a break in three rounds over all machines: add the new one below the old one, swap the two, take the old one
away. The file is looked at again at each connection, so nothing is restarted.

Who can read the file can speak as any node: only its owner may, which is checked.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.base import events
from sparrow.base.errors import AlreadyExists, ConfigError
from sparrow.formats.hello import ClusterKey

KEY_BYTES: Final = 32
KEYS_MAX: Final = 2
KEY_TEXT: Final = re.compile("[0-9a-f]{64}")
#: Nobody but the owner may read or write it.
MODE: Final = 0o600
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def create_key_file(path: Path) -> None:
    """Make a file with one new key, durable when this returns. Raises: AlreadyExists, ConfigError."""
    text = f"# sparrow cluster key: a secret\n{secrets.token_bytes(KEY_BYTES).hex()}\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    except FileExistsError:
        raise AlreadyExists(
            f"There is a file {path} already.", hint="A key that is in use must not be replaced."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"The cluster key cannot be written to {path}: {error.strerror}."
        ) from error
    try:
        # Whatever the umask is.
        os.fchmod(fd, MODE)
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)


def read_key_file(path: Path) -> tuple[ClusterKey, ...]:
    """One or two keys, the one to prove with first.

    Raises: ConfigError: it is not there, others may read it, or it is no key file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"The cluster key {path} cannot be read: {error.strerror}.",
            hint="Copy it from another node of the cluster; the first one makes it with: sparrow node key PATH",
        ) from error
    with os.fdopen(fd, "rb") as file:
        _check_mode(path, os.fstat(fd))
        lines = file.read(4096).decode("ascii", "replace").splitlines()
    texts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not 1 <= len(texts) <= KEYS_MAX:
        raise ConfigError(f"The cluster key {path} holds {len(texts)} keys, not one or two.")
    for number, text in enumerate(texts, 1):
        if KEY_TEXT.fullmatch(text) is None:
            raise ConfigError(f"Key {number} in {path} is not 64 hexadecimal digits (0-9, a-f).")
    return tuple(ClusterKey(secret=bytes.fromhex(text)) for text in texts)


def _check_mode(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"The cluster key {path} is not a file.")
    if found.st_mode & _OTHERS:
        raise ConfigError(
            f"The cluster key {path} is open to others (mode {stat.S_IMODE(found.st_mode):04o}).",
            hint=f"chmod 600 {path}",
        )
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"The cluster key {path} belongs to another user.")


class ClusterKeys:
    """The keys as they are on disk now; a file that became unusable leaves the keys as they were, and is told once.

    Raises: ConfigError: the file cannot be used at the start.
    """

    def __init__(self, path: Path, log: FilteringBoundLogger) -> None:
        self._path = path
        self._log = log
        self._keep(read_key_file(path))
        self._seen = self._look()

    def own(self) -> ClusterKey:
        """The key to prove with."""
        return self._now()[0]

    def find(self, key_id: bytes) -> ClusterKey | None:
        """The key another process names, if it is one of ours."""
        self._now()
        return self._by_id.get(key_id)

    def _keep(self, keys: tuple[ClusterKey, ...]) -> None:
        """An id is a mac, and asked for with every call: it is made once."""
        self._keys = keys
        self._by_id = {key.key_id: key for key in keys}

    def _now(self) -> tuple[ClusterKey, ...]:
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._keep(read_key_file(self._path))
            except ConfigError as error:
                self._log.error(events.KEY_UNUSABLE, path=str(self._path), cause=error.sentence())
            else:
                names = [key_id.hex() for key_id in self._by_id]
                self._log.info(events.KEY_READ, path=str(self._path), keys=names)
        return self._keys

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)
