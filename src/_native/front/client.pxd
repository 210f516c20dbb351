# One connection of an initiator, whatever it speaks, from the moment its negotiation hands it over until its socket is
# closed. The protocols' own structs begin with a Client, so that a pointer to one is a pointer to the other.
#
# Thread: reactor. client.pyx owns the life, stream.pyx the socket's bytes; the protocol owns what is in its struct
# after the Client.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.extent.states cimport StateLook
from sparrow._native.io.ops cimport Op
from sparrow._native.reactor cimport Reactor, Task, Timer, task_queue
from sparrow._native.reservations cimport MAY_READ, nexus_may
from sparrow._native.sys cimport iovec, msghdr
from sparrow._native.volume cimport BlockReq, Nexus, Volume, req_done

# Why it ended; `ended` of the hooks gets it.
cdef enum ClientCause:
    ENDED_CLOSED = 1           # the initiator closed or lost the connection
    ENDED_LOGOUT = 2
    ENDED_PROTOCOL = 3         # the initiator broke the protocol
    ENDED_DIGEST = 4           # a header or data digest was wrong
    ENDED_SILENT = 5           # no answer to what we asked, or nothing is taken from the socket
    ENDED_COMMAND = 6          # the control side asked
    ENDED_VOLUME = 7           # the volume is closing
    ENDED_NO_MEMORY = 8
    ENDED_PATH = 9             # this replica does not serve, and the protocol has no other word for it

ctypedef void (*client_upcall)(
    void *owner, Client *client, uint32_t tag, const uint8_t *head, const uint8_t *data, uint32_t length
) noexcept nogil
ctypedef void (*client_ended)(void *owner, uint64_t key, int cause) noexcept nogil

# What connections need of the rest of the core; one per reactor, filled before the first, outliving the last.
cdef struct ClientHooks:
    void *owner
    client_upcall upcall       # a request the core does not execute: 48 bytes of `head`; both are valid during the call only
    client_ended ended         # the connection is gone, its key may be used again
    void (*submit)(BlockReq *req) noexcept nogil           # block_submit
    bint (*abort)(BlockReq *req) noexcept nogil            # block_abort
    bint (*gate_open)(Volume *volume) noexcept nogil       # gate_is_open
    void (*states)(StateLook *look) noexcept nogil         # states_look
    void (*expect)(Volume *volume, const uint64_t *pages, uint32_t count) noexcept nogil   # read_expect; NULL: nobody minds
    # front/'s own, zero at start
    Client *first              # every connection of the reactor
    uint32_t count
    uint64_t serial            # iSCSI: of the newest request, over all sessions
    uint32_t managing          # iSCSI: slots in SLOT_MANAGE, over all sessions

cdef enum ClientProtocol:
    CLIENT_ISCSI = 1
    CLIENT_NVME = 2
    CLIENT_NBD = 3

cdef enum:
    CLIENT_IOVS = 896          # pieces of one send; below IOV_MAX

# What a protocol does for its connections; one constant table each.
cdef struct ClientKind:
    uint32_t protocol          # ClientProtocol, so that a Client found by its key is not taken for another's
    # End of a turn in which the task was queued: look at bytes that are here, send what is queued.
    void (*pump)(Client *client) noexcept nogil
    # Bytes have come into `in_bytes`: take them apart, then ask for more (stream.pyx).
    void (*received)(Client *client) noexcept nogil
    # It was stalled, and what it waits for may be there: take apart what is staged (stream.pyx).
    void (*resume)(Client *client) noexcept nogil
    # The send that was under way is complete: what it carried may go.
    void (*sent)(Client *client) noexcept nogil
    # The end has begun, the socket is shut down: clear timers, ask the volume to give requests back.
    void (*tear)(Client *client) noexcept nogil
    # Is no request with the volume any more? The two operations below are looked at by client.pyx.
    bint (*quiet)(Client *client) noexcept nogil
    # Nothing is under way: give back pages and memory, the Client's own too.
    void (*release)(Client *client) noexcept nogil
    # The capacity of the volume has changed.
    void (*resized)(Client *client) noexcept nogil
    # It is to end by itself, within so long: ask for that. NULL: there is no way to ask, it ends at once.
    void (*leave)(Client *client, uint64_t within_ns) noexcept nogil
    # The volume is served here from now on, or not any more. NULL: nobody wants to know.
    void (*moved)(Client *client) noexcept nogil
    # Where a command that Python has keeps whether its change is in the log; NULL when it was taken back. NULL for a
    # protocol without such commands.
    bint *(*upcalled)(Client *client, uint32_t tag) noexcept nogil
    # Its nexus was preempted by PREEMPT AND ABORT: every command that can be taken back ends in this turn, and what is read
    # for the others is not sent. NULL for a protocol whose initiators have no nexus.
    void (*preempted)(Client *client) noexcept nogil

cdef struct Client:
    const ClientKind *kind
    Reactor *reactor
    Volume *volume
    ClientHooks *hooks
    Client *next               # in hooks.first
    Client *prev
    uint64_t key               # names it to the control side
    int fd                     # connected; ours
    uint32_t terms_ended       # of the volume, when it was adopted
    Nexus nexus                # whose it is; not named: reservations of others bind it, it can have none
    Task task                  # pumps, and frees when all is quiet
    int closing                # ClientCause once it is
    bint torn                  # socket shut down, operations asked to end
    uint32_t changes           # of reservations that are logged and not answered: it ends after them
    int lost                   # ClientCause when the other end closes; ENDED_CLOSED but for one who was sent away
    Op recv_op                 # one of each at most: io_uring does not order two on a socket
    Op send_op
    # stream.pyx: bytes read and not yet taken apart
    uint8_t *in_bytes          # `in_room` of them; the protocol's to allocate and free
    uint32_t in_room
    uint32_t in_have
    uint32_t in_at             # before that they are taken
    bint asks                  # for more, behind what is sent in this turn
    bint stalled               # no pages, or no place for a request: nothing is read until some come back
    uint64_t stalled_ns        # boot clock: since
    Timer stall_timer
    # stream.pyx: the send that is put together, or under way
    uint64_t sent_ns           # when the socket last took something, or the send began
    msghdr msg
    iovec iov[896]
    uint32_t iov_count
    uint32_t iov_done


# A connection begins: everything but `kind`, `key` and `fd` is filled in, and its task is queued.
cdef void client_begin(Client *client, Reactor *reactor, Volume *volume, ClientHooks *hooks) noexcept nogil
# The connection with this key, or NULL. One that is ending is not found.
cdef Client *client_find(ClientHooks *hooks, uint64_t key) noexcept nogil
# Begin the end of every connection of a volume; volume.sessions counts those that are not gone yet.
cdef void client_end_all(ClientHooks *hooks, Volume *volume) noexcept nogil
# A term begins: connections that lived through the end of an earlier one here must not reach into it. A command on them
# may have been under way for that long, while its initiator gave it up and had it done, and newer ones after it,
# elsewhere: carried out now it would bring back what was overwritten.
cdef void client_end_older(ClientHooks *hooks, Volume *volume) noexcept nogil
# A volume is served here from now on, or not any more, whatever its grants do meanwhile.
cdef void client_moved(ClientHooks *hooks, Volume *volume) noexcept nogil
# The capacity of a volume has changed.
cdef void client_resized(ClientHooks *hooks, Volume *volume) noexcept nogil


cdef inline void client_fail(Client *client, int cause) noexcept nogil:
    """Begin the end; `ended` is called when nothing is under way any more, never before this returns. The first cause
    counts."""
    if client.closing == 0:
        client.closing = cause
        task_queue(client.reactor, &client.task)


cdef inline void client_request(Client *client, BlockReq *req, req_done done, void *owner) noexcept nogil:
    """A request of this connection before anything is asked with it."""
    req.volume = client.volume
    req.internal = False
    req.taken_back = False
    req.skip = 0
    req.cut = 0
    req.compare = NULL
    req.done = done
    req.owner = owner
    req.next = NULL
    req.prev = NULL
    req.rc = 0


cdef inline void client_submit(Client *client, BlockReq *req) noexcept nogil:
    """Hand a request to the volume, in the name of this connection's nexus."""
    req.nexus = &client.nexus
    client.hooks.submit(req)


cdef inline bint client_may_read(Client *client) noexcept nogil:
    """May data still leave? A reservation may have been logged since it was read."""
    return nexus_may(client.volume, &client.nexus, MAY_READ)
