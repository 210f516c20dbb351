"""Requests of the client, from header to answer: what may be asked, in which pieces it is done, what became of it.

    header -> SPLIT | DATA -> pieces with the volume -> answered when none is left

Requests run side by side and are answered as they end, in any order; the protocol allows that, and a client that needs
an order waits. A request of several pieces is answered when all have ended, with the first error that was met. A piece
is one entry of the log or one read, so of a WRITE beyond a megabyte a crash may leave part; NBD promises no more.

FUA and FLUSH need nothing: what is answered is durable. A request that comes while the gate is closed is held by the
volume or refused with -ESTALE, which is NBD_ESHUTDOWN to the client, and this connection ends once what is under way
has been answered: another replica serves now, or none, and NBD has no word for either.

Source: doc/proto.md, "Request types", "Block size constraints", "Error values".
"""

from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.front.client cimport client_request, client_submit
from sparrow._native.front.nbd.link cimport (
    LEAVE_NOT, LEAVE_PATH, NBD_EXTENTS_MAX, NBD_LOOK_PAGES, PIECE_COLLECT, PIECE_READY, PIECE_VOLUME, Link, Piece,
    Request, piece_free, piece_take,
)
from sparrow._native.extent.states cimport StateLook
from sparrow._native.front.nbd.send cimport send_queue
from sparrow._native.front.pages cimport pages_of, pages_spare, pages_take
from sparrow._native.layout cimport (
    SP_NBD_BLOCK_MAX, SP_NBD_CMD_BLOCK_STATUS, SP_NBD_CMD_CACHE, SP_NBD_CMD_FLAG_DF, SP_NBD_CMD_FLAG_FAST_ZERO,
    SP_NBD_CMD_FLAG_FUA, SP_NBD_CMD_FLAG_NO_HOLE, SP_NBD_CMD_FLAG_REQ_ONE, SP_NBD_CMD_FLUSH, SP_NBD_CMD_READ,
    SP_NBD_CMD_TRIM, SP_NBD_CMD_WRITE, SP_NBD_CMD_WRITE_ZEROES, SP_NBD_EINVAL, SP_NBD_EPERM, SP_NBD_EIO, SP_NBD_ENOMEM,
    SP_NBD_ENOSPC, SP_NBD_ENOTSUP, SP_NBD_EOVERFLOW, SP_NBD_ESHUTDOWN, SP_ZERO_PAGES_MAX, sp_be16_get, sp_be32_get,
    sp_be64_get, sp_nbd_request,
)
from sparrow._native.pool cimport PAGE, Pool, page_hold, page_spare, page_take
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport EBUSY, EINVAL, ENOMEM, ENOSPC, EPERM, ESTALE, memcpy, memset, sp_assert
from sparrow._native.volume cimport REQ_FLUSH, REQ_LOOK, REQ_READ, REQ_WRITE, REQ_ZERO, BlockReq


# ---------------------------------------------------------------- what may be asked

cdef inline uint32_t flags_known(const Link *link, uint32_t kind) noexcept nogil:
    """Flags that mean something with this type; FUA must be accepted with all."""
    if kind == SP_NBD_CMD_READ and link.config.structured:
        return <uint32_t>(SP_NBD_CMD_FLAG_FUA | SP_NBD_CMD_FLAG_DF)
    if kind == SP_NBD_CMD_WRITE_ZEROES:
        return <uint32_t>(SP_NBD_CMD_FLAG_FUA | SP_NBD_CMD_FLAG_NO_HOLE | SP_NBD_CMD_FLAG_FAST_ZERO)
    if kind == SP_NBD_CMD_BLOCK_STATUS:
        return <uint32_t>(SP_NBD_CMD_FLAG_FUA | SP_NBD_CMD_FLAG_REQ_ONE)
    return <uint32_t>SP_NBD_CMD_FLAG_FUA


cdef uint32_t judge(const Link *link, const Request *request, uint64_t offset, uint32_t length) noexcept nogil:
    """0, or the error; checks stand in the order of the standard: type, flags, place, size."""
    cdef uint32_t kind = request.type
    cdef uint32_t flags = request.flags
    cdef uint64_t size = link.client.volume.served * PAGE
    if kind > SP_NBD_CMD_BLOCK_STATUS or flags & ~flags_known(link, kind):
        return <uint32_t>SP_NBD_EINVAL
    if kind == SP_NBD_CMD_FLUSH:
        return 0 if offset == 0 and length == 0 else <uint32_t>SP_NBD_EINVAL
    if offset > size or length > size - offset:
        return <uint32_t>(SP_NBD_ENOSPC if kind == SP_NBD_CMD_WRITE or kind == SP_NBD_CMD_WRITE_ZEROES else SP_NBD_EINVAL)
    if kind == SP_NBD_CMD_BLOCK_STATUS:
        return 0 if link.config.allocation and length != 0 else <uint32_t>SP_NBD_EINVAL
    if kind == SP_NBD_CMD_WRITE_ZEROES and flags & SP_NBD_CMD_FLAG_FAST_ZERO:
        # Zeros that take a place are written like any data.
        return <uint32_t>SP_NBD_ENOTSUP if flags & SP_NBD_CMD_FLAG_NO_HOLE else 0
    if kind != SP_NBD_CMD_TRIM and length > SP_NBD_BLOCK_MAX:
        return <uint32_t>SP_NBD_EINVAL
    if kind == SP_NBD_CMD_READ and flags & SP_NBD_CMD_FLAG_DF and pages_of(offset, length) > link.piece_pages:
        return <uint32_t>SP_NBD_EOVERFLOW
    return 0


cdef void request_begin(Request *request, const sp_nbd_request *head) noexcept nogil:
    cdef uint64_t offset = sp_be64_get(head.offset)
    cdef uint32_t length = sp_be32_get(head.length)
    request.type = sp_be16_get(head.type)
    request.flags = sp_be16_get(head.flags)
    memcpy(request.cookie, head.cookie, 8)
    request.error = judge(request.link, request, offset, length)
    if request.error != 0:
        offset = 0
        length = 0
    request.offset = offset
    request.end = offset + length
    request.split_at = offset
    request.sent_at = offset
    if request.type == SP_NBD_CMD_TRIM:
        # What is no longer needed is given back in whole pages; the odd ends are left alone, which TRIM allows.
        request.end = request.end // PAGE * PAGE
        request.split_at = min((offset + PAGE - 1) // PAGE * PAGE, request.end)


cdef uint32_t error_of(const Request *request, int rc) noexcept nogil:
    if rc == -ESTALE:
        return <uint32_t>SP_NBD_ESHUTDOWN
    if rc == -EPERM:
        return <uint32_t>SP_NBD_EPERM
    if rc == -ENOSPC:
        return <uint32_t>SP_NBD_ENOSPC
    if rc == -EINVAL:
        return <uint32_t>SP_NBD_EINVAL
    if rc == -ENOMEM or rc == -EBUSY:
        return <uint32_t>SP_NBD_ENOMEM
    return <uint32_t>SP_NBD_EIO


# ---------------------------------------------------------------- pieces

cdef void submit(Piece *piece, uint32_t kind, uint64_t first_page, uint32_t count) noexcept nogil:
    cdef Link *link = piece.request.link
    cdef BlockReq *req = &piece.req
    req.kind = kind
    req.first_page = first_page
    req.page_count = count
    piece.state = PIECE_VOLUME
    link.block_reqs += 1
    client_submit(&link.client, req)


cdef Piece *piece_begin(Request *request, uint64_t offset, uint64_t length) noexcept nogil:
    """A piece of these bytes, which must be within its reach; NULL when none is free."""
    cdef Piece *piece = piece_take(request.link)
    if piece == NULL:
        return NULL
    piece.request = request
    piece.offset = offset
    piece.length = <uint32_t>length
    piece.state = PIECE_COLLECT
    client_request(&request.link.client, &piece.req, on_block, piece)
    request.pieces += 1
    request.split_at = offset + length
    return piece


cdef inline uint64_t reach(const Link *link, uint64_t offset, uint64_t end) noexcept nogil:
    """Where a piece that begins here ends at the latest."""
    return min(end, (offset // PAGE + link.piece_pages) * PAGE)


cdef bint split_read(Request *request) noexcept nogil:
    """READ and CACHE, which reads and throws away: what was read is in the page cache then."""
    cdef Link *link = request.link
    cdef Piece *piece
    cdef uint64_t end
    cdef uint32_t pages
    while request.split_at < request.end:
        end = reach(link, request.split_at, request.end)
        pages = pages_of(request.split_at, end - request.split_at)
        if not pages_spare(&link.client.reactor.pool, pages, link.read_pages):
            return False
        piece = piece_begin(request, request.split_at, end - request.split_at)
        if piece == NULL:
            return False
        piece.read_pages = pages
        link.read_pages += pages
        submit(piece, REQ_READ, piece.offset // PAGE, pages)
        if request.error != 0:
            request.split_at = request.end
    return True


cdef Piece *written_zeros(Request *request, uint64_t end) noexcept nogil:
    """WRITE_ZEROES: a part of a page, which is merged with the rest, or pages that are to have a place."""
    cdef Link *link = request.link
    cdef Pool *pool = &link.client.reactor.pool
    cdef uint64_t offset = request.split_at
    cdef uint32_t skip = <uint32_t>(offset % PAGE)
    cdef uint32_t pages = pages_of(offset, end - offset)
    cdef Piece *piece
    cdef uint32_t i
    cdef bint part = skip != 0 or end % PAGE != 0
    if part and not page_spare(pool, pages):
        return NULL
    piece = piece_begin(request, offset, end - offset)
    if piece == NULL:
        return NULL
    for i in range(pages):
        if part:
            piece.req.pages[i] = page_take(pool)
            memset(piece.req.pages[i], 0, PAGE)
        else:
            piece.req.pages[i] = pool.zero_page
            page_hold(pool, pool.zero_page)
    piece.req.skip = skip
    piece.req.cut = pages * PAGE - skip - piece.length
    return piece


cdef bint split_zeroes(Request *request) noexcept nogil:
    """TRIM and WRITE_ZEROES: zero entries of whole pages, and the odd ends of a WRITE_ZEROES as writes."""
    cdef Link *link = request.link
    cdef Piece *piece
    cdef uint64_t at, end
    while request.split_at < request.end:
        at = request.split_at
        if at % PAGE != 0 or request.end - at < PAGE:
            end = min(request.end, (at // PAGE + 1) * PAGE)
            piece = written_zeros(request, end)
            if piece == NULL:
                return False
            submit(piece, REQ_WRITE, at // PAGE, 1)
        elif request.flags & SP_NBD_CMD_FLAG_NO_HOLE:
            piece = written_zeros(request, reach(link, at, request.end // PAGE * PAGE))
            if piece == NULL:
                return False
            submit(piece, REQ_WRITE, at // PAGE, pages_of(at, piece.length))
        else:
            end = min(request.end // PAGE * PAGE, at + SP_ZERO_PAGES_MAX * PAGE)
            piece = piece_begin(request, at, end - at)
            if piece == NULL:
                return False
            submit(piece, REQ_ZERO, at // PAGE, pages_of(at, piece.length))
        if request.error != 0:
            request.split_at = request.end
    return True


cdef bint split_flush(Request *request) noexcept nogil:
    """FLUSH, and the way in of BLOCK_STATUS: held, refused or let through as any other command."""
    cdef Pool *pool = &request.link.client.reactor.pool
    cdef Piece *piece
    if request.type == SP_NBD_CMD_BLOCK_STATUS and not page_spare(pool, 1):
        return False
    piece = piece_begin(request, request.offset, 0)
    if piece == NULL:
        return False
    if request.type == SP_NBD_CMD_BLOCK_STATUS:
        request.extents = page_take(pool)
    submit(piece, REQ_LOOK if request.type == SP_NBD_CMD_BLOCK_STATUS else REQ_FLUSH, 0, 0)
    return True


cdef bint request_split(Request *request) noexcept nogil:
    cdef uint32_t kind = request.type
    if request.error != 0:
        return True
    if kind == SP_NBD_CMD_READ or kind == SP_NBD_CMD_CACHE:
        return split_read(request)
    if kind == SP_NBD_CMD_TRIM or kind == SP_NBD_CMD_WRITE_ZEROES:
        return split_zeroes(request)
    return split_flush(request)


cdef void request_split_over(Request *request) noexcept nogil:
    request.splitting = False
    step(request)


cdef Piece *data_piece(Request *request) noexcept nogil:
    cdef Link *link = request.link
    cdef Pool *pool = &link.client.reactor.pool
    cdef uint64_t at = request.split_at
    cdef uint64_t end = reach(link, at, request.end)
    cdef uint32_t pages = pages_of(at, end - at)
    cdef Piece *piece
    if not page_spare(pool, pages):
        return NULL
    piece = piece_begin(request, at, end - at)
    if piece == NULL:
        return NULL
    pages_take(pool, piece.req.pages, pages)
    piece.page_count = pages
    piece.req.skip = <uint32_t>(at % PAGE)
    piece.req.cut = pages * PAGE - piece.req.skip - piece.length
    return piece


cdef void data_end(Piece *piece) noexcept nogil:
    cdef uint32_t pages = piece.page_count
    # They are the volume's from here on.
    piece.page_count = 0
    submit(piece, REQ_WRITE, piece.offset // PAGE, pages)


# ---------------------------------------------------------------- what became of them

cdef void fail(Request *request, uint32_t error) noexcept nogil:
    """The first error counts. A path error ends the connection when all is answered."""
    if request.error == 0:
        request.error = error
    if error == SP_NBD_ESHUTDOWN and request.link.leaving == LEAVE_NOT:
        request.link.leaving = LEAVE_PATH


cdef void keep_read(Request *request, Piece *piece) noexcept nogil:
    """Into `ready`, by offset: simple replies need the order."""
    cdef Piece **at = &request.ready
    while at[0] != NULL and at[0].offset < piece.offset:
        at = &at[0].next
    piece.next = at[0]
    at[0] = piece
    piece.state = PIECE_READY


cdef void step(Request *request) noexcept nogil:
    """Something ended: is there something to say?"""
    if request.pieces == 0:
        if not request.splitting:
            send_queue(request)
    elif request.ready != NULL:
        if request.link.config.structured or request.error != 0 or request.ready.offset == request.sent_at:
            send_queue(request)


cdef void on_block(BlockReq *req, int rc) noexcept nogil:
    cdef Piece *piece = <Piece *>req.owner
    cdef Request *request = piece.request
    cdef Link *link = request.link
    sp_assert(piece.state == PIECE_VOLUME, b"a piece is done twice")
    link.block_reqs -= 1
    if rc == 0 and req.kind == REQ_READ:
        piece.page_count = req.page_count
    if link.client.closing != 0:
        # Its request goes with the connection.
        request.pieces -= 1
        piece_free(link, piece)
        task_queue(link.client.reactor, &link.client.task)
        return
    if rc < 0:
        fail(request, error_of(request, rc))
    elif request.type == SP_NBD_CMD_READ:
        keep_read(request, piece)
        step(request)
        return
    elif request.type == SP_NBD_CMD_BLOCK_STATUS:
        look(request)
        piece_free(link, piece)
        return
    request.pieces -= 1
    piece_free(link, piece)
    step(request)


cdef void look(Request *request) noexcept nogil:
    """BLOCK_STATUS was let in; its piece stands for it until the look is over."""
    cdef Link *link = request.link
    cdef StateLook *states = &request.look
    cdef uint64_t last = (request.end + PAGE - 1) // PAGE
    states.volume = link.client.volume
    states.at = request.offset // PAGE
    states.end = min(last, states.at + NBD_LOOK_PAGES)
    states.runs = <uint64_t *>request.extents
    states.room = 1 if request.flags & SP_NBD_CMD_FLAG_REQ_ONE else NBD_EXTENTS_MAX
    states.done = on_looked
    states.owner = request
    link.looking += 1
    link.client.hooks.states(states)


cdef void on_looked(StateLook *states, int rc) noexcept nogil:
    cdef Request *request = <Request *>states.owner
    cdef Link *link = request.link
    link.looking -= 1
    request.pieces -= 1
    if link.client.closing != 0:
        task_queue(link.client.reactor, &link.client.task)
        return
    if rc < 0:
        # What cannot be known counts as data: whoever reads it waits for its repair, or gets the error.
        states.runs[0] = (states.end - request.offset // PAGE) << 1 | 1
        states.count = 1
    step(request)
