"""The command line's root: groups of verbs, and errors as one sentence with an exit status.

Exit status 0: done; 2: the arguments are off; the others are the table of ``rpc.errors``.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

# gRPC's C core prints its own lines about connections that our errors explain better.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import typer

from sparrow import __version__
from sparrow.base.errors import SparrowError
from sparrow.cli import access, authority, master, node, sim, up, volume
from sparrow.rpc.errors import row_of

app = typer.Typer(
    help="Replicated block storage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("up")(up.up)
app.command("sim")(sim.sim)
app.command("why")(volume.why)
volume.app.command("access")(access.access)
app.add_typer(volume.app, name="volume")
app.add_typer(access.app, name="secret")
app.add_typer(node.app, name="node")
app.add_typer(master.app, name="master")
app.add_typer(authority.app, name="authority")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sparrow {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Replicated block storage."""


def main() -> None:
    """Run one command; what is expected to go wrong ends in a sentence, never in a traceback."""
    try:
        app()
    except SparrowError as error:
        print(f"Error: {error}", file=sys.stderr)
        if error.hint:
            print(error.hint, file=sys.stderr)
        sys.exit(row_of(error).exit_status)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
