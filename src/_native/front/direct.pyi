from typing import Final

KINDS: Final[dict[str, int]]

class Direct:
    def __new__(cls, core: int) -> Direct: ...
    def submit(
        self,
        volume: int,
        token: int,
        kind: str,
        first_page: int = 0,
        count: int = 0,
        data: bytes = b"",
        *,
        skip: int = 0,
        cut: int = 0,
        internal: bool = False,
        nexus: bytes = b"",
    ) -> bool: ...
    def abort_all(self) -> int: ...
    def forget(self) -> None: ...
    def look(
        self, volume: int
    ) -> tuple[bool, int, int, int, int, bool, int, int, bool, bool] | None: ...
    def serves(self, volume: int) -> bool: ...
    def check_at(self, volume: int, lsn: int) -> int | None: ...
    def tail_lsn(self, volume: int) -> int: ...
