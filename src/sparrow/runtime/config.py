"""Settings of a process: flag over environment over file over default, all faults told at once.

A process describes its settings as one frozen dataclass whose fields were made with :func:`setting`. The file is TOML
with the same names; the environment variable of ``listen_data`` is ``SPARROW_LISTEN_DATA``; the flag is
``--listen-data``.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from sparrow.base.errors import ConfigError, SparrowError

Settings = TypeVar("Settings")

REQUIRED: Any = dataclasses.MISSING
ENVIRONMENT_PREFIX = "SPARROW_"


def setting(help_text: str, *, default: Any = REQUIRED) -> Any:
    """A field of a settings dataclass; without a default it must be given."""
    metadata = {"help": help_text}
    if default is REQUIRED:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[Settings]):
    """Settings, where each came from, and whether only printing them was asked for."""

    settings: Settings
    sources: Mapping[str, str]
    print_only: bool

    def explained(self) -> str:
        """One JSON object: value, source and meaning of each setting."""
        rows = {}
        for field in dataclasses.fields(self.settings):  # type: ignore[arg-type]
            value = getattr(self.settings, field.name)
            rows[field.name] = {
                "value": str(value) if isinstance(value, Path) else value,
                "source": self.sources[field.name],
                "meaning": field.metadata.get("help", ""),
            }
        return json.dumps(rows, indent=2)


def load(
    kind: type[Settings],
    *,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    validate: Callable[[Settings], list[str]] | None = None,
) -> Loaded[Settings]:
    """Read settings from arguments, environment and the file that ``--config`` names.

    Args:
        kind: a frozen dataclass of ``str``, ``int``, ``float``, ``bool`` and ``Path`` fields.
        arguments: ``--name value`` or ``--name=value``; ``--config FILE`` and ``--print-config`` are understood too.
        environment: usually ``os.environ``.
        validate: relations between settings; returns one sentence for each that does not hold.
    Raises:
        ConfigError: with one sentence for every fault found.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    types = get_type_hints(kind)
    faults: list[str] = []
    flags, config_file, print_only = _flags(arguments, fields, types, faults)
    layers = [("flag", flags), ("environment", _environment(environment, fields))]
    if config_file is not None:
        layers.append((f"file {config_file}", _file(config_file, fields, faults)))

    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, field in fields.items():
        for source, layer in layers:
            if name in layer:
                sources[name] = source
                try:
                    values[name] = _convert(layer[name], types[name])
                except ValueError as error:
                    faults.append(f"{name} (from {source}): {error}.")
                break
        else:
            if field.default is REQUIRED:
                faults.append(
                    f"{name} is not set: {field.metadata.get('help', 'it has no default')}."
                )
            else:
                sources[name] = "default"
                values[name] = field.default
    if not faults:
        settings = kind(**values)
        faults = [] if validate is None else validate(settings)
        if not faults:
            return Loaded(settings=settings, sources=sources, print_only=print_only)
    raise ConfigError(
        "The settings are not usable: " + " ".join(faults),
        hint="Give flags as --name value, or SPARROW_NAME in the environment, or a TOML file with --config.",
    )


def split_address(text: str) -> tuple[str, int]:
    """``host:port`` as its two parts; ``[::1]:80`` for IPv6.

    Raises:
        ValueError: no port, or one outside 0 to 65535.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r} is not host:port")
    if not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} has no port between 0 and 65535")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """Two parts as ``host:port``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _flags(
    arguments: Sequence[str], fields: Mapping[str, Any], types: Mapping[str, Any], faults: list[str]
) -> tuple[dict[str, Any], str | None, bool]:
    found: dict[str, Any] = {}
    config_file: str | None = None
    print_only = False
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        name, equals, value = flag.partition("=")
        if not name.startswith("--"):
            faults.append(f"{flag!r} is not a flag.")
            continue
        name = name[2:].replace("-", "_")
        if name == "print_config":
            print_only = True
            continue
        if name != "config" and name not in fields:
            faults.append(f"There is no flag --{name.replace('_', '-')}.")
            if not equals and rest and not rest[0].startswith("--"):
                rest.pop(0)
            continue
        if not equals:
            if types.get(name) is bool and (not rest or rest[0].startswith("--")):
                value = "true"
            elif rest:
                value = rest.pop(0)
            else:
                faults.append(f"{flag} needs a value.")
                continue
        if name == "config":
            config_file = value
        else:
            found[name] = value
    return found, config_file, print_only


def _environment(environment: Mapping[str, str], fields: Mapping[str, Any]) -> dict[str, Any]:
    names = {name: ENVIRONMENT_PREFIX + name.upper() for name in fields}
    return {
        name: environment[variable] for name, variable in names.items() if variable in environment
    }


def _file(path: str, fields: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        faults.append(f"{path} cannot be read: {error.strerror}.")
        return {}
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{path} is not TOML: {error}.")
        return {}
    faults.extend(
        f"{path} names {name}, which is no setting."
        for name in sorted(content.keys() - fields.keys())
    )
    return {name: value for name, value in content.items() if name in fields}


def _convert(value: Any, kind: Any) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() not in words:
            raise ValueError(f"{value!r} is neither true nor false")
        return words[str(value).lower()]
    if kind is int:
        if isinstance(value, bool) or not str(value).lstrip("-").isdigit():
            raise ValueError(f"{value!r} is not a whole number")
        return int(value)
    if kind is float:
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{value!r} is not a number") from None
    if kind is Path:
        if not str(value):
            raise ValueError("an empty path")
        return Path(str(value))
    if kind is str:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not text")
        return value
    raise SparrowError(f"Settings of type {kind} are not supported.")
