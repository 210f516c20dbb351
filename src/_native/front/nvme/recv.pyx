"""Framing: header, header digest, padding, data, data digest.

A header is looked at when all of it is staged; data is streamed to where it belongs as it comes, so a PDU larger than
the staging buffer needs no second copy. One recv is outstanding at most, and none while the queue is stalled: TCP then
tells the host to wait.

Order of the checks: type, header length, flags, total length, data offset, then the digest. What is wrong ends the
connection with a termination PDU that names the field.

Source: NVMe/TCP 1.0, 3.3.1 (digests), 3.5.4 (errors), 3.6.
"""

from libc.stdint cimport uint8_t, uint32_t

from sparrow._native.front.client cimport ENDED_DIGEST, ENDED_PROTOCOL, client_fail
from sparrow._native.front.nvme.commands cimport PDU_STALL, PDU_TAKE, capsule_begin, data_begin, pdu_end
from sparrow._native.front.nvme.queue cimport (
    RECV_DATA, RECV_HEAD, RECV_TAIL, Queue, Slot, queue_terminate,
)
from sparrow._native.front.pages cimport pages_put
from sparrow._native.front.stream cimport stream_receive, stream_stall
from sparrow._native.layout cimport (
    SP_NVME_CAPSULE_CMD, SP_NVME_CAPSULE_COMMAND_SIZE, SP_NVME_CAPSULE_DATA_MAX, SP_NVME_CH_AT_FLAGS,
    SP_NVME_CH_AT_HLEN, SP_NVME_CH_AT_PDO, SP_NVME_CH_AT_PLEN, SP_NVME_CH_SIZE, SP_NVME_DATA_AT_DATAL,
    SP_NVME_DATA_SIZE, SP_NVME_FES_DIGEST, SP_NVME_FES_HEADER, SP_NVME_FES_LIMIT, SP_NVME_FES_SEQUENCE,
    SP_NVME_FLAG_DDGST, SP_NVME_FLAG_HDGST, SP_NVME_H2C_DATA, SP_NVME_H2C_DATA_MAX, SP_NVME_H2C_TERM, SP_NVME_ICREQ,
    sp_nvme_ch, sp_nvme_data,
)
from sparrow._native.sys cimport memcpy, sp_crc32c


cdef inline uint32_t read_digest(const uint8_t *at) noexcept nogil:
    return at[0] | <uint32_t>at[1] << 8 | <uint32_t>at[2] << 16 | <uint32_t>at[3] << 24


cdef inline void wrong(Queue *queue, uint32_t field) noexcept nogil:
    queue_terminate(queue, <uint32_t>SP_NVME_FES_HEADER, field, ENDED_PROTOCOL)


cdef bint frame(Queue *queue, const uint8_t *at, uint32_t *head_bytes, uint32_t *data_bytes) noexcept nogil:
    """Check a common header; `head_bytes` is everything before the data. False: the connection ends."""
    cdef const sp_nvme_ch *ch = <const sp_nvme_ch *>at
    cdef uint32_t expected = SP_NVME_CAPSULE_COMMAND_SIZE
    cdef uint32_t digest = 4 if queue.config.data_digest else 0
    cdef bint data
    memcpy(queue.head, at, SP_NVME_CH_SIZE)
    queue.head_bytes = SP_NVME_CH_SIZE
    if ch.pdu_type == SP_NVME_H2C_TERM:
        # The host found an error of ours and is about to hang up. Source: NVMe/TCP 1.0, 3.5.4.
        client_fail(&queue.client, ENDED_PROTOCOL)
        return False
    if ch.pdu_type == SP_NVME_ICREQ:
        queue_terminate(queue, <uint32_t>SP_NVME_FES_SEQUENCE, 0, ENDED_PROTOCOL)
        return False
    if ch.pdu_type == SP_NVME_H2C_DATA:
        expected = SP_NVME_DATA_SIZE
    elif ch.pdu_type != SP_NVME_CAPSULE_CMD:
        wrong(queue, 0)
        return False
    if ch.hlen != expected:
        wrong(queue, SP_NVME_CH_AT_HLEN)
        return False
    head_bytes[0] = expected + (4 if queue.config.header_digest else 0)
    data = ch.pdu_type == SP_NVME_H2C_DATA or ch.plen > head_bytes[0]
    if ((ch.flags & SP_NVME_FLAG_HDGST) != 0) != queue.config.header_digest:
        wrong(queue, SP_NVME_CH_AT_FLAGS)
        return False
    if ((ch.flags & SP_NVME_FLAG_DDGST) != 0) != (queue.config.data_digest and data):
        wrong(queue, SP_NVME_CH_AT_FLAGS)
        return False
    data_bytes[0] = 0
    if not data:
        if ch.plen != head_bytes[0]:
            wrong(queue, SP_NVME_CH_AT_PLEN)
            return False
        return True
    if ch.pdo < head_bytes[0] or ch.pdo % 4 != 0:
        wrong(queue, SP_NVME_CH_AT_PDO)
        return False
    if ch.plen <= ch.pdo + digest:
        wrong(queue, SP_NVME_CH_AT_PLEN)
        return False
    head_bytes[0] = ch.pdo
    data_bytes[0] = ch.plen - ch.pdo - digest
    if ch.pdu_type == SP_NVME_CAPSULE_CMD and data_bytes[0] > SP_NVME_CAPSULE_DATA_MAX:
        wrong(queue, SP_NVME_CH_AT_PLEN)
        return False
    if ch.pdu_type == SP_NVME_H2C_DATA and data_bytes[0] > SP_NVME_H2C_DATA_MAX:
        queue_terminate(queue, <uint32_t>SP_NVME_FES_LIMIT, 0, ENDED_PROTOCOL)
        return False
    return True


cdef bint take_head(Queue *queue) noexcept nogil:
    """Begin the next PDU; False when more bytes, or pages, or nothing at all is to be waited for."""
    cdef uint8_t *at = queue.client.in_bytes + queue.client.in_at
    cdef uint32_t there = queue.client.in_have - queue.client.in_at
    cdef uint32_t head_bytes = 0, data_bytes = 0, hlen
    cdef int verdict
    if there < SP_NVME_CH_SIZE or not frame(queue, at, &head_bytes, &data_bytes) or there < head_bytes:
        return False
    hlen = (<sp_nvme_ch *>at).hlen
    memcpy(queue.head, at, hlen)
    queue.head_bytes = hlen
    if queue.config.header_digest and sp_crc32c(0, at, hlen) != read_digest(at + hlen):
        queue_terminate(queue, <uint32_t>SP_NVME_FES_DIGEST, read_digest(at + hlen), ENDED_DIGEST)
        return False
    if (<sp_nvme_ch *>at).pdu_type == SP_NVME_CAPSULE_CMD:
        verdict = capsule_begin(queue, data_bytes)
    elif (<sp_nvme_data *>at).datal != data_bytes:
        wrong(queue, SP_NVME_DATA_AT_DATAL)
        return False
    else:
        verdict = data_begin(queue, data_bytes)
    if verdict == PDU_STALL:
        stream_stall(&queue.client)
        return False
    if verdict != PDU_TAKE:
        return False
    queue.client.stalled = False
    queue.client.in_at += head_bytes
    queue.data_left = data_bytes
    queue.tail_at = 0 if queue.config.data_digest and data_bytes != 0 else 4
    queue.digest = 0
    queue.phase = RECV_DATA
    return True


cdef bint take_data(Queue *queue) noexcept nogil:
    """Stream data to the command; False when more is to come."""
    cdef uint8_t *at = queue.client.in_bytes + queue.client.in_at
    cdef uint32_t length = min(queue.client.in_have - queue.client.in_at, queue.data_left)
    cdef Slot *slot = queue.sink
    if queue.config.data_digest:
        queue.digest = sp_crc32c(queue.digest, at, length)
    if slot != NULL:
        if slot.have < slot.want:
            pages_put(slot.pages, slot.data_base + slot.have, at, min(length, slot.want - slot.have))
        slot.have += min(length, slot.want - slot.have)
    queue.client.in_at += length
    queue.data_left -= length
    if queue.data_left != 0:
        return False
    queue.phase = RECV_TAIL
    return True


cdef bint take_tail(Queue *queue) noexcept nogil:
    """The data digest; False when more is to come. A wrong one is the command's affair, not the connection's."""
    cdef uint32_t length = min(queue.client.in_have - queue.client.in_at, 4 - queue.tail_at)
    if length != 0:
        memcpy(queue.tail + queue.tail_at, queue.client.in_bytes + queue.client.in_at, length)
        queue.tail_at += length
        queue.client.in_at += length
        if queue.tail_at == 4 and queue.sink != NULL and queue.digest != read_digest(queue.tail):
            queue.sink.spoiled = True
    if queue.tail_at != 4:
        return False
    queue.phase = RECV_HEAD
    return True


cdef void recv_pump(Queue *queue) noexcept nogil:
    if queue.client.recv_op.busy:
        return
    while queue.client.closing == 0 and not queue.ending:
        if queue.phase == RECV_HEAD and not take_head(queue):
            break
        if queue.phase == RECV_DATA and not take_data(queue):
            break
        if queue.phase == RECV_TAIL and not take_tail(queue):
            break
        pdu_end(queue)
    if queue.client.closing != 0 or queue.client.stalled:
        return
    if queue.ending:
        # What still comes is only read so that the last word is not lost.
        queue.client.in_have = 0
        queue.client.in_at = 0
        if not queue.draining:
            return
    stream_receive(&queue.client)
