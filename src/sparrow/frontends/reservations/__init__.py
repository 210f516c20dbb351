"""Reservations of volumes, for SCSI and NVMe alike: what a command makes of the table, and what the table forbids.

Pure: a table and a command go in, the next table and whom to tell come out. It logs nothing and reaches nobody.
"""

from __future__ import annotations

from typing import Final

#: Are reservations offered at all? What says no here is refused as unknown over both protocols.
SERVED: Final[bool] = True
