"""The negotiation of one connection as a machine: bytes in, one outcome out per call.

    states      GREETED -> HAGGLING -> CHOSEN | ENDED         (and HAGGLING anew after STARTTLS)

Fixed newstyle only: a client that does not speak it cannot be told an error and gets only NBD_OPT_EXPORT_NAME, as the
standard has it. Each option is answered with what it asked for or with one error and a sentence for a human being; only
what cannot be answered ends the connection. STARTTLS forgets everything that was agreed on before it.

What a client can make us hold: one option of ``OPTION_BYTES_MAX``, and ``OPTIONS_MAX`` options. Data of an option
beyond that is thrown away as it comes, and the option is answered with NBD_REP_ERR_TOO_BIG.

Source: doc/proto.md of the NBD project, "Handshake phase", "TLS support", "Option types".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from sparrow.base.errors import LocalProtocolError
from sparrow.formats.nbd import (
    NBD_CLIENT_FLAGS,
    NBD_EXPORT_REPLY,
    NBD_FLAG_FIXED_NEWSTYLE,
    NBD_FLAG_NO_ZEROES,
    NBD_GREETING,
    NBD_MAGIC,
    NBD_OPT_ABORT,
    NBD_OPT_EXPORT_NAME,
    NBD_OPT_GO,
    NBD_OPT_INFO,
    NBD_OPT_LIST,
    NBD_OPT_LIST_META_CONTEXT,
    NBD_OPT_SET_META_CONTEXT,
    NBD_OPT_STARTTLS,
    NBD_OPT_STRUCTURED_REPLY,
    NBD_OPTION,
    NBD_OPTION_MAGIC,
    NBD_REP_ACK,
    NBD_REP_ERR_INVALID,
    NBD_REP_ERR_POLICY,
    NBD_REP_ERR_TLS_REQD,
    NBD_REP_ERR_TOO_BIG,
    NBD_REP_ERR_UNKNOWN,
    NBD_REP_ERR_UNSUP,
    NBD_STRING_BYTES_MAX,
)
from sparrow.frontends.nbd.errors import MalformedOption, NbdError
from sparrow.frontends.nbd.exports import Export, Exports, TlsPolicy
from sparrow.frontends.nbd.options import (
    QUERIES_MAX,
    context,
    decode_choice,
    decode_query,
    information,
    reply,
    server,
    text,
)

ALLOCATION: Final = "base:allocation"
#: The id of base:allocation in transmission; there is no other context.
ALLOCATION_ID: Final = 1
#: An export name and a few queries of full length, each with its length.
OPTION_BYTES_MAX: Final = 8 * (4 + NBD_STRING_BYTES_MAX) + 4 * QUERIES_MAX
#: A client that needs more options than this is not getting anywhere.
OPTIONS_MAX: Final = 256
_ZEROES: Final = bytes(124)


@dataclass(frozen=True, slots=True, kw_only=True)
class Haggling:
    """More bytes are needed; ``send`` may be empty."""

    send: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsWanted:
    """``send`` must reach the client in plain text; then comes the TLS handshake, and :meth:`Negotiation.secured`."""

    send: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The client is in transmission phase once ``send`` has reached it.

    Attributes:
        structured: replies to READ are structured ones.
        allocation: BLOCK_STATUS is answered, with base:allocation as its one context.
        residual: what came behind the option: the first bytes of the transmission phase.
    """

    send: bytes
    export: Export
    structured: bool
    allocation: bool
    residual: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The client gave up, in order; close when ``send`` is out."""

    send: bytes


Outcome = Haggling | TlsWanted | Chosen | Ended


class _State(Enum):
    GREETED = auto()
    HAGGLING = auto()
    OVER = auto()


class Negotiation:
    """One connection up to its choice of an export.

    Args:
        exports: asked whenever the client asks.
        tls: the mode of this portal for this connection.
        default: the export that the empty name means; None when there is none.
    """

    def __init__(
        self, *, exports: Exports, tls: TlsPolicy = TlsPolicy.OFF, default: str | None = None
    ) -> None:
        self._exports = exports
        self._tls = tls
        self._default = default
        self._state = _State.GREETED
        self._secured = False
        self._awaiting_tls = False
        self._fixed = False
        self._no_zeroes = False
        self._options = 0
        self._structured = False
        #: The export whose allocation the client may ask for, None when it did not select the context.
        self._allocation_of: str | None = None
        self._buffer = bytearray()
        #: An option whose data is thrown away: which, how much is to come, the answer after it.
        self._skipping: tuple[int, int, bytes] | None = None
        self._out: list[bytes] = []
        self._handlers: Mapping[int, Callable[[int, bytes], Outcome | None]] = {
            NBD_OPT_LIST: self._list,
            NBD_OPT_INFO: self._info_or_go,
            NBD_OPT_GO: self._info_or_go,
            NBD_OPT_STRUCTURED_REPLY: self._structured_reply,
            NBD_OPT_LIST_META_CONTEXT: self._list_contexts,
            NBD_OPT_SET_META_CONTEXT: self._set_contexts,
        }

    def greeting(self) -> bytes:
        """The first bytes of the server; nothing is expected of the client before."""
        return NBD_GREETING.pack(
            {
                "magic": NBD_MAGIC,
                "option_magic": NBD_OPTION_MAGIC,
                "flags": NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES,
            }
        )

    def secured(self) -> None:
        """The TLS handshake succeeded: the haggling begins anew inside it."""
        if not self._awaiting_tls:
            raise LocalProtocolError("No TLS handshake was under way.")
        self._awaiting_tls = False
        self._secured = True
        self._structured = False
        self._allocation_of = None

    def feed(self, data: bytes) -> Outcome:
        """Take bytes of the client as they come.

        Raises:
            NbdError: nothing can be answered to that: close the connection.
            LocalProtocolError: fed after the end, or while a TLS handshake is due.
        """
        if self._state is _State.OVER or self._awaiting_tls:
            raise LocalProtocolError("The negotiation takes no bytes now.")
        self._buffer += data
        try:
            outcome = self._go_on()
        except NbdError:
            self._state = _State.OVER
            raise
        if isinstance(outcome, Chosen | Ended):
            self._state = _State.OVER
        return outcome

    # ------------------------------------------------------------ framing

    def _go_on(self) -> Outcome:
        if self._state is _State.GREETED and not self._take_flags():
            return Haggling(send=b"")
        while True:
            if self._skipping is not None and not self._skip():
                return Haggling(send=self._sent())
            framed = self._take_option()
            if framed is None:
                return Haggling(send=self._sent())
            outcome = self._answer(*framed)
            if outcome is not None:
                return outcome

    def _sent(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _take_flags(self) -> bool:
        if len(self._buffer) < NBD_CLIENT_FLAGS.size:
            return False
        flags = NBD_CLIENT_FLAGS.unpack(self._take(NBD_CLIENT_FLAGS.size), error=NbdError).number(
            "flags"
        )
        if flags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES):
            raise NbdError(f"Client flags {flags:#x} hold some that were not offered.")
        self._fixed = bool(flags & NBD_FLAG_FIXED_NEWSTYLE)
        self._no_zeroes = bool(flags & NBD_FLAG_NO_ZEROES)
        self._state = _State.HAGGLING
        return True

    def _skip(self) -> bool:
        assert self._skipping is not None
        option, left, answer = self._skipping
        gone = min(left, len(self._buffer))
        del self._buffer[:gone]
        self._skipping = (option, left - gone, answer)
        if gone < left:
            return False
        self._out.append(answer)
        self._skipping = None
        return True

    def _take_option(self) -> tuple[int, bytes] | None:
        """The next option that is here in whole; one that is too long begins to be skipped."""
        while len(self._buffer) >= NBD_OPTION.size:
            head = NBD_OPTION.unpack(self._buffer, error=NbdError)
            option, length = head.number("option"), head.number("data_bytes")
            if head.number("magic") != NBD_OPTION_MAGIC:
                raise NbdError("An option does not begin with its magic.")
            if length > OPTION_BYTES_MAX:
                self._count()
                if option == NBD_OPT_EXPORT_NAME or not self._fixed:
                    raise NbdError(f"Option {option} with {length} bytes of data.")
                del self._buffer[: NBD_OPTION.size]
                sentence = f"{length} bytes of data; {OPTION_BYTES_MAX} are the most."
                kind = NBD_REP_ERR_TLS_REQD if self._must_secure(option) else NBD_REP_ERR_TOO_BIG
                self._skipping = (option, length, reply(option, kind, sentence.encode()))
                if not self._skip():
                    return None
                continue
            if len(self._buffer) < NBD_OPTION.size + length:
                return None
            self._count()
            self._take(NBD_OPTION.size)
            return option, self._take(length)
        return None

    def _count(self) -> None:
        self._options += 1
        if self._options > OPTIONS_MAX:
            raise NbdError(f"More than {OPTIONS_MAX} options, and no export chosen.")

    # ------------------------------------------------------------ options

    def _answer(self, option: int, data: bytes) -> Outcome | None:
        """Answer one option; None when the haggling goes on."""
        if option == NBD_OPT_EXPORT_NAME:
            return self._export_name(data)
        if not self._fixed:
            raise NbdError(f"Option {option} of a client that does not speak fixed newstyle.")
        if option == NBD_OPT_ABORT:
            self._out.append(reply(option, NBD_REP_ACK))
            return Ended(send=self._sent())
        if option == NBD_OPT_STARTTLS:
            return self._start_tls(data)
        if self._must_secure(option):
            self._refuse(
                option,
                NBD_REP_ERR_TLS_REQD,
                "This portal serves over TLS only; send STARTTLS first.",
            )
            return None
        handler = self._handlers.get(option)
        if handler is None:
            self._refuse(option, NBD_REP_ERR_UNSUP, f"Option {option} is not known here.")
            return None
        try:
            return handler(option, data)
        except MalformedOption as error:
            self._refuse(option, NBD_REP_ERR_INVALID, str(error))
            return None

    def _must_secure(self, option: int) -> bool:
        exempt = option in (NBD_OPT_STARTTLS, NBD_OPT_ABORT)
        return self._tls is TlsPolicy.REQUIRED and not self._secured and not exempt

    def _refuse(self, option: int, kind: int, sentence: str) -> None:
        self._out.append(reply(option, kind, sentence.encode()[:NBD_STRING_BYTES_MAX]))

    def _find(self, name: str) -> Export | None:
        if name == "":
            return None if self._default is None else self._exports.find(self._default)
        return self._exports.find(name)

    def _export_name(self, data: bytes) -> Outcome:
        """The old way in: no error can be answered, so whatever is wrong ends the connection."""
        if self._must_secure(NBD_OPT_EXPORT_NAME):
            raise NbdError("EXPORT_NAME without TLS on a portal that requires it.")
        name = text(data, "export name")
        export = self._find(name)
        if export is None:
            raise NbdError(f"There is no export named {name!r}.")
        if export.refusal is not None:
            raise NbdError(f"{export.name} is not served: {export.explanation}")
        facts = {
            "size_bytes": export.size_bytes,
            "flags": export.flags(structured=self._structured),
        }
        self._out.append(NBD_EXPORT_REPLY.pack(facts))
        if not self._no_zeroes:
            self._out.append(_ZEROES)
        return self._chosen(export)

    def _chosen(self, export: Export) -> Chosen:
        residual = bytes(self._buffer)
        self._buffer.clear()
        return Chosen(
            send=self._sent(),
            export=export,
            structured=self._structured,
            allocation=self._allocation_of == export.name,
            residual=residual,
        )

    def _start_tls(self, data: bytes) -> Outcome | None:
        if data:
            self._refuse(NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID, "STARTTLS has no data.")
        elif self._secured:
            self._refuse(NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID, "TLS is there already.")
        elif self._tls is TlsPolicy.OFF:
            self._refuse(
                NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY, "TLS is switched off on this portal."
            )
        elif self._buffer:
            # Plain text behind STARTTLS would be taken for something said inside TLS: an injection.
            raise NbdError("Bytes behind STARTTLS that came before its answer.")
        else:
            self._out.append(reply(NBD_OPT_STARTTLS, NBD_REP_ACK))
            self._awaiting_tls = True
            return TlsWanted(send=self._sent())
        return None

    def _list(self, option: int, data: bytes) -> None:
        if data:
            raise MalformedOption("LIST has no data.")
        self._out += [server(option, export) for export in self._exports.listed()]
        self._out.append(reply(option, NBD_REP_ACK))

    def _info_or_go(self, option: int, data: bytes) -> Outcome | None:
        choice = decode_choice(data)
        export = self._find(choice.name)
        if export is None:
            self._refuse(option, NBD_REP_ERR_UNKNOWN, _unknown(choice.name))
            return None
        if export.refusal is not None:
            self._refuse(option, export.refusal.reply, export.explanation)
            return None
        self._out += information(option, export, choice.requests, structured=self._structured)
        self._out.append(reply(option, NBD_REP_ACK))
        return self._chosen(export) if option == NBD_OPT_GO else None

    def _structured_reply(self, option: int, data: bytes) -> None:
        if data:
            raise MalformedOption("STRUCTURED_REPLY has no data.")
        self._structured = True
        self._out.append(reply(option, NBD_REP_ACK))

    def _list_contexts(self, option: int, data: bytes) -> None:
        query = decode_query(data)
        self._contexts(
            option, query.name, not query.queries or {ALLOCATION, "base:"} & {*query.queries}, 0
        )

    def _set_contexts(self, option: int, data: bytes) -> None:
        # What was selected before is gone even when this fails.
        self._allocation_of = None
        query = decode_query(data)
        export = self._contexts(option, query.name, ALLOCATION in query.queries, ALLOCATION_ID)
        if export is not None and ALLOCATION in query.queries:
            self._allocation_of = export.name

    def _contexts(self, option: int, name: str, found: object, number: int) -> Export | None:
        """Tell of base:allocation when it was found; None when the option was refused."""
        if not self._structured:
            raise MalformedOption("Metadata contexts need structured replies: ask for those first.")
        export = self._find(name)
        if export is None:
            self._refuse(option, NBD_REP_ERR_UNKNOWN, _unknown(name))
            return None
        if found:
            self._out.append(context(option, number, ALLOCATION))
        self._out.append(reply(option, NBD_REP_ACK))
        return export


def _unknown(name: str) -> str:
    if name == "":
        return "There is no default export; say which volume is meant."
    return f"This node has no replica of a volume named {name!r} that this client may use."
