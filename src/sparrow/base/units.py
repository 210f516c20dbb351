"""Sizes as people write them and read them."""

from __future__ import annotations

import re
from typing import Final

from sparrow.base.errors import InvalidArgument

_FACTORS: Final = {
    "": 1,
    "B": 1,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
    "TIB": 1 << 40,
    "PIB": 1 << 50,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "PB": 10**15,
}
_SIZE: Final = re.compile(r"([0-9]+)(?:\.([0-9]+))? *([A-Za-z]*)")
_STEPS: Final = ("PiB", "TiB", "GiB", "MiB", "KiB")


def parse_size(text: str) -> int:
    """Bytes of ``"1GiB"``, ``"1.5 TiB"``, ``"500MB"`` or ``"4096"``; units are never guessed from one letter.

    Raises: InvalidArgument: not a size, or no whole number of bytes.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidArgument(f"{text!r} is not a size.", hint="Write for example 10GiB or 512MiB.")
    whole, fraction, unit = found[1], found[2] or "", found[3]
    factor = _FACTORS.get(unit.upper())
    if factor is None:
        hint = "Units are KiB MiB GiB TiB (powers of 1024) and kB MB GB TB (powers of 1000)."
        raise InvalidArgument(f"{text!r} has no unit that is known.", hint=hint)
    # Whole numbers all the way: a float would lose bytes above 8 PiB and round 0.1 GiB silently.
    scaled = int(whole + fraction) * factor
    parts: int = 10 ** len(fraction)
    size, rest = divmod(scaled, parts)
    if rest:
        raise InvalidArgument(
            f"{text!r} is not a whole number of bytes.", hint="Write it in a smaller unit."
        )
    return size


def format_size(size_bytes: int) -> str:
    """The largest binary unit that says it exactly, or two decimals of the largest that fits."""
    for unit in _STEPS:
        factor = _FACTORS[unit.upper()]
        if size_bytes >= factor:
            exact = size_bytes % factor == 0
            return (
                f"{size_bytes // factor} {unit}" if exact else f"{size_bytes / factor:.2f} {unit}"
            )
    return f"{size_bytes} B"
