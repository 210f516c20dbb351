"""The initiator's half of a login without a socket: what real initiators send, and a pair that checks both views.

The key sets are those libiscsi and open-iscsi put on the wire, as their sources build them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sparrow.frontends.iscsi.keys import decode_pairs, encode_pairs
from sparrow.frontends.iscsi.login import LoginAccepted, LoginMachine, LoginOutcome
from sparrow.frontends.iscsi.pdu import Pdu, PduReader
from sparrow.frontends.iscsi.requests import LoginRequest, Stage
from sparrow.frontends.iscsi.responses import LoginResponse

INITIATOR = "iqn.2008-11.org.linux-kvm:guest"
ISID = bytes.fromhex("800000000001")

#: libiscsi 1.19 in the operational stage, in its order.
LIBISCSI_OPERATIONAL = {
    "HeaderDigest": "None,CRC32C",
    "DataDigest": "None",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "262144",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "0",
    "MaxOutstandingR2T": "1",
    "ErrorRecoveryLevel": "0",
    "IFMarker": "No",
    "OFMarker": "No",
    "MaxConnections": "1",
    "MaxRecvDataSegmentLength": "262144",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
}
#: open-iscsi 2.1 with the settings of its iscsid.conf, in its order.
OPEN_ISCSI_OPERATIONAL = {
    "HeaderDigest": "None",
    "DataDigest": "None",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "0",
    "IFMarker": "No",
    "OFMarker": "No",
    "ErrorRecoveryLevel": "0",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxBurstLength": "16776192",
    "FirstBurstLength": "262144",
    "MaxOutstandingR2T": "1",
    "MaxConnections": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "MaxRecvDataSegmentLength": "262144",
}


def who(target: str, **more: str) -> dict[str, str]:
    """The keys of a first request to a target; an empty target makes it a discovery session."""
    keys = {"InitiatorName": INITIATOR}
    if target:
        keys["TargetName"] = target
    return keys | {"SessionType": "Normal" if target else "Discovery"} | more


@dataclass(slots=True)
class LoginPair:
    """An initiator and a login machine joined by a link that hands over ``chunk_bytes`` at a time (0: all at once)."""

    machine: LoginMachine
    chunk_bytes: int = 0
    cmd_sn: int = 7
    request: LoginRequest = field(init=False)
    stat_sn: int | None = None
    outcome: LoginOutcome | None = None

    def __post_init__(self) -> None:
        self.request = LoginRequest(
            transit=True,
            continued=False,
            current_stage=Stage.OPERATIONAL,
            next_stage=Stage.FULL_FEATURE,
            isid=ISID,
            task_tag=1,
            cid=0,
            cmd_sn=self.cmd_sn,
            exp_stat_sn=0,
        )

    def say(
        self,
        keys: Mapping[str, str] | bytes,
        stage: Stage = Stage.OPERATIONAL,
        to: Stage | None = Stage.FULL_FEATURE,
        *,
        continued: bool = False,
        then: bytes = b"",
        **changes: object,
    ) -> LoginResponse:
        """Send one request (and bytes after it); gives the one response, checked against the request."""
        text = keys if isinstance(keys, bytes) else encode_pairs(keys.items())
        request = replace(
            self.request,
            text=text,
            transit=to is not None,
            current_stage=stage,
            next_stage=to,
            continued=continued,
            **changes,  # type: ignore[arg-type]
        )
        (response,) = self.deliver(request.encode() + then)
        assert response.isid == request.isid
        assert response.task_tag == request.task_tag
        assert response.exp_cmd_sn == request.cmd_sn
        assert response.current_stage == stage
        assert response.next_stage in (None, to), "the target moves only where it was asked to"
        assert self.stat_sn is None or response.stat_sn == self.stat_sn + 1
        self.stat_sn = response.stat_sn
        return response

    def deliver(self, wire: bytes) -> list[LoginResponse]:
        """Feed bytes in chunks; gives every response that came back."""
        sent = bytearray()
        size = self.chunk_bytes or len(wire)
        for at in range(0, len(wire), size):
            self.outcome = self.machine.feed(wire[at : at + size])
            sent += self.outcome.send
            if isinstance(self.outcome, LoginAccepted):
                # What the link still holds goes to the next owner of the connection.
                rest = self.outcome.session.residual + wire[at + size :]
                self.outcome = replace(
                    self.outcome, session=replace(self.outcome.session, residual=rest)
                )
                break
        return responses(bytes(sent))

    @property
    def accepted(self) -> LoginAccepted:
        assert isinstance(self.outcome, LoginAccepted)
        return self.outcome


def responses(wire: bytes) -> list[LoginResponse]:
    """Every Login Response in these bytes."""
    return [LoginResponse.decode(pdu) for pdu in pdus(wire)]


def pdus(wire: bytes) -> list[Pdu]:
    """Every PDU in these bytes; nothing may be left over."""
    reader = PduReader(segment_bytes_max=1 << 24)
    reader.feed(wire)
    found = []
    while (pdu := reader.next_pdu()) is not None:
        found.append(pdu)
    assert not reader.buffered_bytes
    return found


def keys_of(response: LoginResponse) -> dict[str, str]:
    """The answers as a dict."""
    return dict(decode_pairs(response.text))
