"""Framing: 48-byte header, additional headers, header digest, data segment, padding, data digest.

A header is looked at when all of it is staged; a data segment is streamed to where it belongs as it comes, so a PDU
larger than the staging buffer needs no second copy. One recv is outstanding at most, and none while the session is
stalled: TCP then tells the initiator to wait.

Source: RFC 7143, 11.1, 11.2, 13.1 (digests), 13.12 (MaxRecvDataSegmentLength).
"""

from libc.stdint cimport uint8_t, uint32_t

from sparrow._native.front.client cimport ENDED_DIGEST, ENDED_PROTOCOL, client_fail
from sparrow._native.front.iscsi.requests cimport PDU_STALL, pdu_begin, pdu_end
from sparrow._native.front.iscsi.session cimport (
    RECV_DATA, RECV_HEAD, RECV_TAIL, Session, Slot,
)
from sparrow._native.front.pages cimport pages_put
from sparrow._native.front.stream cimport stream_receive, stream_stall
from sparrow._native.layout cimport sp_be24_get, sp_iscsi_bhs
from sparrow._native.sys cimport memcpy, sp_crc32c


cdef inline uint32_t read_digest(const uint8_t *at) noexcept nogil:
    return at[0] | <uint32_t>at[1] << 8 | <uint32_t>at[2] << 16 | <uint32_t>at[3] << 24


cdef bint take_head(Session *session) noexcept nogil:
    """Begin the next PDU; False when more bytes, or pages, or nothing at all is to be waited for."""
    cdef uint8_t *at = session.client.in_bytes + session.client.in_at
    cdef uint32_t there = session.client.in_have - session.client.in_at
    cdef uint32_t length
    if there < 48:
        return False
    length = 48 + 4 * <uint32_t>at[4]
    if session.config.header_digest:
        length += 4
    if there < length:
        return False
    if session.config.header_digest and sp_crc32c(0, at, length - 4) != read_digest(at + length - 4):
        client_fail(&session.client, ENDED_DIGEST)
        return False
    session.head = (<sp_iscsi_bhs *>at)[0]
    session.data_left = sp_be24_get(session.head.data_bytes)
    if session.data_left > session.config.target_recv_bytes_max:
        client_fail(&session.client, ENDED_PROTOCOL)
        return False
    if pdu_begin(session) == PDU_STALL:
        stream_stall(&session.client)
        return False
    session.client.stalled = False
    session.client.in_at += length
    session.pad_bytes = (0 - session.data_left) & 3
    session.tail_left = session.pad_bytes
    if session.config.data_digest and session.data_left != 0:
        session.tail_left += 4
    session.digest = 0
    session.phase = RECV_DATA
    return True


cdef bint take_data(Session *session) noexcept nogil:
    """Stream data to the request; False when more is to come."""
    cdef uint8_t *at = session.client.in_bytes + session.client.in_at
    cdef uint32_t length = min(session.client.in_have - session.client.in_at, session.data_left)
    cdef Slot *slot = session.sink
    if session.config.data_digest:
        session.digest = sp_crc32c(session.digest, at, length)
    if slot != NULL:
        if slot.have < slot.want:
            pages_put(slot.req.pages, slot.data_base + slot.have, at, min(length, slot.want - slot.have))
        slot.have += length
    session.client.in_at += length
    session.data_left -= length
    if session.data_left != 0:
        return False
    session.phase = RECV_TAIL
    return True


cdef bint take_tail(Session *session) noexcept nogil:
    """Padding and data digest; False when more is to come or the digest is wrong."""
    cdef uint32_t length = min(session.client.in_have - session.client.in_at, session.tail_left)
    memcpy(session.tail + session.tail_at, session.client.in_bytes + session.client.in_at, length)
    session.tail_at += length
    session.client.in_at += length
    session.tail_left -= length
    if session.tail_left != 0:
        return False
    if session.tail_at > session.pad_bytes:
        session.digest = sp_crc32c(session.digest, session.tail, session.pad_bytes)
        if session.digest != read_digest(session.tail + session.pad_bytes):
            client_fail(&session.client, ENDED_DIGEST)
            return False
    session.tail_at = 0
    session.phase = RECV_HEAD
    return True


cdef void recv_pump(Session *session) noexcept nogil:
    if session.client.recv_op.busy:
        return
    while session.client.closing == 0 and not session.logged_out:
        if session.phase == RECV_HEAD and not take_head(session):
            break
        if session.client.closing != 0:
            break
        if session.phase == RECV_DATA and not take_data(session):
            break
        if session.phase == RECV_TAIL and not take_tail(session):
            break
        pdu_end(session)
    if session.client.closing != 0 or session.logged_out or session.client.stalled:
        return
    stream_receive(&session.client)
