"""Framing: a header of 28 bytes, and behind that of a WRITE its data.

As many requests as one recv brought are begun in one turn. Data is copied from the socket's buffer into the pages of
the piece it belongs to. One recv is outstanding at most, and none while the connection is stalled or leaving.
"""

from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.front.client cimport ENDED_PROTOCOL, client_fail
from sparrow._native.front.nbd.link cimport (
    LEAVE_DISC, LEAVE_NOT, NBD_DATA, NBD_HEAD, NBD_SPLIT, Link, Piece, Request, request_take,
)
from sparrow._native.front.nbd.requests cimport (
    data_end, data_piece, request_begin, request_split, request_split_over,
)
from sparrow._native.front.stream cimport stream_receive, stream_stall
from sparrow._native.layout cimport (
    SP_NBD_BLOCK_MAX, SP_NBD_CMD_DISC, SP_NBD_CMD_READ, SP_NBD_CMD_WRITE, SP_NBD_REQUEST_MAGIC, SP_NBD_REQUEST_SIZE,
    sp_be16_get, sp_be32_get, sp_be64_get, sp_nbd_request,
)
from sparrow._native.pool cimport PAGE
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport memcpy

cdef enum:
    EXPECT_MAX = 32            # READs told of at once: their pages are few beside a cache of the second level


cdef void expect(Link *link) noexcept nogil:
    """Tell which pages the READs that lie here one after the other ask for, so that each waits less for memory."""
    cdef const sp_nbd_request *head
    cdef uint64_t pages[EXPECT_MAX]
    cdef uint32_t count = 0
    cdef uint32_t at = link.client.in_at
    while count < EXPECT_MAX and link.client.in_have - at >= SP_NBD_REQUEST_SIZE:
        head = <const sp_nbd_request *>(link.client.in_bytes + at)
        if sp_be32_get(head.magic) != SP_NBD_REQUEST_MAGIC or sp_be16_get(head.type) != SP_NBD_CMD_READ:
            break
        # Of a longer one the rest follows its beginning.
        pages[count] = sp_be64_get(head.offset) // PAGE
        count += 1
        at += SP_NBD_REQUEST_SIZE
    link.expected_to = at
    if count > 1 and link.client.hooks.expect != NULL:
        link.client.hooks.expect(link.client.volume, pages, count)


cdef bint take_head(Link *link) noexcept nogil:
    """Begin the next request; False when more bytes, or something to put it in, is to be waited for."""
    cdef const sp_nbd_request *head = <const sp_nbd_request *>(link.client.in_bytes + link.client.in_at)
    cdef Request *request
    cdef uint32_t kind, length
    if link.client.in_have - link.client.in_at < SP_NBD_REQUEST_SIZE:
        return False
    if sp_be32_get(head.magic) != SP_NBD_REQUEST_MAGIC:
        client_fail(&link.client, ENDED_PROTOCOL)
        return False
    kind = sp_be16_get(head.type)
    length = sp_be32_get(head.length)
    if kind == SP_NBD_CMD_DISC:
        link.leaving = LEAVE_DISC
        task_queue(link.client.reactor, &link.client.task)
        return False
    if kind == SP_NBD_CMD_WRITE and length > SP_NBD_BLOCK_MAX:
        # Nobody has to swallow that. Source: "Block size constraints".
        client_fail(&link.client, ENDED_PROTOCOL)
        return False
    request = request_take(link)
    if request == NULL:
        stream_stall(&link.client)
        return False
    link.client.in_at += SP_NBD_REQUEST_SIZE
    link.current = request
    request_begin(request, head)
    if kind == SP_NBD_CMD_WRITE:
        link.phase = NBD_DATA
        link.throw_away = length if request.error != 0 else 0
    else:
        link.phase = NBD_SPLIT
    return True


cdef bint take_data(Link *link) noexcept nogil:
    """Stream the data of a WRITE into its pieces; False when more is to come, or pages are."""
    cdef Request *request = link.current
    cdef Piece *piece
    cdef uint32_t there, part, at
    while True:
        there = link.client.in_have - link.client.in_at
        if link.filling == NULL and request.error != 0 and link.throw_away == 0:
            # It failed while its data was coming: what is left is of no use.
            link.throw_away = request.end - request.split_at
            request.split_at = request.end
        if link.throw_away != 0:
            part = <uint32_t>min(<uint64_t>there, link.throw_away)
            link.client.in_at += part
            link.throw_away -= part
            if link.throw_away != 0:
                return False
            request.split_at = request.end
        if link.filling == NULL:
            if request.split_at == request.end:
                break
            link.filling = data_piece(request)
            if link.filling == NULL:
                stream_stall(&link.client)
                return False
        piece = link.filling
        there = min(link.client.in_have - link.client.in_at, piece.length - piece.have)
        while there != 0:
            at = <uint32_t>(piece.offset % PAGE) + piece.have
            part = min(there, PAGE - at % PAGE)
            memcpy(piece.req.pages[at // PAGE] + at % PAGE, link.client.in_bytes + link.client.in_at, part)
            link.client.in_at += part
            piece.have += part
            there -= part
        if piece.have < piece.length:
            return False
        link.filling = NULL
        data_end(piece)
    return True


cdef void recv_pump(Link *link) noexcept nogil:
    cdef Request *request
    if link.client.recv_op.busy:
        return
    link.client.stalled = False
    link.expected_to = 0
    while link.client.closing == 0 and link.leaving != LEAVE_DISC:
        if link.phase == NBD_HEAD and link.client.in_at >= link.expected_to:
            expect(link)
        if link.phase == NBD_HEAD and not take_head(link):
            break
        if link.phase == NBD_SPLIT and not request_split(link.current):
            stream_stall(&link.client)
            break
        if link.phase == NBD_DATA and not take_data(link):
            break
        request = link.current
        link.current = NULL
        link.phase = NBD_HEAD
        request_split_over(request)
    if link.client.closing != 0 or link.client.stalled or link.leaving != LEAVE_NOT:
        return
    stream_receive(&link.client)
