"""Certificates for tests of TLS, made by openssl: an authority, a server's and a client's."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: A key that takes no time to make.
NEW_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    certificate: Path
    key: Path


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class Authority:
    """Signs certificates in a directory, named as libnbd and qemu look for them there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate = directory / "ca-cert.pem"
        self._key = directory / "ca-key.pem"
        directory.mkdir(parents=True, exist_ok=True)
        _openssl(
            *("req", "-x509", *NEW_KEY, "-days", "2", "-subj", "/CN=authority"),
            *("-keyout", str(self._key), "-out", str(self.certificate)),
        )

    def issue(self, role: str, name: str) -> Pair:
        """``role`` is server or client; ``name`` is its common name, a server is 127.0.0.1 and localhost besides."""
        key, request = self.directory / f"{role}-key.pem", self.directory / f"{role}.csr"
        certificate, extensions = self.directory / f"{role}-cert.pem", self.directory / "ext"
        extensions.write_text(
            "subjectAltName=IP:127.0.0.1,DNS:localhost\n"
            if role == "server"
            else "basicConstraints=CA:FALSE\n"
        )
        _openssl(
            *("req", *NEW_KEY, "-subj", f"/CN={name}"),
            *("-keyout", str(key), "-out", str(request)),
        )
        _openssl(
            *("x509", "-req", "-in", str(request), "-days", "2", "-CAcreateserial"),
            *("-CA", str(self.certificate), "-CAkey", str(self._key)),
            *("-extfile", str(extensions), "-out", str(certificate)),
        )
        return Pair(certificate=certificate, key=key)
