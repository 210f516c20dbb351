"""What the verbs share: which master to talk to, how to run a call, options that several have."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import typer

from sparrow.base.errors import InvalidArgument, Unavailable
from sparrow.rpc.api_client import ApiClient
from sparrow.runtime.config import split_address
from sparrow.runtime.embedded import BASE_PORT, HOST, read_cluster_file

T = TypeVar("T")

#: Where ``sparrow up`` keeps its cluster unless told otherwise, relative to the working directory.
DATA_DEFAULT: Final = Path("sparrow-data")
MASTER_DEFAULT: Final = f"{HOST}:{BASE_PORT}"


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


MasterOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--master",
        metavar="HOST:PORT",
        help="The master's address [default: $SPARROW_MASTER, else the cluster of `sparrow up` here].",
    ),
]
OutputOption: TypeAlias = Annotated[
    Output, typer.Option("--output", "-o", help="For people or for programs.")
]


def find_master(
    given: str | None, *, environment: Mapping[str, str] | None = None, directory: Path = Path()
) -> str:
    """The address to call: the option, else SPARROW_MASTER, else the embedded cluster's file, else the default.

    Raises: InvalidArgument: what was given is no address.
    """
    environment = os.environ if environment is None else environment
    address = given or environment.get("SPARROW_MASTER")
    if address:
        try:
            split_address(address)
        except ValueError as error:
            raise InvalidArgument(
                f"The master's address is off: {error}.", hint=f"Write it like {MASTER_DEFAULT}."
            ) from error
        return address
    data = Path(environment.get("SPARROW_UP_DATA") or directory / DATA_DEFAULT)
    cluster: dict[str, Any] = read_cluster_file(data) or {}
    return str(cluster.get("master", {}).get("addr", MASTER_DEFAULT))


def call(master: str | None, work: Callable[[ApiClient], Awaitable[T]]) -> T:
    """Run one conversation with the master to its end.

    Raises: SparrowError; one that says that nobody is there names the address and what to start.
    """
    address = find_master(master)

    async def run() -> T:
        async with ApiClient(address) as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except Unavailable as error:
        if str(error).startswith("Cannot reach the master"):
            raise Unavailable(
                f"No master answers at {address}.",
                hint="Start a cluster with `sparrow up`, or name its master with --master HOST:PORT.",
            ) from None
        raise


def typed(wanted: str, told: str, confirm: str | None, what: str) -> str:
    """What the person typed, or gave with --confirm. Raises InvalidArgument."""
    print(told, file=sys.stderr)
    if confirm is None:
        if not sys.stdin.isatty():
            raise InvalidArgument(
                "This may lose data and nobody is there to confirm it.",
                hint=f"Add --confirm {wanted}.",
            )
        confirm = typer.prompt(f"Type the {what} to go on")
    if confirm != wanted:
        raise InvalidArgument(f"That is not its {what}; nothing was done.")
    return confirm


def who() -> str:
    """Who types this, for the audit."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
