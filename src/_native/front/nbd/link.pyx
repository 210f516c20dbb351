"""An NBD connection begins with its socket, is watched for silence, and ends in order.

NBD has no ping. A client that is silent between requests may be so for ever (the socket's own keep-alive finds dead
ones); one that stops in the middle of a request, or takes nothing of an answer, holds what others need, and is ended.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.front.client cimport (
    CLIENT_NBD, ENDED_LOGOUT, ENDED_PATH, ENDED_SILENT, Client, ClientHooks, ClientKind, client_begin, client_fail,
)
from sparrow._native.front.nbd.link cimport (
    LEAVE_DISC, LEAVE_NOT, NBD_DATA, NBD_DEPTH, NBD_PIECES, NBD_STAGING_BYTES, PIECE_FREE, PIECE_VOLUME,
)
from sparrow._native.front.nbd.recv cimport recv_pump
from sparrow._native.front.nbd.send cimport send_done, send_pump
from sparrow._native.front.stream cimport stream_wake
from sparrow._native.pool cimport page_drop
from sparrow._native.reactor cimport Reactor, Timer, now_boot, timer_clear, timer_set
from sparrow._native.sys cimport calloc, free, malloc, memcpy, sp_assert
from sparrow._native.volume cimport REQ_PAGES_MAX, Volume

cdef uint64_t SILENCE_NS = 30000000000


# ---------------------------------------------------------------- begin

cdef void give_back(Link *link) noexcept nogil:
    free(link.requests)
    free(link.pieces)
    free(link.client.in_bytes)
    free(link)


cdef Link *nbd_adopt(
    Reactor *reactor, Volume *volume, const NbdConfig *config, const uint8_t *pending, uint32_t length,
    ClientHooks *hooks
) noexcept nogil:
    cdef Link *link = <Link *>calloc(1, sizeof(Link))
    cdef uint32_t i
    if link != NULL:
        link.requests = <Request *>calloc(NBD_DEPTH, sizeof(Request))
        link.pieces = <Piece *>calloc(NBD_PIECES, sizeof(Piece))
        link.client.in_bytes = <uint8_t *>malloc(NBD_STAGING_BYTES)
    if (
        link == NULL or link.requests == NULL or link.pieces == NULL or link.client.in_bytes == NULL
        or volume.closing or length > NBD_STAGING_BYTES
    ):
        if link != NULL:
            give_back(link)
        reactor.io.close(&reactor.io, config.fd)
        return NULL
    link.config = config[0]
    link.client.kind = &KIND
    link.client.key = config.key
    link.client.fd = config.fd
    if link.config.silence_ns == 0:
        link.config.silence_ns = SILENCE_NS
    for i in range(<uint32_t>NBD_DEPTH):
        link.requests[i].link = link
        link.requests[i].next = link.free_request
        link.free_request = &link.requests[i]
    for i in range(<uint32_t>NBD_PIECES):
        link.pieces[i].next = link.free_piece
        link.free_piece = &link.pieces[i]
    # A piece is waited for with nothing in hand, so connections never wait for each other; it must be one the pool has.
    link.piece_pages = min(<uint32_t>REQ_PAGES_MAX, max(<uint32_t>1, (reactor.pool.working - reactor.pool.reserve) // 4))
    if length != 0:
        memcpy(link.client.in_bytes, pending, length)
    link.client.in_have = length
    link.client.in_room = NBD_STAGING_BYTES
    link.silence_timer.fire = on_silence
    link.silence_timer.owner = link
    link.heard_ns = now_boot(reactor)
    timer_set(reactor, &link.silence_timer, link.heard_ns + link.config.silence_ns)
    client_begin(&link.client, reactor, volume, hooks)
    return link


# ---------------------------------------------------------------- tables

cdef Request *request_take(Link *link) noexcept nogil:
    cdef Request *request = link.free_request
    if request == NULL:
        return NULL
    sp_assert(not request.busy and request.extents == NULL, b"a free request holds something")
    link.free_request = request.next
    link.busy_count += 1
    request.next = NULL
    request.busy = True
    request.queued = False
    request.splitting = True
    request.begun = False
    request.finished = False
    request.pieces = 0
    request.error = 0
    request.ready = NULL
    return request


cdef void request_free(Request *request) noexcept nogil:
    cdef Link *link = request.link
    sp_assert(request.busy and request.pieces == 0 and not request.queued, b"a request is freed while in use")
    if request.extents != NULL:
        page_drop(&link.client.reactor.pool, request.extents)
        request.extents = NULL
    request.busy = False
    request.next = link.free_request
    link.free_request = request
    link.busy_count -= 1
    stream_wake(&link.client)


cdef Piece *piece_take(Link *link) noexcept nogil:
    cdef Piece *piece = link.free_piece
    if piece == NULL:
        return NULL
    sp_assert(piece.state == PIECE_FREE and piece.page_count == 0, b"a free piece holds something")
    link.free_piece = piece.next
    piece.next = NULL
    piece.have = 0
    return piece


cdef void piece_free(Link *link, Piece *piece) noexcept nogil:
    cdef uint32_t i
    sp_assert(piece.state != PIECE_FREE, b"a piece is freed twice")
    # The last one first: taken again they follow each other in memory, and a read of many pages is one iovec.
    for i in range(piece.page_count):
        page_drop(&link.client.reactor.pool, piece.req.pages[piece.page_count - 1 - i])
    piece.page_count = 0
    link.read_pages -= piece.read_pages
    piece.read_pages = 0
    piece.state = PIECE_FREE
    piece.next = link.free_piece
    link.free_piece = piece
    stream_wake(&link.client)


# ---------------------------------------------------------------- what every connection does

cdef void pump(Client *client) noexcept nogil:
    cdef Link *link = <Link *>client
    if not link.started:
        link.started = True
        recv_pump(link)
    if client.closing == 0:
        send_pump(link)
    if client.closing != 0 or link.leaving == LEAVE_NOT or link.out_head != NULL or client.send_op.busy:
        return
    # All that was asked is answered, but for a WRITE whose data did not come in whole.
    if link.busy_count == (1 if link.phase == NBD_DATA else 0):
        client_fail(client, ENDED_LOGOUT if link.leaving == LEAVE_DISC else ENDED_PATH)


cdef void received(Client *client) noexcept nogil:
    cdef Link *link = <Link *>client
    link.heard_ns = now_boot(client.reactor)
    recv_pump(link)


cdef void resume(Client *client) noexcept nogil:
    recv_pump(<Link *>client)


cdef void sent(Client *client) noexcept nogil:
    send_done(<Link *>client)


cdef void tear(Client *client) noexcept nogil:
    cdef Link *link = <Link *>client
    cdef uint32_t i
    timer_clear(client.reactor, &link.silence_timer)
    for i in range(<uint32_t>NBD_PIECES):
        if link.pieces[i].state == PIECE_VOLUME:
            client.hooks.abort(&link.pieces[i].req)


cdef bint quiet(Client *client) noexcept nogil:
    cdef Link *link = <Link *>client
    return link.block_reqs == 0 and link.looking == 0


cdef void release(Client *client) noexcept nogil:
    cdef Link *link = <Link *>client
    cdef uint32_t i
    for i in range(<uint32_t>NBD_PIECES):
        if link.pieces[i].state != PIECE_FREE:
            piece_free(link, &link.pieces[i])
    for i in range(<uint32_t>NBD_DEPTH):
        if link.requests[i].extents != NULL:
            page_drop(&client.reactor.pool, link.requests[i].extents)
    give_back(link)


cdef void resized(Client *client) noexcept nogil:
    """The client was told a size when it chose the export; the protocol has no word for another one. What it asks beyond
    that size is answered all the same."""


cdef ClientKind KIND
KIND.protocol = CLIENT_NBD
KIND.pump = pump
KIND.received = received
KIND.resume = resume
KIND.sent = sent
KIND.tear = tear
KIND.quiet = quiet
KIND.release = release
KIND.resized = resized


# ---------------------------------------------------------------- silence

cdef void on_silence(Timer *timer) noexcept nogil:
    cdef Link *link = <Link *>timer.owner
    cdef uint64_t now = now_boot(link.client.reactor)
    cdef uint64_t since = now
    if link.client.closing != 0:
        return
    if link.client.send_op.busy:
        since = link.client.sent_ns
    # While stalled it is we who do not listen.
    if link.client.recv_op.busy and (link.client.in_have != 0 or link.phase == NBD_DATA):
        since = min(since, link.heard_ns)
    if now - since >= link.config.silence_ns:
        client_fail(&link.client, ENDED_SILENT)
        return
    timer_set(link.client.reactor, timer, since + link.config.silence_ns)
