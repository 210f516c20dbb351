"""What lists that come in pages have in common (AIP-158)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """``page_size`` 0: as many as the server likes. ``page_token``: what the page before it said."""

    page_size: int = 0
    page_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """``next_page_token`` is empty on the last page."""

    next_page_token: str = ""
