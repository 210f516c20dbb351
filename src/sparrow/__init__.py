"""sparrow: replicated block storage served over iSCSI.

This package holds one distribution with one console script; docs/ARCHITECTURE.md has the map of its rooms.
It imports nothing at its top, so that a tool can read the version without starting the product.
"""

from sparrow._version import VERSION

__version__ = VERSION
__all__ = ["__version__"]
