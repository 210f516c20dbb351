"""``make bench-stages``: where the microseconds of one durable write go, with one replica and with three.

    python -m bench.stages                   half a minute; needs root and tracefs

Durable random writes of 4 KiB over NBD at depth 1. Each stage lies between two events of the nodes' rings, which the
kernel traces (`tests/support/ring_trace.py`); the core takes no part. The reactor of the primary receives the request,
asks for its log write and sends the batch to each follower in one turn; each follower does the same and acknowledges;
the answer leaves when the log write and the acknowledgements are there. A figure is the median over all writes of the
run, so the stages of one column add up to its whole only about. The trace costs something itself: the client's p50
with and without it is printed.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.client.run import Load, build_client, run_client, touch_span
from bench.cpus import DATA
from bench.servers import Server, sparrow
from bench.table import LARGE, SETTLE_S, say
from tests.support.leave import end_on_sigterm
from tests.support.ring_trace import Operation, TraceLost, TraceUnavailable, ring_trace, threads_of

BLOCK: Final = 4096
SPAN: Final = 64 << 20
LOAD: Final = Load(write=True, sequential=False, block=BLOCK, depth=1, span=SPAN)
FILL: Final = Load(write=True, sequential=True, block=LARGE, depth=8, span=SPAN)
#: How much of a run's writes must be found whole in the trace; others had something beside them.
ENOUGH: Final = 0.5
US: Final = 1e6
#: Of the run that is traced: a fast disk fills the trace's buffer within seconds.
TRACED_S: Final = 0.4


#: What one column is called that is no stage.
WHOLE: Final = "primary: request received to answer sent"


class NotTraced(RuntimeError):
    """The trace does not show the writes that were made."""


@dataclass(frozen=True, slots=True)
class Wire:
    """One TCP connection on loopback as one end sees it: its own port and the other's."""

    own: int
    other: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One process: its threads, the descriptor of its log, and its connections by descriptor."""

    threads: frozenset[int]
    log: int
    wires: Mapping[int, Wire]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The connection on which a primary ships to a follower: the descriptor of each, and the follower's log."""

    out: int
    follower: int
    into: int
    log: int


class Trace:
    """What all nodes asked of their rings, to be looked up by time."""

    def __init__(self, found: Iterable[Operation], nodes: Sequence[Node]) -> None:
        owner = {thread: at for at, node in enumerate(nodes) for thread in node.threads}
        self._found: dict[tuple[int, str, int], list[Operation]] = defaultdict(list)
        for one in found:
            if one.thread in owner:
                self._found[owner[one.thread], one.opcode, one.fd].append(one)
        for (_, opcode, _), operations in self._found.items():
            operations.sort(key=_ended if opcode == "RECV" else _began)

    def all(self, node: int, opcode: str, fd: int) -> Sequence[Operation]:
        """A node's operations of that kind on that descriptor: receives by their end, others by their beginning."""
        return self._found.get((node, opcode, fd), ())

    def after(self, at: float, node: int, opcode: str, fd: int) -> Operation:
        """The first of them from a time on. Raises LookupError when there is none."""
        operations = self.all(node, opcode, fd)
        first = bisect.bisect_left(operations, at, key=_ended if opcode == "RECV" else _began)
        if first == len(operations):
            raise LookupError(f"no {opcode} after {at}")
        return operations[first]


def node_of(pid: int) -> Node:
    """Of a running process. Source of the addresses: Linux, Documentation/networking/proc_net_tcp.rst."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    ports = {
        row[9]: Wire(int(row[1].partition(":")[2], 16), int(row[2].partition(":")[2], 16))
        for row in rows
    }
    log, wires = -1, {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        name = str(link.readlink())
        if name.endswith("/wal"):
            log = int(link.name)
        elif name.startswith("socket:[") and (wire := ports.get(name[8:-1])) is not None:
            wires[int(link.name)] = wire
    return Node(threads=frozenset(threads_of(pid)), log=log, wires=wires)


def links(trace: Trace, nodes: Sequence[Node], primary: int) -> list[Link]:
    """Of all connections between the primary and another node the one on which most batches went, if any did."""
    found = []
    for at, node in enumerate(nodes):
        ends = {wire: fd for fd, wire in node.wires.items()}
        shipped = [
            (sum(one.result > BLOCK for one in trace.all(primary, "SENDMSG", out)), out, into)
            for out, wire in nodes[primary].wires.items()
            if (into := ends.get(Wire(wire.other, wire.own))) is not None and at != primary
        ]
        count, out, into = max(shipped, default=(0, -1, -1))
        if count:
            found.append(Link(out=out, follower=at, into=into, log=node.log))
    return found


def stages_of(trace: Trace, nodes: Sequence[Node], port: int) -> list[dict[str, float]]:
    """The stages of every write of one client at depth 1, microseconds by name; ``port`` is the primary's for clients.

    A write that had something else beside it, so that its events do not come in their order, is left out.

    Raises:
        NotTraced: no client came in on that port.
    """
    primary, client = next(
        (
            (at, fd)
            for at, node in enumerate(nodes)
            for fd, wire in node.wires.items()
            if wire.own == port and trace.all(at, "RECV", fd)
        ),
        (None, -1),
    )
    if primary is None:
        raise NotTraced(f"no node received anything on port {port}")
    ways = links(trace, nodes, primary)
    requests = [one.ended for one in trace.all(primary, "RECV", client) if one.result > BLOCK]
    found = []
    for received, following in itertools.pairwise(requests):
        try:
            log = trace.after(received, primary, "WRITEV", nodes[primary].log)
            answer = trace.after(received, primary, "SENDMSG", client)
            parts = [_follower(trace, primary, way, received) for way in ways]
        except LookupError:
            continue
        last = max([log.ended, *(heard for heard, _ in parts)])
        if not log.began < log.ended <= last <= answer.began < following:
            continue
        stages = {
            "primary: request received, log write asked": log.began - received,
            "primary: log write, durable": log.ended - log.began,
        }
        for name in parts[0][1] if parts else ():
            # Of two followers the mean: both are waited for.
            stages[name] = statistics.fmean(part[name] for _, part in parts)
        if parts:
            stages["primary: last acknowledgement behind its own log write"] = last - log.ended
        stages["primary: all there, answer sent"] = answer.began - last
        stages[WHOLE] = answer.began - received
        found.append({name: seconds * US for name, seconds in stages.items()})
    return found


def _follower(
    trace: Trace, primary: int, way: Link, received: float
) -> tuple[float, dict[str, float]]:
    """When the primary has its acknowledgement, and the stages before that, seconds."""
    sent = trace.after(received, primary, "SENDMSG", way.out)
    got = trace.after(sent.began, way.follower, "RECV", way.into)
    log = trace.after(got.ended, way.follower, "WRITEV", way.log)
    ack = trace.after(log.ended, way.follower, "SENDMSG", way.into)
    heard = trace.after(ack.began, primary, "RECV", way.out)
    return heard.ended, {
        "primary: request received, batch sent": sent.began - received,
        "follower: batch received, from its sending": got.ended - sent.began,
        "follower: log write asked": log.began - got.ended,
        "follower: log write, durable": log.ended - log.began,
        "follower: acknowledgement sent": ack.began - log.ended,
        "primary: acknowledgement received, from its sending": heard.ended - ack.began,
    }


def _began(operation: Operation) -> float:
    return operation.began


def _ended(operation: Operation) -> float:
    return operation.ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Medians, microseconds: each stage, and the client's time without and with the trace."""

    stages: Mapping[str, float]
    client: float
    traced: float


def measure(program: Path, server: Server, *, seconds: float) -> Budget:
    """One run without the trace and a shorter one with it. Raises NotTraced, TraceUnavailable."""
    touch_span(program, server.target, FILL)
    time.sleep(SETTLE_S)
    plain = run_client(program, server.target, LOAD, seconds=seconds)
    nodes: list[Node] = []

    def look() -> float:
        # Called when the client is connected.
        nodes[:] = nodes or map(node_of, server.pids)
        return 0.0

    with ring_trace(*server.pids) as found:
        traced = run_client(program, server.target, LOAD, seconds=TRACED_S, clock=look)
    port = int(server.target[server.target.index("--port") + 1])
    writes = stages_of(Trace(found, nodes), nodes, port)
    if len(writes) < ENOUGH * traced.ios_all:
        raise NotTraced(f"{len(writes)} of {traced.ios_all} writes are whole in the trace")
    medians = {name: statistics.median(write[name] for write in writes) for name in writes[0]}
    return Budget(stages=medians, client=plain.p50_us, traced=traced.p50_us)


def render(columns: Mapping[str, Budget]) -> str:
    """Markdown: a line per stage, a column per server."""
    names = list(dict.fromkeys(name for budget in columns.values() for name in budget.stages))
    names = [*(name for name in names if name != WHOLE), WHOLE]
    lines = [f"| stage, us | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]

    def line(name: str, values: Iterable[float | None]) -> str:
        return f"| {name} | {' | '.join('' if v is None else f'{v:.0f}' for v in values)} |"

    lines += [line(name, (one.stages.get(name) for one in columns.values())) for name in names]
    lines += [
        line(
            "client: both ways through loopback, server and client woken",
            (one.traced - one.stages[WHOLE] for one in columns.values()),
        ),
        line("client: p50, traced", (one.traced for one in columns.values())),
        line("client: p50, not traced", (one.client for one in columns.values())),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.stages", description=__doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 3], choices=(1, 2, 3))
    parser.add_argument("--seconds", type=float, default=2.0, help="of a run without a trace")
    parser.add_argument("--data", type=Path, default=DATA, help="where the files lie meanwhile")
    options = parser.parse_args()
    end_on_sigterm()
    columns = {}
    with tempfile.TemporaryDirectory(prefix="sparrow-bench-", dir=options.data) as name:
        program = build_client(Path(name))
        for replicas in sorted(set(options.replicas)):
            with sparrow(Path(name), size_bytes=SPAN, replicas=replicas) as servers:
                server = next(server for server in servers if server.name.endswith("NBD"))
                say(f"measuring {server.name}")
                try:
                    columns[server.name] = measure(program, server, seconds=options.seconds)
                except (TraceUnavailable, TraceLost, NotTraced) as error:
                    print(f"bench-stages: {error}", file=sys.stderr)
                    return 1
    print(render(columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
