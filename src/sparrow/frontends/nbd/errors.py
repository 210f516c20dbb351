"""What a client can do wrong before it chose an export."""

from __future__ import annotations

from sparrow.base.errors import RemoteProtocolError


class NbdError(RemoteProtocolError, code="nbd.protocol"):
    """The client broke the protocol where no error can be answered; the connection ends."""


class MalformedOption(NbdError, code="nbd.option_malformed"):
    """The data of an option is not what the option says it is; answered, and the haggling goes on."""
