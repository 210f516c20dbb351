# The structs of a simulated machine room: hosts with clocks, disks and connections, all in one process and one thread.
# simio.pyx owns hosts, simtime.pyx chance, time and what is planned, simdisk.pyx files, simnet.pyx connections;
# simwatch.pyx only looks. Thread: whoever calls Room; there is one.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Io, Op
from sparrow._native.reactor cimport Reactor
from sparrow._native.sys cimport iovec, msghdr


cdef enum:
    HOSTS_MAX = 16
    SECTOR = 512
    BLOCK = 4096
    FILE_FD = 1 << 20          # descriptors of files and sockets are numbers no kernel gives out
    SOCKET_FD = 1 << 22
    WINDOW_BYTES = 1 << 20     # under way or unread on one direction of a connection, unless a test makes it narrow

cdef enum EventKind:
    EVENT_NOTHING = 0
    EVENT_COMPLETE = 1         # op, res
    EVENT_DISK = 2             # a file operation reaches its end
    EVENT_WAKE = 3             # a host's timer
    EVENT_ARRIVE = 4           # look whether bytes of a socket have arrived
    EVENT_WRITEBACK = 5        # the page cache writes one page by itself

cdef enum DiskAction:
    DISK_READ = 1
    DISK_WRITE = 2
    DISK_SYNC = 3
    DISK_PUNCH = 4
    DISK_BEHIND = 5            # a hint to write back

# What happens to the file operation whose turn it is (`Room.strike_at`), or to one by chance.
cdef enum Strike:
    STRIKE_NONE = 0
    STRIKE_CUT = 1             # the host dies before it; the page cache survives (SIGKILL)
    STRIKE_LOSE = 2            # power is lost before it: everything unflushed is gone
    STRIKE_TEAR = 3            # power is lost in it: any sectors of it, and of what was unflushed
    STRIKE_EIO = 4             # it fails
    STRIKE_ENOSPC = 5
    STRIKE_DONE = 6            # power is lost after it reached the disk, before anybody heard

cdef struct Event:
    uint64_t at                # true time, ns
    uint64_t order             # equal times keep it
    uint32_t kind
    uint32_t generation        # of the host; another one means that nobody waits any more
    Host *host
    Op *op
    int32_t res
    uint32_t action
    int fd
    iovec *iov
    uint32_t count
    bint dsync
    uint64_t offset
    uint64_t length            # punch
    uint64_t local_ns          # WAKE: on the host's boot clock
    uint64_t mark              # flush: so many of the file's dirty pages are in it
    bint lost                  # flush: it failed when it was submitted, and is told so at its end
    uint32_t socket

cdef struct Ready:
    Op *op
    int32_t res

# One process on one machine: what its reactor's table points to.
cdef struct Host:
    Room_ *room
    Io io
    uint32_t index
    uint32_t generation
    Reactor *reactor           # NULL: nobody lives here
    bint stopped               # SIGSTOP
    bint doomed                # dies at the end of this turn; nothing it does reaches anybody
    bint runnable
    uint64_t seen_up           # events sent to Python that were announced
    uint64_t gates             # bit per volume that was served after its last turn
    Ready *ready
    uint32_t ready_count
    uint32_t ready_room
    # clocks: local = base + (true - since) * (1 + ppm / 1e6)
    uint64_t since
    uint64_t boot_base
    uint64_t raw_base
    int64_t boot_ppm
    int64_t raw_ppm
    # faults by chance, parts per million of operations
    uint32_t eio_read
    uint32_t eio_write
    uint32_t slow
    uint64_t slow_ns
    uint64_t capacity          # pages its files may hold; the next one is ENOSPC
    uint64_t held              # pages they hold
    bint lies                  # flushes answer without flushing

cdef struct Cell:
    uint8_t *platter           # survives; NULL: zeros
    uint8_t *cache             # newer than the platter; NULL: nothing
    bint dirty                 # False with a cache: a flush failed, it will never be written
    bint listed

cdef struct File:
    uint32_t host
    uint32_t kind              # as in events of failed disks: 1 wal, 2 extents, 3 sums, 4 superblock
    uint64_t pages
    Cell *cells
    uint32_t *dirty            # pages that are in `cells` with dirty or once were
    uint32_t dirty_count
    uint64_t fail_ns           # the next flush fails when it is submitted, and is told so after this; 0 for none

cdef struct Chunk:
    Chunk *next
    uint64_t at                # arrives
    uint32_t length
    uint32_t used
    int32_t end                # 1: nothing follows; below 0: the errno of a reset
    uint8_t data[1]

cdef struct Socket:
    bint used                  # the descriptor is open
    uint32_t host
    uint32_t generation
    uint32_t peer
    bint peer_gone             # nothing sent arrives anywhere
    Chunk *head                # for this end, in order
    Chunk *tail
    uint64_t bytes
    uint64_t last_at
    int32_t ended              # 0 while open; 1 end of stream seen; below 0 reset
    bint shut                  # by its own host
    bint stalled               # nothing that was sent to this end arrives
    Op *recv_op
    void *recv_data
    uint32_t recv_length
    Op *send_op                # waits for room at the peer
    msghdr *send_msg
    bint sending               # a send waits for room; a second one would be a bug
    uint64_t sent_at           # the last send that did not wait has ended by then

cdef struct Room_:
    uint64_t now
    uint64_t order
    uint64_t random
    Event *heap
    uint32_t heap_count
    uint32_t heap_room
    Host hosts[16]
    File **files
    uint32_t file_count
    uint32_t file_room
    Socket **sockets
    uint32_t socket_count
    uint32_t socket_room
    uint64_t window            # bytes under way or unread on one direction of a connection
    bint cut[256]              # [from * HOSTS_MAX + to]
    # counters
    uint64_t ios               # file operations begun
    uint64_t turns
    uint64_t events
    uint64_t sent_bytes
    uint64_t openings          # a gate was open after a turn and was not before it
    # one planned strike
    uint64_t strike_at         # the number of the operation, from 1; 0 for none
    uint32_t strike
    int32_t struck             # host that was hit, -1 before
    const char *bug            # something that must never happen did
    uint32_t bug_host
