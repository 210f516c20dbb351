"""Settings of the master's process."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from sparrow.runtime.config import setting, split_address


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterSettings:
    """Everything else about the cluster is in the store."""

    data: Path = setting("directory of the authority store; only one master may use it")
    listen: str = setting("address of the control API, host:port", default="127.0.0.1:7400")
    log_level: str = setting("debug, info, warning or error", default="info")


def validate(settings: MasterSettings) -> list[str]:
    """One sentence per setting that cannot be used."""
    faults = []
    try:
        split_address(settings.listen)
    except ValueError as error:
        faults.append(f"listen: {error}.")
    if settings.log_level.upper() not in logging.getLevelNamesMapping():
        faults.append(f"log_level: {settings.log_level!r} is no level.")
    return faults
