"""What a peer can do wrong in the iSCSI conversation.

Every error carries ``reply``: the last bytes the peer should still be given before the connection is closed
(a Login Response that says why, a Reject PDU), empty when the standard wants a plain close.
"""

from __future__ import annotations

from enum import Enum

from sparrow.base.errors import RemoteProtocolError


class IscsiError(RemoteProtocolError, code="iscsi.protocol"):
    """The initiator broke RFC 7143; send ``reply``, then close the connection."""

    def __init__(self, message: str, *, reply: bytes = b"", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reply = reply


class MalformedPdu(IscsiError, code="iscsi.pdu_malformed"):
    """A header field has a value the standard forbids, or a length is out of bounds."""


class MalformedText(IscsiError, code="iscsi.text_malformed"):
    """The key=value text cannot be read, or exceeds the limits of RFC 7143, 6.1."""


class SessionMisuse(IscsiError, code="iscsi.session_misuse"):
    """A well-formed request that this kind of session must never send."""


class LoginStatus(Enum):
    """(class, detail) of a Login Response. Source: RFC 7143, 11.13.5."""

    SUCCESS = (0x00, 0x00)
    MOVED_TEMPORARILY = (0x01, 0x01)
    INITIATOR_ERROR = (0x02, 0x00)
    AUTHENTICATION_FAILURE = (0x02, 0x01)
    FORBIDDEN = (0x02, 0x02)
    NOT_FOUND = (0x02, 0x03)
    UNSUPPORTED_VERSION = (0x02, 0x05)
    TOO_MANY_CONNECTIONS = (0x02, 0x06)
    MISSING_PARAMETER = (0x02, 0x07)
    SESSION_TYPE_UNSUPPORTED = (0x02, 0x09)
    NO_SUCH_SESSION = (0x02, 0x0A)
    INVALID_DURING_LOGIN = (0x02, 0x0B)
    SERVICE_UNAVAILABLE = (0x03, 0x01)


class LoginRejected(IscsiError, code="iscsi.login_rejected"):
    """The login ends here, with this status."""

    def __init__(self, status: LoginStatus, message: str, *, reply: bytes = b"") -> None:
        super().__init__(message, reply=reply)
        self.status = status
