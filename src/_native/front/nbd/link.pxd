# One NBD connection in its transmission phase, from the moment the negotiation hands it over until its socket is
# closed.
#
# A request of the client is carried out in pieces of at most a megabyte, each one request of the volume. All of it
# comes from tables of fixed size; when one is used up, or the pool has no pages, nothing more is read from the socket.
#
# Thread: reactor. Who writes what: link.pyx the life and the tables, recv.pyx the receive side, requests.pyx requests
# and pieces, send.pyx the send side. Source: doc/proto.md of the NBD project, "Transmission phase".
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from sparrow._native.extent.states cimport StateLook
from sparrow._native.front.client cimport Client, ClientHooks
from sparrow._native.reactor cimport Reactor, Timer
from sparrow._native.volume cimport BlockReq, Volume


cdef enum:
    NBD_DEPTH = 128            # requests that are not answered, or whose answer is not sent
    NBD_PIECES = 160
    NBD_STAGING_BYTES = 262144 # bytes read from the socket and not yet taken apart
    NBD_HEADS = 192            # replies and chunks in one send
    NBD_LOOK_PAGES = 16384     # one BLOCK_STATUS looks at 64 MiB, well below a millisecond
    NBD_EXTENTS_MAX = 500      # of one BLOCK_STATUS: a page of the pool

# Counts in bytes and nanoseconds.
cdef struct NbdConfig:
    uint64_t key               # names the connection to the control side
    int fd                     # connected; belongs to the core from adopt on, also when adopt fails
    bint structured            # READ gets structured replies
    bint allocation            # BLOCK_STATUS is answered
    uint32_t context           # id of base:allocation
    uint64_t silence_ns        # how long a client may stop in the middle of a request or of an answer; 0 means 30 s

cdef enum PieceState:
    PIECE_FREE = 0
    PIECE_COLLECT = 1          # its data is being received
    PIECE_VOLUME = 2           # the volume has it
    PIECE_READY = 3            # what was read waits to be sent, or is in the send under way

cdef struct Piece:
    Request *request
    Piece *next                # free list, `ready` of its request, or the send under way
    uint32_t state             # PieceState
    uint64_t offset            # of its data in the volume, bytes
    uint32_t length
    uint32_t have              # bytes received
    uint32_t page_count        # pages of req.pages that it holds
    uint32_t read_pages        # counted in the link's read_pages
    BlockReq req

# One request of the client.
cdef struct Request:
    Link *link
    Request *next              # free list, out queue, or the send under way
    bint busy                  # in use
    bint queued                # in the out queue
    bint splitting             # not all of its pieces were made yet
    bint begun                 # READ with simple replies: its header is built, its data must follow
    bint finished              # its last reply is in the send under way
    uint16_t type
    uint16_t flags
    uint8_t cookie[8]
    uint64_t offset
    uint64_t end
    uint64_t split_at          # where the next piece begins
    uint64_t sent_at           # READ with simple replies: next byte in order
    uint32_t pieces            # made and not yet done, or READ: not yet built into a send
    uint32_t error             # NBD error, the first one that was met
    Piece *ready               # READ: by offset
    # BLOCK_STATUS
    StateLook look
    uint8_t *extents           # a page of the pool

# What goes before data: a reply or a chunk with the fixed part of its payload.
cdef struct NbdHead:
    uint8_t bytes[32]

cdef enum NbdPhase:
    NBD_HEAD = 0               # a request's header
    NBD_SPLIT = 1              # pieces of the current request are being made
    NBD_DATA = 2               # data of a WRITE

cdef enum NbdLeaving:
    LEAVE_NOT = 0
    LEAVE_DISC = 1             # NBD_CMD_DISC: what is under way is answered, then the connection is closed
    LEAVE_PATH = 2             # this replica does not serve: the same, and no more is read from the socket

cdef struct Link:
    Client client              # first: a pointer to a Link is a pointer to it
    NbdConfig config
    uint32_t leaving           # NbdLeaving
    bint started
    Request *requests          # NBD_DEPTH of them
    Request *free_request
    uint32_t busy_count
    Piece *pieces              # NBD_PIECES of them
    Piece *free_piece
    uint32_t block_reqs        # pieces the volume has
    uint32_t looking           # BLOCK_STATUS under way
    uint32_t read_pages        # of READs not sent yet: one slow reader must not take the whole pool
    uint32_t piece_pages       # of the largest piece
    # receive
    uint32_t phase             # NbdPhase
    uint32_t expected_to       # in in_bytes: READs before it were told of
    Request *current
    Piece *filling             # WRITE: the piece whose data is being received
    uint64_t throw_away        # bytes of a WRITE that has failed
    Timer silence_timer
    uint64_t heard_ns
    # send
    NbdHead heads[192]
    uint32_t head_count
    Request *out_head
    Request *out_tail
    Request *locked            # simple replies: its data is not complete in the stream yet
    Request *flying            # wholly built into the send under way
    Piece *flying_pieces


# Take a connected socket in transmission phase; `pending` is copied. NULL without memory or when the volume is closing
# (the socket is closed then, `ended` is not called).
cdef Link *nbd_adopt(
    Reactor *reactor, Volume *volume, const NbdConfig *config, const uint8_t *pending, uint32_t length,
    ClientHooks *hooks
) noexcept nogil

# Tables. NULL when there is none; what is given back wakes a stalled receive side.
cdef Request *request_take(Link *link) noexcept nogil
cdef void request_free(Request *request) noexcept nogil
cdef Piece *piece_take(Link *link) noexcept nogil
cdef void piece_free(Link *link, Piece *piece) noexcept nogil
