"""What ``sparrow up`` prints: for a person at a terminal, for a log, or for a program."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import Final, Protocol

from rich.live import Live
from rich.text import Text

from sparrow.cli.common import DATA_DEFAULT
from sparrow.cli.tables import attach_lines, console, plain, state_text, volumes_table
from sparrow.rpc.messages import NodeView, VolumeView
from sparrow.runtime.embedded import LOGS, ClusterPlan
from sparrow.runtime.supervisor import Child, ChildState

#: How many volumes that are not served are named, at most.
MISSING_MAX: Final = 5


class Report(Protocol):
    """Told everything that happens, in order."""

    def starting(self) -> None: ...
    def child_changed(self, child: Child) -> None: ...
    def note(self, text: str) -> None: ...
    def waiting(self, volumes: Sequence[VolumeView], of: int) -> None: ...
    def ready(self, volumes: Sequence[VolumeView]) -> None: ...
    def status(self, volumes: Sequence[VolumeView], nodes: Sequence[NodeView]) -> None: ...
    def master_away(self) -> None: ...
    def stopping(self) -> None: ...
    def stopped(self) -> None: ...


def unserved(volumes: Sequence[VolumeView]) -> list[VolumeView]:
    """Those that no client can use yet and that are to be used."""
    return [volume for volume in volumes if not volume.frontends and volume.state != "deleting"]


def _listing(plan: ClusterPlan) -> str:
    """The command that lists volumes, as this machine finds the program and the program this cluster."""
    program = "sparrow" if shutil.which("sparrow") else sys.argv[0]
    found_by_itself = plan.directory == DATA_DEFAULT.absolute()
    return f"{program} volume list" + ("" if found_by_itself else f" --master {plan.master_addr}")


def status_line(volumes: Sequence[VolumeView], nodes: Sequence[NodeView]) -> Text:
    """``nodes n1 ready, n2 lost | volumes demo degraded (cause)``, states in their colours."""
    line = Text("nodes ")
    line.append(Text(", ").join(Text(f"{n.node_id} ") + state_text(n.state) for n in nodes))
    line.append(" | volumes ")
    if not volumes:
        line.append("none")
    parts = []
    for volume in volumes:
        part = Text(f"{volume.name} ") + state_text(volume.state)
        if volume.cause:
            part.append(f" ({volume.cause})")
        parts.append(part)
    line.append(Text(", ").join(parts))
    return line


class TerminalReport:
    """Sentences and a table; then one updating line on a terminal, one line per change elsewhere."""

    def __init__(self, plan: ClusterPlan) -> None:
        self._plan = plan
        self._out = console()
        self._live: Live | None = None
        self._last = ""
        self._stopping = False
        self._told = False

    def starting(self) -> None:
        nodes = len(self._plan.nodes)
        some = "1 node" if nodes == 1 else f"{nodes} nodes"
        self._out.print(f"Starting a master and {some} in {self._plan.directory}")

    def child_changed(self, child: Child) -> None:
        if self._stopping:
            return
        name = child.spec.name
        if child.state is ChildState.RESTARTING:
            self._out.print(f"{name} ended with {child.ended}; starting it again. Its log ends:")
            for line in child.log_tail:
                self._out.print(f"  {line}", markup=False)
        elif child.state is ChildState.READY and child.restarts:
            self._out.print(f"{name} is back, process {child.pid}")

    def note(self, text: str) -> None:
        self._out.print(text, markup=False)

    def waiting(self, volumes: Sequence[VolumeView], of: int) -> None:
        first = volumes[0]
        many = "" if of == 1 else f", {of - len(volumes)} of {of} volumes are served"
        self._show(Text(f"Waiting for volume {first.name}: {first.cause or first.state}{many}"))

    def ready(self, volumes: Sequence[VolumeView]) -> None:
        self._out.print()
        if volumes:
            self._out.print(volumes_table(volumes))
        self._tell_what_is_missing(unserved(volumes))
        self._tell_how_to_attach(volumes)
        self._out.print()
        for node in self._plan.nodes:
            self._out.print(
                f"{node.node_id}: iSCSI at {node.iscsi_addr}, NVMe/TCP at {node.nvme_addr}, NBD at {node.nbd_addr}"
            )
        where = self._plan.master_addr
        self._out.print(f"The master is at {where}; in another terminal: {_listing(self._plan)}")
        self._out.print("Ctrl-C stops the cluster; the data stays.")

    def status(self, volumes: Sequence[VolumeView], nodes: Sequence[NodeView]) -> None:
        self._tell_how_to_attach(volumes)
        self._show(status_line(volumes, nodes))

    def master_away(self) -> None:
        self._show(Text("the master does not answer; volumes go on without it", style="yellow"))

    def stopping(self) -> None:
        self._stopping = True
        if self._live is not None:
            self._live.stop()
        self._out.print("Stopping the cluster")

    def stopped(self) -> None:
        self._out.print("Stopped.")

    def _tell_what_is_missing(self, volumes: Sequence[VolumeView]) -> None:
        if not volumes:
            return
        self._out.print()
        for volume in volumes[:MISSING_MAX]:
            text = f"Volume {volume.name} is not served yet: {volume.cause or volume.state}."
            self._out.print(text, markup=False)
        if len(volumes) > MISSING_MAX:
            self._out.print(f"And {len(volumes) - MISSING_MAX} more are not.")
        logs = self._plan.directory / LOGS
        self._out.print(
            f"It goes on by itself; `sparrow volume why NAME` says more, logs are in {logs}.",
            markup=False,
        )

    def _tell_how_to_attach(self, volumes: Sequence[VolumeView]) -> None:
        """Once, as soon as there is something to attach."""
        served = next((volume.frontends for volume in volumes if volume.frontends), ())
        if served and not self._told:
            self._told = True
            for target in served:
                self._out.print()
                for line in attach_lines(target):
                    self._out.print(line, markup=False)

    def _show(self, line: Text) -> None:
        if self._out.is_terminal and self._live is None:
            self._live = Live(console=self._out, auto_refresh=False)
            self._live.start()
        if self._live is not None:
            self._live.update(line, refresh=True)
        elif line.plain != self._last:
            self._out.print(line)
        self._last = line.plain


class JsonReport:
    """One JSON object per line on standard output, each with the key ``event``."""

    def __init__(self, plan: ClusterPlan) -> None:
        self._plan = plan
        self._last: object = None

    def starting(self) -> None:
        self._say("starting", directory=str(self._plan.directory), master=self._plan.master_addr)

    def child_changed(self, child: Child) -> None:
        self._say(
            "child",
            name=child.spec.name,
            state=child.state.value,
            pid=child.pid,
            restarts=child.restarts,
            ended=child.ended,
        )

    def note(self, text: str) -> None:
        self._say("note", text=text)

    def waiting(self, volumes: Sequence[VolumeView], of: int) -> None:
        now = {volume.name: volume.cause or volume.state for volume in volumes}
        if now != self._last:
            self._say("waiting", volumes=now, of=of)
        self._last = now

    def ready(self, volumes: Sequence[VolumeView]) -> None:
        self._say("ready", master=self._plan.master_addr, volumes=plain(tuple(volumes)))

    def status(self, volumes: Sequence[VolumeView], nodes: Sequence[NodeView]) -> None:
        now = {
            "volumes": {volume.name: volume.state for volume in volumes},
            "nodes": {node.node_id: node.state for node in nodes},
        }
        if now != self._last:
            self._say("status", **now)
        self._last = now

    def master_away(self) -> None:
        if self._last is not None:
            self._say("master_away")
        self._last = None

    def stopping(self) -> None:
        self._say("stopping")

    def stopped(self) -> None:
        self._say("stopped")

    def _say(self, event: str, **facts: object) -> None:
        print(json.dumps({"event": event, **facts}))
        sys.stdout.flush()
