"""``sparrow node``: list nodes, and run one."""

from __future__ import annotations

import typer

from sparrow.cli.common import MasterOption, Output, OutputOption, call
from sparrow.cli.processes import PASS_ON, run_process
from sparrow.cli.tables import console, nodes_table, print_json

app = typer.Typer(help="Storage nodes.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_nodes(master: MasterOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the nodes the master knows."""
    nodes = call(master, lambda client: client.list_nodes())
    if output is Output.JSON:
        print_json(nodes)
    elif nodes:
        console().print(nodes_table(nodes))
    else:
        print("The master has heard from no node yet. `sparrow node run` starts one.")


@app.command("run", context_settings=PASS_ON)
def run(context: typer.Context) -> None:
    """Run a storage node in the foreground; `--print-config` shows every setting."""
    from sparrow.node.app import main  # noqa: PLC0415 - other verbs must not pay for the data plane

    run_process(main, context.args)
