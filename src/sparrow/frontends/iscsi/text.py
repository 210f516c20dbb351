"""One text negotiation of the full-feature phase: requests and answers that may each span several PDUs.

    initiator                       we
    F=0 C=1 text, unfinished        empty answer, F=0, a transfer tag
    F=0 C=0 text, more to come      answer so far, F=0, a transfer tag
    F=1     text, the end           F=1; or, when the answer is too long, F=0 C=1 and a transfer tag
    F=1     empty, with that tag    the next piece

Source: RFC 7143, 11.10 and 11.11.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparrow.frontends.iscsi.errors import SessionMisuse
from sparrow.frontends.iscsi.keys import (
    Pair,
    TextAssembler,
    TextSplitter,
    decode_pairs,
    encode_pairs,
)
from sparrow.frontends.iscsi.pdu import RESERVED_TAG
from sparrow.frontends.iscsi.requests import TextRequest

Answerer = Callable[[Sequence[Pair]], Sequence[Pair]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextStep:
    """Fields of the Text Response that are this machine's to decide."""

    final: bool
    continued: bool
    transfer_tag: int
    text: bytes


class TextExchange:
    """The one text negotiation a connection may have open; a new one replaces what was left of the old."""

    def __init__(self, *, segment_bytes_max: int) -> None:
        self._segment_bytes_max = segment_bytes_max
        self._transfer_tag = 0
        self._reset()

    def step(self, request: TextRequest, answer: Answerer) -> TextStep:
        """Take one Text Request; ``answer`` is asked once the text of a step is whole.

        Raises:
            SessionMisuse: a transfer tag we did not give, or text while our answer is incomplete.
            MalformedText: the text cannot be read.
        """
        if request.transfer_tag == RESERVED_TAG:
            self._reset()
        elif request.transfer_tag != self._transfer_tag:
            raise SessionMisuse("Text Request with a transfer tag that is not ours")
        if self._splitter.pending:
            if request.text or request.continued:
                raise SessionMisuse("text sent while our answer was incomplete")
            return self._respond(final_asked=request.final)
        text = self._assembler.add(request.text, continued=request.continued)
        if text is None:
            return self._respond(final_asked=False)
        self._splitter.load(encode_pairs(answer(decode_pairs(text))))
        return self._respond(final_asked=request.final)

    def _respond(self, *, final_asked: bool) -> TextStep:
        text = self._splitter.next_segment(self._segment_bytes_max)
        continued = self._splitter.pending
        final = final_asked and not continued
        if not final:
            # A fresh tag per response, so that an answer to an older one is noticed.
            self._transfer_tag = self._transfer_tag % (RESERVED_TAG - 1) + 1
        return TextStep(
            final=final,
            continued=continued,
            transfer_tag=RESERVED_TAG if final else self._transfer_tag,
            text=text,
        )

    def _reset(self) -> None:
        self._assembler = TextAssembler()
        self._splitter = TextSplitter()
