"""Settings: which source wins, and that all faults are told at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparrow.base.errors import ConfigError
from sparrow.runtime.config import join_address, load, setting, split_address


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    name: str = setting("who")
    port: int = setting("where", default=80)
    share: float = setting("how much", default=0.5)
    loud: bool = setting("whether", default=False)
    home: Path = setting("folder", default=Path("/tmp/x"))


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('name = "file"\nport = 1\nshare = 0.25\n')
    loaded = load(
        Settings,
        arguments=["--config", str(file), "--name=flag"],
        environment={"SPARROW_NAME": "environment", "SPARROW_PORT": "2"},
    )
    assert loaded.settings == Settings(name="flag", port=2, share=0.25)
    assert loaded.sources["name"] == "flag"
    assert loaded.sources["port"] == "environment"
    assert loaded.sources["share"].startswith("file")
    assert loaded.sources["home"] == "default"


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('colour = "red"\n')
    with pytest.raises(ConfigError) as caught:
        load(
            Settings,
            arguments=["--config", str(file), "--port", "eighty", "--speed", "3", "odd"],
            environment={"SPARROW_LOUD": "perhaps"},
        )
    text = str(caught.value)
    for word in ("colour", "eighty", "--speed", "odd", "perhaps", "name is not set"):
        assert word in text


def test_relations_are_checked_after_the_values() -> None:
    with pytest.raises(ConfigError, match="port must be even"):
        load(
            Settings,
            arguments=["--name", "a", "--port", "3"],
            environment={},
            validate=lambda s: [] if s.port % 2 == 0 else ["port must be even."],
        )


def test_a_flag_without_its_value_is_a_fault() -> None:
    with pytest.raises(ConfigError, match="--name needs a value"):
        load(Settings, arguments=["--name"], environment={})


def test_a_switch_needs_no_value() -> None:
    loaded = load(Settings, arguments=["--loud", "--name", "a"], environment={})
    assert loaded.settings.loud is True


def test_a_missing_file_is_a_fault() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Settings, arguments=["--config", "/nonexistent", "--name", "a"], environment={})


def test_print_config_explains_every_setting() -> None:
    loaded = load(Settings, arguments=["--name", "a", "--print-config"], environment={})
    assert loaded.print_only
    told = json.loads(loaded.explained())
    assert told["port"] == {"value": 80, "source": "default", "meaning": "where"}
    assert told["home"]["value"] == "/tmp/x"


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:80", ("::1", 80)), ("a.b:65535", ("a.b", 65535))],
)
def test_addresses_are_taken_apart_and_put_together(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts
    assert join_address(*parts) == text


@pytest.mark.parametrize("text", ["", "host", ":80", "host:", "host:x", "host:65536", "host:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|no port"):
        split_address(text)
