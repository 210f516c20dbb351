"""Volumes and nodes as tables for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from enum import Enum
from typing import Any, Final, TypeAlias

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from sparrow.authority.types import FrontendTarget, PeerProgress
from sparrow.base.access import ANYONE, AccessList, Frontend
from sparrow.base.constants import PAGE_BYTES
from sparrow.base.units import format_size
from sparrow.rpc.messages import NodeView, ScrubReport, SecretView, VolumeView, VolumeWhy
from sparrow.runtime.config import split_address

#: Colour by state; the word itself is always there too.
_STYLES: Final = {
    "healthy": "green",
    "ready": "green",
    "degraded": "yellow",
    "creating": "cyan",
    "deleting": "cyan",
    "unavailable": "red",
    "lost": "red",
    "never_seen": "red",
    "primary": "bold",
    "cordoned": "yellow",
    "draining": "cyan",
}


#: By policy: when a write is answered.
_ANSWERED: Final = {
    "sync": "durable on every replica in sync (ack=sync)",
    "quorum": "durable on two replicas (ack=quorum)",
    "local": "durable on the primary (ack=local)",
}


#: The cells of one row.
Row: TypeAlias = tuple[str | Text, ...]

VOLUME_COLUMNS: Final = ("NAME", "SIZE", "REPLICAS", "STATE", "PRIMARY", "SERVED AT")
NODE_COLUMNS: Final = (
    *("NODE", "STATE", "WANTED", "ZONE", "REPLICAS", "PRIMARIES", "FREE", "ISCSI", "HEARD"),
)
SECRET_COLUMNS: Final = ("SECRET", "USED BY", "STATE")


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=_STYLES.get(state, ""))


def print_json(value: Any) -> None:
    """One JSON document on standard output; dataclasses become objects."""
    print(json.dumps(plain(value), indent=2))


def plain(value: Any) -> Any:
    """Dataclasses, tuples and enums as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def volume_row(volume: VolumeView) -> Row:
    """What ``VOLUME_COLUMNS`` names."""
    return (
        volume.name,
        format_size(volume.size_bytes),
        replicas_text(volume),
        state_text(volume.state),
        primary_node(volume) or "-",
        served_at(volume) or "-",
    )


def volumes_table(volumes: Sequence[VolumeView]) -> Table:
    table = make_table(VOLUME_COLUMNS)
    for volume in volumes:
        table.add_row(*volume_row(volume))
    return table


def node_row(node: NodeView) -> Row:
    """What ``NODE_COLUMNS`` names."""
    room = f"{format_size(node.pool_free_bytes)} of {format_size(node.pool_total_bytes)}"
    return (
        node.node_id,
        state_text(node.state),
        state_text(node.desired_state),
        node.zone or "-",
        str(node.replica_count),
        str(node.primary_count),
        room if node.pool_total_bytes else "-",
        node.iscsi_addr or "-",
        "never" if node.state == "never_seen" else f"{node.last_heard_s:.1f} s ago",
    )


def volume_details(volume: VolumeView) -> list[RenderableType]:
    """One volume in full: its properties, its replicas, how to attach it."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("name", volume.name)
    facts.add_row("state", state_text(volume.state))
    if volume.cause:
        facts.add_row("cause", volume.cause)
    growing = (
        f", becoming {format_size(volume.size_wanted)}"
        if volume.size_wanted > volume.size_bytes
        else ""
    )
    facts.add_row("size", f"{format_size(volume.size_bytes)} ({volume.size_bytes} bytes){growing}")
    facts.add_row("block size", f"{volume.block_size} bytes")
    if volume.attached_to:
        facts.add_row("attached to", volume.attached_to)
    facts.add_row("replicas", replicas_text(volume))
    if volume.line is not None:
        lineage = volume.line.lineage
        facts.add_row("epoch", f"{lineage.epoch}.{lineage.endpoint_version}")
        facts.add_row("writes need", f"{volume.line.min_in_sync} in sync")
    facts.add_row("answered when", _ANSWERED[volume.ack])
    if volume.ack == "local":
        facts.add_row("loss window", f"{volume.uncommitted} writes only the primary has for sure")
    replicas = _table("REPLICA", "NODE", "ROLE", "STATE", "DURABLE LSN", "COMMIT LSN")
    for replica in volume.replicas:
        replicas.add_row(
            replica.replica_id,
            replica.node_id,
            state_text(replica.role),
            replica.state or "-",
            str(replica.durable_lsn),
            str(replica.commit_lsn),
        )
    parts: list[RenderableType] = [facts, "", replicas]
    returning = [
        f"{one.replica_id}: {progress_text(one.progress)}"
        for one in volume.replicas
        if one.progress is not None and one.progress.kind
    ]
    if returning:
        parts += ["", "Coming back:", *returning]
    for target in volume.frontends:
        parts += ["", *attach_lines(target)]
    return parts


def access_table(access: AccessList) -> RenderableType:
    """Who may use a volume."""
    if access.revision == 0:
        return "Nobody was allowed yet: only initiators on the node's own machine are let in."
    if not access.entries:
        return "Nobody is let in: the list is empty."
    table = _table("PROTOCOL", "NAME", "PROVES", "WE PROVE")
    for entry in access.entries:
        named = entry.protocol is Frontend.NBD and entry.name != ANYONE
        proves = entry.secret or ("its certificate" if named else "nothing")
        table.add_row(entry.protocol, entry.name, proves, entry.target_secret or "-")
    return table


def secret_row(secret: SecretView) -> Row:
    """What ``SECRET_COLUMNS`` names; never a value."""
    used = ", ".join(secret.volumes) or "-"
    return (secret.name, used, "damaged" if secret.damaged else "ok")


def scrub_table(report: ScrubReport) -> Table:
    """How far the scrub of each replica is, or what the last one found."""
    table = _table(
        "SCRUB OF",
        "STATE",
        "PAGES",
        "DAMAGED",
        "REPAIRED",
        "UNREPAIRABLE",
        "DIFFERENT",
        "LAST DONE",
    )
    for one in report.replicas:
        done = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.finished_at))
        share = 100 * one.pages_done // one.pages_total if one.pages_total else 100
        table.add_row(
            one.replica_id,
            f"running, {share} %" if one.running else "done" if one.finished_at else "never done",
            f"{one.pages_done} of {one.pages_total}",
            str(one.damaged),
            str(one.repaired),
            str(one.unrepairable),
            str(one.different),
            done if one.finished_at else "-",
        )
    for replica in report.unreachable:
        table.add_row(replica, "unreachable", "-", "-", "-", "-", "-", "-")
    return table


def why_details(why: VolumeWhy) -> list[RenderableType]:
    """Why a volume is as it is: its state, each replica as primary, each node as a place, what is replaced."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("name", why.name)
    facts.add_row("state", state_text(why.state))
    if why.cause:
        facts.add_row("cause", why.cause)
    facts.add_row("decision", why.decision or "-")
    if why.balance:
        facts.add_row("balance", why.balance)
    facts.add_row("topology", f"version {why.topology_version}")
    candidates = _table("REPLICA", "NODE", "IN SYNC", "AS PRIMARY")
    for one in why.candidates:
        fit = "it is primary" if one.primary else "could take over"
        if one.rejected is not None:
            fit = f"primary, but {one.rejected}" if one.primary else f"no: {one.rejected}"
        in_sync = "yes" if one.in_sync else "no"
        candidates.add_row(one.replica_id, one.node_id, in_sync, fit)
    placement = _table("NODE", "CHOSEN", "ROOM", "WHY")
    for verdict in why.placement:
        room = format_size(verdict.room_bytes)
        placement.add_row(verdict.node_id, "yes" if verdict.chosen else "no", room, verdict.reason)
    parts: list[RenderableType] = [facts, "", candidates]
    if why.returning:
        returning = [f"{one.replica_id}: {progress_text(one)}" for one in why.returning]
        parts += ["", "Coming back:", *returning]
    if why.placement:
        parts += ["", "The newest placement decision:", placement]
    if why.replacements:
        moves = _table("REPLICA", "NODE", "SUCCESSOR", "STEP", "WHY", "NOW")
        for move in why.replacements:
            successor = f"{move.successor} on {move.successor_node}" if move.successor else "-"
            moves.add_row(
                move.replica_id, move.node_id, successor, move.stage, move.cause, move.text
            )
        parts += ["", "Being replaced:", moves]
    return parts


def progress_text(progress: PeerProgress) -> str:
    """``delta rebuild, 42 % (310 MiB left, 85 MiB/s)``."""
    left = max(0, progress.total - progress.done)
    share = 100 if progress.total == 0 else 100 * progress.done // progress.total
    rate = f"{format_size(progress.rate)}/s"
    if progress.kind == "catch_up":
        return f"catch-up, {share} % ({left} entries left, {rate})"
    return f"{progress.kind} rebuild, {share} % ({format_size(left * PAGE_BYTES)} left, {rate})"


def replicas_text(volume: VolumeView) -> str:
    """``2 of 3 in sync``."""
    if volume.line is None:
        return f"0 of {volume.replication_factor} in sync"
    return f"{len(volume.line.in_sync)} of {volume.replication_factor} in sync"


def primary_node(volume: VolumeView) -> str:
    """The node of the primary; empty while there is none."""
    return next((r.node_id for r in volume.replicas if r.role == "primary"), "")


def served_at(volume: VolumeView) -> str:
    """The URL initiators use, of the first place it is served; empty while it is served nowhere."""
    return iscsi_url(volume.frontends[0]) if volume.frontends else ""


def iscsi_url(target: FrontendTarget) -> str:
    """``iscsi://host:port/name/lun``, as libiscsi and qemu take it."""
    return f"iscsi://{target.addr}/{target.name}/{target.lun}"


def nbd_url(target: FrontendTarget) -> str:
    """``nbd://host:port/name``, as qemu and libnbd take it; ``nbds`` where TLS is required."""
    return f"{target.protocol}://{target.addr}/{target.name}"


def attach_lines(target: FrontendTarget) -> list[str]:
    """Commands that attach a volume, ready to paste."""
    if target.protocol == "nvme":
        host, port = split_address(target.addr)
        return [
            "Attach it over NVMe/TCP (as root; once for each node that holds a replica):",
            f"  nvme connect -t tcp -a {host} -s {port} -n {target.name}",
        ]
    if target.protocol in {"nbd", "nbds"}:
        return [
            "Copy it with NBD, on this replica only (no failover):",
            f"  nbdinfo {nbd_url(target)}",
            f"  qemu-img convert -n -O raw IMAGE {nbd_url(target)}",
        ]
    portal = f"-p {target.addr}"
    return [
        "Attach it with the kernel's initiator (as root; on this replica only, docs/operations/iscsi.md has all):",
        f"  iscsiadm -m discovery -t sendtargets {portal}",
        f"  iscsiadm -m node -T {target.name} {portal} --login",
        "or use it with qemu:",
        f"  qemu-img info {iscsi_url(target)}",
        f"  qemu-img convert -n -O raw IMAGE {iscsi_url(target)}",
    ]


def console(*, error: bool = False) -> Console:
    """A console that neither wraps nor colours what goes into a pipe."""
    made = Console(stderr=error, highlight=False, soft_wrap=True)
    if not made.is_terminal:
        # Wide enough that no cell of a table is ever cut in a pipe.
        return Console(stderr=error, highlight=False, soft_wrap=True, width=240)
    return made


def make_table(columns: Sequence[str], *, widths: Sequence[int] = (), header: bool = True) -> Table:
    """A table without lines. ``widths``: what the columns have at least, in cells."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
    least = [*widths, *[None] * (len(columns) - len(widths))]
    for column, width in zip(columns[:-1], least[:-1], strict=True):
        table.add_column(column, no_wrap=True, min_width=width)
    # Only the last one may need more room than a terminal has; it goes on in the next line, never cut.
    table.add_column(columns[-1], overflow="fold")
    return table


def _table(*columns: str) -> Table:
    return make_table(columns)
