"""Building replies and sending them, one vectored send per connection at a time.

Replies are built when their send is put together, and the gate is asked then: neither data nor success is built while
it is closed. Data goes from the pool's pages to the socket without a copy; pages are dropped when the send that carried
the last of them is complete.

With structured replies each piece of a READ is a chunk of its own, sent as soon as it is there; the last one, when no
error was met, ends the reply. A simple reply has one header and then all data in order, with nothing between: other
replies wait (`locked`), and an error behind the header can only be told by closing the connection, as the standard has
it.

Source: doc/proto.md, "Simple reply message", "Structured reply chunk message", "Request types".
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.front.client cimport CLIENT_IOVS, ENDED_CLOSED, ENDED_PATH, client_fail, client_may_read
from sparrow._native.front.nbd.link cimport (
    LEAVE_NOT, LEAVE_PATH, NBD_HEADS, Link, Piece, Request, piece_free, request_free,
)
from sparrow._native.front.stream cimport stream_add, stream_begin, stream_send
from sparrow._native.layout cimport (
    SP_NBD_CHUNK_ERROR_SIZE, SP_NBD_CHUNK_MAGIC, SP_NBD_CHUNK_SIZE, SP_NBD_CHUNK_STATUS_SIZE, SP_NBD_CMD_BLOCK_STATUS,
    SP_NBD_CMD_READ, SP_NBD_EINVAL, SP_NBD_ENOSPC, SP_NBD_ENOTSUP, SP_NBD_EOVERFLOW, SP_NBD_EPERM, SP_NBD_ESHUTDOWN,
    SP_NBD_EXTENT_SIZE, SP_NBD_REPLY_BLOCK_STATUS, SP_NBD_REPLY_ERROR, SP_NBD_REPLY_FLAG_DONE, SP_NBD_REPLY_NONE,
    SP_NBD_REPLY_OFFSET_DATA, SP_NBD_SIMPLE_REPLY_MAGIC, SP_NBD_SIMPLE_REPLY_SIZE, SP_NBD_STATE_HOLE, SP_NBD_STATE_ZERO,
    sp_be16_make, sp_be32_make, sp_be64_make, sp_nbd_chunk, sp_nbd_chunk_data, sp_nbd_chunk_error, sp_nbd_chunk_status,
    sp_nbd_extent, sp_nbd_simple_reply,
)
from sparrow._native.pool cimport PAGE
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport memcpy, strlen
from sparrow._native.volume cimport REQ_PAGES_MAX


# ---------------------------------------------------------------- queue

cdef void send_queue(Request *request) noexcept nogil:
    cdef Link *link = request.link
    task_queue(link.client.reactor, &link.client.task)
    if request.queued:
        return
    request.queued = True
    request.next = NULL
    if link.locked == request:
        # Everybody else waits for it.
        request.next = link.out_head
        link.out_head = request
        if link.out_tail == NULL:
            link.out_tail = request
        return
    if link.out_tail == NULL:
        link.out_head = request
    else:
        link.out_tail.next = request
    link.out_tail = request


cdef inline void pop(Link *link) noexcept nogil:
    cdef Request *request = link.out_head
    link.out_head = request.next
    if link.out_head == NULL:
        link.out_tail = NULL
    request.next = NULL
    request.queued = False


# ---------------------------------------------------------------- pieces of a send

cdef inline uint8_t *head_next(Link *link) noexcept nogil:
    link.head_count += 1
    return link.heads[link.head_count - 1].bytes


cdef inline bint full(const Link *link) noexcept nogil:
    return link.head_count == NBD_HEADS or link.client.iov_count + REQ_PAGES_MAX + 4 > CLIENT_IOVS


cdef void put_simple(Link *link, const Request *request) noexcept nogil:
    cdef uint8_t *head = head_next(link)
    cdef sp_nbd_simple_reply *reply = <sp_nbd_simple_reply *>head
    reply.magic = sp_be32_make(<uint32_t>SP_NBD_SIMPLE_REPLY_MAGIC)
    reply.error = sp_be32_make(request.error)
    memcpy(reply.cookie, request.cookie, 8)
    stream_add(&link.client, head, SP_NBD_SIMPLE_REPLY_SIZE)


cdef uint8_t *put_chunk(
    Link *link, const Request *request, uint32_t kind, bint done, uint32_t fixed, uint32_t length
) noexcept nogil:
    """The header of a chunk with `length` bytes of payload, of which the first `fixed` follow it in its head."""
    cdef uint8_t *head = head_next(link)
    cdef sp_nbd_chunk *chunk = <sp_nbd_chunk *>head
    chunk.magic = sp_be32_make(<uint32_t>SP_NBD_CHUNK_MAGIC)
    chunk.flags = sp_be16_make(<uint32_t>SP_NBD_REPLY_FLAG_DONE if done else 0)
    chunk.type = sp_be16_make(kind)
    memcpy(chunk.cookie, request.cookie, 8)
    chunk.length = sp_be32_make(length)
    stream_add(&link.client, head, SP_NBD_CHUNK_SIZE + fixed)
    return head + SP_NBD_CHUNK_SIZE


cdef const char *words(const Request *request) noexcept nogil:
    """For a human being, who may not know what the number stands for here."""
    cdef uint32_t error = request.error
    if error == SP_NBD_ESHUTDOWN:
        return b"this replica does not serve the volume any more; connect to its primary"
    if error == SP_NBD_EPERM:
        return b"the volume is reserved for others"
    if error == SP_NBD_ENOSPC:
        return b"beyond the end of the volume, or no room in its pool"
    if error == SP_NBD_EINVAL:
        return b"unknown type, flag not meant for it, too long, or beyond the end of the volume"
    if error == SP_NBD_EOVERFLOW:
        return b"too long for one chunk"
    if error == SP_NBD_ENOTSUP:
        return b"not faster than writing zeros"
    return b"the volume could not do it"


cdef void put_error(Link *link, const Request *request) noexcept nogil:
    cdef const char *message = words(request)
    cdef uint32_t length = <uint32_t>strlen(message)
    cdef sp_nbd_chunk_error *payload = <sp_nbd_chunk_error *>put_chunk(
        link, request, <uint32_t>SP_NBD_REPLY_ERROR, True, SP_NBD_CHUNK_ERROR_SIZE, SP_NBD_CHUNK_ERROR_SIZE + length
    )
    payload.error = sp_be32_make(request.error)
    payload.message_bytes = sp_be16_make(length)
    stream_add(&link.client, <void *>message, length)


cdef void put_data(Link *link, Piece *piece) noexcept nogil:
    cdef uint32_t at = <uint32_t>(piece.offset % PAGE)
    cdef uint32_t left = piece.length
    cdef uint32_t part
    while left != 0:
        part = min(left, PAGE - at % PAGE)
        stream_add(&link.client, piece.req.pages[at // PAGE] + at % PAGE, part)
        at += part
        left -= part


# ---------------------------------------------------------------- by kind

cdef void drop_ready(Link *link, Request *request) noexcept nogil:
    cdef Piece *piece
    while request.ready != NULL:
        piece = request.ready
        request.ready = piece.next
        request.pieces -= 1
        piece_free(link, piece)


cdef bint build_read(Link *link, Request *request) noexcept nogil:
    """All that is ready and may be sent; False when the send is full before that."""
    cdef Piece *piece
    cdef sp_nbd_chunk_data *payload
    cdef bint structured = link.config.structured
    cdef bint last = False
    if request.error != 0:
        drop_ready(link, request)
        if request.begun:
            client_fail(&link.client, ENDED_PATH if link.leaving == LEAVE_PATH else ENDED_CLOSED)
            return True
    while request.ready != NULL and (structured or request.ready.offset == request.sent_at):
        if full(link):
            return False
        piece = request.ready
        request.ready = piece.next
        request.pieces -= 1
        last = request.pieces == 0 and not request.splitting
        if structured:
            payload = <sp_nbd_chunk_data *>put_chunk(
                link, request, <uint32_t>SP_NBD_REPLY_OFFSET_DATA, last, 8, 8 + piece.length
            )
            payload.offset = sp_be64_make(piece.offset)
        elif not request.begun:
            put_simple(link, request)
            request.begun = True
            link.locked = request
        put_data(link, piece)
        request.sent_at += piece.length
        piece.next = link.flying_pieces
        link.flying_pieces = piece
    if request.pieces != 0 or request.splitting:
        return True
    if request.begun:
        link.locked = NULL
    elif not last:
        # Nothing to be read, or an error.
        if full(link):
            return False
        finish_plain(link, request)
    request.finished = True
    return True


cdef void finish_plain(Link *link, Request *request) noexcept nogil:
    """A reply without data."""
    if not link.config.structured:
        put_simple(link, request)
    elif request.error != 0:
        put_error(link, request)
    elif request.type == SP_NBD_CMD_READ:
        put_chunk(link, request, <uint32_t>SP_NBD_REPLY_NONE, True, 0, 0)
    else:
        put_simple(link, request)


cdef void build_status(Link *link, Request *request) noexcept nogil:
    """Runs of pages become extents, in place: both are eight bytes."""
    cdef uint64_t run
    cdef uint64_t at = request.offset // PAGE * PAGE
    cdef uint64_t begin, end
    cdef uint32_t status, i, length
    cdef uint32_t count = request.look.count
    cdef sp_nbd_extent *extents = <sp_nbd_extent *>request.extents
    cdef sp_nbd_chunk_status *payload
    for i in range(count):
        run = (<uint64_t *>request.extents)[i]
        begin = max(at, request.offset)
        at += (run >> 1) * PAGE
        # Of the first and the last page only what was asked about.
        end = min(at, request.end)
        status = 0 if run & 1 else <uint32_t>(SP_NBD_STATE_HOLE | SP_NBD_STATE_ZERO)
        extents[i].length = sp_be32_make(<uint32_t>(end - begin))
        extents[i].status = sp_be32_make(status)
    length = count * SP_NBD_EXTENT_SIZE
    payload = <sp_nbd_chunk_status *>put_chunk(
        link, request, <uint32_t>SP_NBD_REPLY_BLOCK_STATUS, True, SP_NBD_CHUNK_STATUS_SIZE,
        SP_NBD_CHUNK_STATUS_SIZE + length
    )
    payload.context = sp_be32_make(link.config.context)
    stream_add(&link.client, request.extents, length)


cdef bint build_request(Link *link, Request *request, bint serving) noexcept nogil:
    """False when the send is full before the end."""
    if full(link):
        return False
    if request.error == 0 and not serving:
        # A WRITE may be durable all the same: that is allowed.
        request.error = <uint32_t>SP_NBD_ESHUTDOWN
        if link.leaving == LEAVE_NOT:
            link.leaving = LEAVE_PATH
    elif (
        request.error == 0
        and (request.type == SP_NBD_CMD_READ or request.type == SP_NBD_CMD_BLOCK_STATUS)
        and not client_may_read(&link.client)
    ):
        request.error = <uint32_t>SP_NBD_EPERM
    if request.type == SP_NBD_CMD_READ:
        return build_read(link, request)
    if request.type == SP_NBD_CMD_BLOCK_STATUS and request.error == 0:
        build_status(link, request)
    else:
        finish_plain(link, request)
    request.finished = True
    return True


# ---------------------------------------------------------------- one send

cdef void build(Link *link) noexcept nogil:
    cdef Request *request
    # For all that this send takes: what was built first leaves no sooner than what is built last.
    cdef bint serving = link.out_head == NULL or link.client.hooks.gate_open(link.client.volume)
    link.head_count = 0
    stream_begin(&link.client)
    while link.out_head != NULL and link.client.closing == 0:
        request = link.out_head
        if link.locked != NULL and request != link.locked:
            return
        if not build_request(link, request, serving):
            return
        pop(link)
        if request.finished:
            request.next = link.flying
            link.flying = request


cdef void send_pump(Link *link) noexcept nogil:
    if link.client.send_op.busy:
        return
    build(link)
    if link.client.closing == 0:
        stream_send(&link.client)


cdef void send_done(Link *link) noexcept nogil:
    cdef Request *request
    cdef Piece *piece
    while link.flying_pieces != NULL:
        piece = link.flying_pieces
        link.flying_pieces = piece.next
        piece_free(link, piece)
    while link.flying != NULL:
        request = link.flying
        link.flying = request.next
        request_free(request)
