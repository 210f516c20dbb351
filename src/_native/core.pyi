from typing import Final

COMMANDS: Final[dict[str, int]]
EVENTS: Final[dict[int, str]]

class Core:
    event_fd: int
    addresses: tuple[int, int]
    free_pages: int
    def __new__(
        cls,
        *,
        ring: int = 0,
        table: int = 0,
        pages: int,
        versions: int,
        versions_per_volume: int,
        versions_behind: int,
        frames: int,
        batches: int,
        writes_max: int,
        joint_lsns: int,
        share_from: int,
        flush_fd: int,
        grant_ns: int,
        fence_hold_ns: int,
        repair_ns: int,
        hold_off_ns: int,
        rebuild_rate: int,
        rebuild_stretch_percent: int,
        wal_pin_percent: int,
    ) -> Core: ...
    def run(self) -> int: ...
    def close(self) -> None: ...
    def held(self) -> dict[str, int]: ...
    @property
    def cached_pages(self) -> int: ...
    @property
    def gathered_pages(self) -> int: ...
    def abandon(self) -> None: ...
    def post(
        self,
        kind: int,
        volume: int,
        token: int,
        a: int = 0,
        b: int = 0,
        c: int = 0,
        d: int = 0,
        flags: int = 0,
        data: bytes = b"",
    ) -> bool: ...
    def drain(
        self,
    ) -> list[tuple[int, int, int, int, int, int, int, int, int, bytes]]: ...

def session_config(
    *,
    key: int,
    tsih: int,
    cid: int,
    exp_cmd_sn: int,
    stat_sn: int,
    queue_depth: int,
    initiator_recv_bytes_max: int,
    target_recv_bytes_max: int,
    max_burst_bytes: int,
    first_burst_bytes: int,
    max_outstanding_r2t: int,
    initial_r2t: bool,
    immediate_data: bool,
    header_digest: bool,
    data_digest: bool,
    reinstated: bool,
    nexus: bytes = b"",
) -> bytes: ...
def queue_config(
    *,
    key: int,
    depth: int,
    sq_head: int,
    data_align: int,
    flow_control: bool,
    header_digest: bool,
    data_digest: bool,
    nexus: bytes = b"",
) -> bytes: ...
def nbd_config(*, key: int, structured: bool, allocation: bool, context: int) -> bytes: ...
