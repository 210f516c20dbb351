# The structs of one volume replica in the core, field by field with the reason beside it. Every module below works on
# these; who writes which part is said at each block. Thread: reactor.
#
# LSN order: applied <= commit <= head and applied <= durable <= head; of a primary, and of whoever it counts on, also
# commit <= durable (a follower outside the in-sync set may hear of a commit before it has the entry on its disk). Batch
# boundaries: every LSN kept here except a version's is the last LSN of a batch, because batches are written, shipped,
# acknowledged and cut whole.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    sp_grant_release, sp_ship_ack, sp_ship_frame, sp_sums_block, sp_sums_list, sp_superblock,
)
from sparrow._native.reactor cimport Reactor, Task, Timer
from sparrow._native.sys cimport iovec, msghdr


cdef enum:
    REQ_PAGES_MAX = 256    # one command moves at most 1 MiB
    PEERS_MAX = 8
    TERMS_MAX = 48
    SEND_IOV = 1024
    NONE = 0xFFFFFFFF      # no index
    SPANS_MAX = 128        # zero entries of one volume that are logged and not yet applied
    PUNCH_MAX = 64         # ranges of the extent file that may be given back
    RESIZES_MAX = 8        # resizes that are logged and not yet applied
    LOG_READS = 4          # reads of the ring ahead of what a peer that is behind was sent
    CACHE_PAGES = 16       # neighbours that the read cache finds together

cdef enum ReqKind:
    REQ_READ = 1
    REQ_WRITE = 2
    REQ_FLUSH = 3
    REQ_ZERO = 4
    REQ_LOOK = 5           # moves nothing: something is to be known of the blocks

cdef enum ReqState:
    REQ_IDLE = 0
    REQ_HELD = 1           # gate closed: waits without an LSN
    REQ_QUEUED = 2         # gate open, waits for room in log, dirty map or pool
    REQ_LOGGED = 3         # has an LSN; cannot be taken back
    REQ_READING = 4
    REQ_MERGING = 5        # what lies under it is being read; no LSN

ctypedef void (*req_done)(BlockReq *req, int rc) noexcept nogil

# reservations.pyx: one table, and whose commands are checked against it
cdef struct Table:
    uint64_t lsn
    uint32_t check         # CRC32C of the blob
    uint8_t *blob          # formats/reservations.py, page aligned
    Table *older

cdef struct Nexus:
    bint named             # False: it can never have registered
    uint8_t identity[256]  # as a registrant of the table has it, with a zero key
    uint64_t serial        # of the table it was looked up in; 0 for never
    uint32_t may           # what that table allows

# Somebody who waits for a moment in a volume's life, woken once.
ctypedef void (*waiter_wake)(Waiter *waiter, int rc) noexcept nogil
cdef struct Waiter:
    waiter_wake wake
    void *owner
    uint64_t arg
    Waiter *next

# One command of a frontend. The owner fills it, submits it and gets `done` exactly once.
#   rc 0        done. READ: pages[] hold one reference each, the owner drops them after sending.
#   -ESTALE     this replica may not serve (gate closed, superseded): the protocol's path error
#   -ENOSPC     no room in a pool;  -EIO damage or disk failure;  -EINVAL beyond the end of the volume
#   -ECANCELED  block_abort took it back
# WRITE: pages[] hold full pages with one reference each; they belong to the volume from submit on, whatever the rc.
#   -EPERM      a reservation forbids it
#   -EILSEQ     WRITE with `compare`: something else is there, from byte `bad_page` on
# A WRITE leaves alone the first `skip` bytes of its first page and the last `cut` bytes of its last one; with
# `compare`, at most two pages and one page of data, it is made only when exactly that is there.
# ZERO: no pages; page_count up to SP_ZERO_PAGES_MAX.
cdef struct BlockReq:
    Volume *volume
    uint32_t kind          # ReqKind
    uint32_t state         # ReqState; the volume's
    uint64_t first_page
    uint32_t page_count    # FLUSH, LOOK: 0
    bint internal          # of the core itself: no gate, no reservation (base lane, verification)
    Nexus *nexus           # whose command it is; NULL: of one that can never register. Lives until `done`
    int fd                 # internal READ: the extents by another descriptor, past the page cache; 0 for the usual one
    bint taken_back        # aborted while it waited for something to be read
    uint32_t skip
    uint32_t cut
    const uint8_t *compare # the owner's
    Merge *merge           # what lies under it is known, or becomes so
    req_done done
    void *owner
    uint64_t tag           # the owner's own
    uint64_t lsn           # WRITE, ZERO: its LSN; READ: commit LSN the view was taken at; held: when it gives up (boot ns)
    uint64_t epoch         # of the gate it was admitted under
    uint64_t began_ns      # WRITE: boot clock when it was submitted
    int rc                 # collected while reads are in flight
    uint32_t reads         # disk reads in flight
    uint32_t tries         # times a page did not match its sum
    uint64_t bad_page      # the last one that did not, or whose sums block is damaged
    bint frame_wait        # a sums block is awaited
    bint frame_ready       # it came
    Waiter waiter          # a sums block is awaited
    BlockReq *next
    BlockReq *prev
    uint8_t *pages[256]

# merge.pyx: a write that must know what is on its first or last page.
cdef struct Merge:
    BlockReq *req          # NULL: free
    Volume *volume
    Merge *next            # of the volume; free list otherwise
    Merge *prev
    uint64_t epoch         # term the base belongs to
    uint64_t start
    uint8_t *base[2]       # first and last page as the extents hold them; the dirty map may have a newer version
    uint32_t reading       # which of them is being read
    void (*submit)(BlockReq *req) noexcept nogil
    void (*refuse)(BlockReq *req, int rc) noexcept nogil
    BlockReq read

cdef struct ReqList:
    BlockReq *head
    BlockReq *tail
    uint32_t count

# A batch in memory: while it is written, and until every live peer has it.
cdef struct MemBatch:
    Volume *volume
    uint32_t refs          # WAL write, each send that uses it, and the window kept for live peers
    uint32_t page_count
    uint32_t entry_count
    uint32_t zero_count    # zero entries among them
    uint64_t rec           # sequence of its Rec
    uint8_t *header        # pool page
    uint8_t *pages[256]
    uint32_t sums[256]
    uint64_t first_page[256]   # per entry
    uint32_t entry_pages[256]  # per entry
    uint8_t entry_kind[256]
    Op op                  # the WAL write
    iovec iov[258]
    MemBatch *next         # followers: waits for its durable floor; then: written, waits for a flush, or in one write
    int32_t result         # of the plain write, while it waits for a flush; bytes of a write of several batches

# What the index knows of every batch in the ring.
cdef struct Rec:
    uint64_t first_lsn
    uint64_t last_lsn
    uint64_t offset        # in the ring, bytes; add Log.base for the disk
    uint32_t bytes
    uint32_t check         # header checksum
    uint32_t parent
    bint durable
    uint32_t zeros         # zero entries in it
    bint damaged           # what the ring holds is not what was written; the control side was told
    uint64_t epoch
    uint64_t start
    uint64_t closed_ns     # boot clock when it was given to disk and peers, or received; 0 when it was read back
    MemBatch *mem          # or NULL: only on disk

cdef struct TermStart:
    uint64_t epoch
    uint64_t start
    uint64_t first_lsn

# wal/log.pyx
cdef struct Log:
    int fd
    uint64_t base          # where the ring begins in fd: 0 in a file, more on a WAL device
    uint64_t bytes         # ring size
    bint apart             # no shared flush reaches it
    uint64_t head_offset   # next batch goes here
    uint64_t head_lsn      # last LSN appended
    uint64_t durable_lsn   # contiguous
    uint32_t head_check    # check of the last batch
    uint64_t tail_lsn      # last LSN before the oldest retained batch
    uint32_t tail_check
    uint64_t tail_offset   # where the oldest retained batch begins (head_offset when empty)
    uint64_t free_floor    # offset of the durable tail: space behind it may be overwritten
    uint64_t free_lsn      # LSN of the durable tail
    Rec *recs              # ring, index = sequence % room
    uint32_t room
    uint64_t first         # sequence of the oldest retained batch
    uint64_t next          # sequence of the next batch
    uint32_t writes        # WAL writes in flight
    uint32_t writes_max
    MemBatch *open         # collecting entries, not yet an LSN range on disk
    MemBatch *waiting      # follower: received, its floor not reached
    MemBatch *waiting_tail
    TermStart terms[48]
    uint32_t term_count
    uint64_t must_reach    # recovery: entries up to here existed once
    uint64_t let_go_lsn    # retained batches up to here are damaged for good: they go with the next checkpoint
    uint64_t window_first  # oldest sequence that may still have its batch in memory
    uint32_t window_pages  # pages of batches kept in memory only for peers

# extent/dirty.pyx: one version of one page that is in the log and not yet in the extents. Versions of a page form a
# chain, newest first, found through the hash; versions of a volume form a list in LSN order.
cdef struct Version:
    Volume *volume
    uint64_t page
    uint64_t lsn
    uint8_t *data          # pool page, or NULL for zeros
    uint32_t sum
    uint32_t older
    uint32_t newer
    uint32_t bucket_next   # of the newest of each page; free list otherwise
    uint32_t fifo_next
    uint32_t fifo_prev

# A zero entry that is in the log and not yet applied: one for its whole range, however long. Those of a volume lie in
# LSN order; there are few, so looking a page up walks all of them.
cdef struct Span:
    uint64_t lsn
    uint64_t first_page
    uint64_t end_page      # one past the last

cdef struct Dirty:
    Version zeros          # what dirty_find gives for a page of a Span
    Version *versions
    uint32_t room
    uint32_t fresh         # never used so far
    uint32_t free_head
    uint32_t used
    uint32_t *buckets
    uint32_t mask

# extent/sums.pyx: a fixed pool of sums blocks in memory.
cdef enum FrameState:
    FRAME_FREE = 0
    FRAME_LOADING = 1      # being read, or rebuilt from a peer
    FRAME_VALID = 2
    FRAME_BAD = 3          # damaged on disk: waits for a peer's copy

cdef struct Frame:
    Volume *volume
    uint64_t block
    uint32_t state
    uint32_t pins          # users that must not lose it
    bint dirty             # newer than the disk: never evicted
    uint32_t next          # hash chain
    uint64_t used          # turn of last use
    uint8_t *data          # pool page, holds sp_sums_block
    Op op
    iovec iov
    Waiter *waiters

cdef struct Frames:
    Frame *frames
    uint32_t room
    uint32_t hand          # clock hand of eviction
    uint32_t *buckets
    uint32_t mask
    uint32_t listed        # pinned by the rounds of all volumes together, until they are on disk (seals.pyx)

# extent/cache.pyx: neighbouring pages of the extents that are kept in memory for reads.
cdef struct CacheSpan:
    Volume *volume         # NULL: free
    uint64_t number        # of its first page, in spans
    uint32_t next          # hash chain; free list
    uint32_t count         # pages that are here
    bint used              # since the hand came by last
    bint scattered         # since then, a large read found its pages apart in memory
    uint8_t *pages[16]     # pool pages, each with a reference; NULL: not here
    uint32_t sums[16]

cdef struct Cache:
    CacheSpan *spans
    uint32_t room
    uint32_t fresh         # never used so far
    uint32_t free_head
    uint32_t hand          # clock hand of eviction
    uint32_t last          # span found last, NONE for none
    uint32_t *buckets
    uint32_t mask
    uint32_t pages         # here
    uint32_t pages_max     # 0: nothing is kept
    uint64_t gathered      # pages moved together so far

# replication/grants.pyx: one connection of a node pair and direction. Freed when its last Op is done.
cdef enum:
    GRANT_BYTES = 32832    # 64 + 1024 entries
    RELEASES_MAX = 256     # waiting on one link; what does not fit is not told, and waited for

cdef struct GrantLink:
    Core *core
    GrantLink *next
    bint asks              # we ask; else we serve
    bint over
    uint32_t node_key
    int fd
    Op recv_op
    Op send_op
    msghdr msg
    iovec iov
    uint32_t have
    bint waiting           # asked, not answered
    uint64_t asked_ns      # boot clock
    uint32_t asked_count
    uint32_t asked[1024]   # volume indices
    uint64_t asked_epoch[1024]
    uint64_t asked_start[1024]
    uint32_t release_count # to be sent
    sp_grant_release releases[256]
    uint8_t in_bytes[32832]
    uint8_t out_bytes[32832]

# wal/durable.pyx: the device that holds the logs
cdef struct WalDevice:
    uint32_t share_from    # from so many batches under way flushes are shared; 0 for never
    int flush_fd           # what a shared flush is asked of; -1: one of the logs
    uint32_t under_way     # batches submitted, not yet durable
    bint sharing
    MemBatch *written      # plain writes complete, no flush submitted since
    MemBatch *flushing     # the flush in flight makes these durable
    Op op                  # the flush
    void *done             # batch_done
    uint64_t flushes

# wal/joint.pyx: batches that a follower writes together
cdef struct Joint:
    uint64_t from_lsn      # durable in both superblock copies: floors say nothing of what comes after it
    uint64_t to_lsn        # up to this one; 0: they count wherever they are
    bint asking            # the superblock is being written for that
    Waiter waiter
    uint32_t under_way     # gather writes of several batches
    void *done             # batch_done

cdef enum:
    PACE_BUCKETS = 96

# replication/pace.pyx: how fast base lanes may copy
cdef struct Pace:
    uint64_t cap           # bytes per second, 0 for none
    uint32_t stretch_percent   # of the usual latency that a copy may make of it
    uint64_t rate          # bytes per second at present, 0 while nothing speaks against the cap
    uint64_t next_ns       # boot clock: the next granule may be read then
    uint64_t usual_ns      # 99th percentile of clients' writes without a copy beside them; 0: not known
    uint64_t window_ns     # when this window began
    uint64_t noted_ns      # when the newest write ended
    uint64_t spent         # bytes copied in it
    uint32_t samples       # writes in it
    uint32_t low           # windows in a row that were too slow at the lowest rate
    int lanes              # base lanes that run
    bint loaded            # the last window saw clients
    uint32_t counts[96]    # of the window's writes, by how long they took

# Everything the volumes of one reactor share.
cdef struct Core:
    Reactor *reactor
    Volume **volumes       # by index; [0] unused
    uint32_t volume_room
    uint32_t volume_end    # behind the highest index that was ever used: a walk over all volumes ends here
    Dirty dirty
    Frames frames
    Cache cache
    MemBatch *batches      # all
    uint32_t batch_room
    MemBatch *free_batch
    uint32_t free_batches
    uint32_t window_batches    # of all windows of logs together
    uint32_t window_pages      # and their pages, headers included
    uint32_t window_hand       # volume whose window was halved last
    ReadRun *runs          # all
    uint32_t run_room
    ReadRun *free_run
    WalDevice wal_device
    Merge *merges          # all
    Merge *free_merge
    GrantLink *grants      # all grant links
    Timer grant_timer
    uint64_t looked_ns     # boot clock: links were looked at for silence
    uint64_t hold_off_ns   # nothing opens before this moment of the boot clock
    uint8_t *walk_windows  # wal/windows.pyx: those nobody reads into now; each begins with the next one
    uint32_t walk_taken    # windows given out since the last look, and before
    uint32_t walk_seen     # as many at the look before
    uint32_t walks         # that are under way
    uint64_t closed_boot   # promises of volumes that were closed run until then
    uint64_t closed_raw
    uint64_t grant_ns
    uint64_t fence_hold_ns
    uint64_t repair_ns     # for so long what meets damage waits for a repair
    bint leaving           # it is being stopped
    uint64_t told_serial   # control/report.pyx: of the newest answer about all volumes
    Pace pace
    uint32_t wal_pin_percent   # of a log, kept for peers that are behind
    uint32_t versions_per_volume
    uint32_t versions_behind   # as many more may a replica have that catches up
    uint64_t round_ns      # boot clock: the last round of the flusher that a timer is set for
    uint32_t writes_max    # WAL writes in flight per volume
    uint32_t joint_lsns    # entries that a follower must be behind to write batches together
    void *hooks            # ClientHooks of front/client.pxd

# extent/read.pyx: one disk read of adjacent pages for a request
cdef struct ReadRun:
    BlockReq *req
    uint32_t first         # index in req.pages
    uint32_t count
    uint32_t tries
    Op op
    iovec iov[64]
    uint32_t sums[64]      # expected, taken when the read was submitted
    ReadRun *next

# extent/sync.pyx: flushes of one file
cdef struct Sync:
    Volume *volume
    int fd
    int rc                 # of a flush that failed: none counts any more
    Op op                  # the flush under way
    Waiter *flushing       # they asked before it was submitted
    Waiter *waiting        # they came since: the next one is theirs

# extent/flusher.pyx
cdef struct FlushItem:
    uint64_t page
    uint32_t version       # index in the dirty map

cdef struct FlushIo:
    Volume *volume
    Op op
    uint32_t bytes
    iovec iov[64]

cdef struct Flush:
    uint32_t stage         # FlushStage
    uint64_t target        # LSN of this round
    int fd                 # extents, as this round writes them
    uint32_t run_pages     # at once
    FlushItem *list        # to be written, sorted by page
    uint32_t count
    uint32_t at            # next of the list to be written
    uint32_t span_count    # the first so many spans of the volume belong to this round
    uint64_t block         # sums blocks below it are patched
    uint32_t inflight
    int rc
    bint given_up          # the last round was: a full pool, a damaged block of checksums; until one ends well
    FlushIo io[8]
    Timer timer            # a quiet volume is flushed after a second or two, a full pool tried again
    Task task
    Waiter step            # a flush, a sums block or the superblock is awaited
    bint awaiting          # a sums block
    bint urgent            # somebody waits for room
    bint due               # the timer said so
    bint wanted            # a round is due and waits for views to end: no base frame is taken meanwhile
    Waiter *waiters        # wake when a round that covers `arg` is complete

# extent/seals.pyx: the sums blocks of a round.
cdef struct Seals:
    uint32_t stage         # Stage of seals.pyx
    void *done             # seals_done
    Frame *frames[336]     # of this list: patched, pinned
    uint32_t count
    uint32_t written       # the first so many of them are written or being written
    uint32_t place         # of the next list
    bint listed            # this round's blocks are
    bint unsynced          # blocks were written in place since the sums were flushed
    uint64_t found_lsn     # end of the log when the volume was opened; -1 when it was damaged
    bint full              # no more frames can be had: the list ends here
    int failed             # of a write in place
    Task task              # a block was fetched: go on
    uint8_t *page          # pool page that holds the list while it is written
    Op op                  # writes the list
    iovec iov

# extent/torn.pyx: lives while the volume is opened.
cdef struct TornIo:
    Volume *volume
    uint64_t number        # of the block
    uint32_t check         # what the list says of it
    sp_sums_block *block
    Op op
    iovec iov

cdef struct Torn:
    Waiter *done
    uint8_t *memory
    sp_sums_list *list
    uint32_t place
    uint32_t row           # next of the list
    uint32_t inflight
    Op op
    iovec iov
    TornIo io[8]

# extent/punch.pyx: pieces of the extent file that zero entries may have freed. A range is a hint, verified piece by
# piece, so ranges may be merged when there are too many.
cdef struct PunchRange:
    uint64_t first         # pieces of PUNCH_PAGES
    uint64_t end

cdef struct Punch:
    PunchRange ranges[64]
    uint32_t count
    uint64_t floor_lsn     # the log keeps entries from here on until the ranges are done
    uint64_t at            # piece being looked at, of the last range
    uint64_t run_first     # pieces found free, not yet given back
    uint64_t run_end
    bint unsupported       # the file system has no holes
    bint wait              # tried again when the timer comes
    uint64_t pieces        # given back so far
    Op op
    Waiter waiter          # a sums block is awaited
    void (*done)(Volume *volume) noexcept nogil   # a part is done: the flusher goes on
# extent/absence.pyx: what changed since a member was last in sync
cdef struct Absence:
    uint8_t uuid[16]       # of the member
    bint used
    bint listed            # its row is in the superblock: all its blocks were durable once
    uint32_t generation    # of this map, or of the last one kept here
    uint64_t from_lsn      # granules touched by entries above it have their bit
    uint64_t changed       # granules with a bit
    uint8_t *bits
    uint8_t *stale         # per block: newer than the disk

# wal/superblock.pyx: one update at a time, copy 0 then copy 1
cdef struct Super:
    int fd
    uint8_t *image         # pool page being written
    sp_superblock *now     # the truth in memory
    uint32_t stage         # 0 idle, 1 copy 0, 2 copy 1
    bint again             # changed while being written
    Waiter *waiters        # of the next update
    Waiter *writing        # of the update in flight
    Waiter *first_waiters  # likewise, for whom its first copy is enough
    Waiter *first_writing
    Op op
    iovec iov
    uint64_t written_tail_lsn
    uint64_t written_tail_offset
    uint64_t written_reach_lsn
    uint64_t written_joint_from
    uint64_t written_joint_to

# gate.pyx
cdef struct Gate:
    bint allowed           # opening is complete: the control side allowed it
    bint over              # closed for the rest of the term, whatever the control side says
    bint released          # closed by somebody, not by time: no grants are asked for
    uint64_t released_ns   # boot clock: a grant asked for at or before this moment opens nothing
    bint open
    bint told              # clients know that the volume is served here
    uint64_t not_before    # boot clock: promises of others run until then
    uint64_t deadline_boot # earliest right among the peers needed
    uint64_t deadline_raw
    Timer timer            # the fence timer
    uint64_t opened        # times
    uint64_t closed_ns     # boot clock when it closed last

# replication/ship.pyx: one peer of a primary. It outlives its links.
cdef struct Peer:
    Volume *volume
    uint32_t slot
    uint32_t node_key      # NONE until it was shipped to: nobody's grant is this peer's
    bint needed            # commits and gate need it
    bint one_of            # and one of these, whichever is first
    Ship *ship             # its link, or NULL
    uint64_t acked_lsn     # durable there: set by join and acks of this term only
    uint64_t applied_lsn
    uint64_t headroom      # pages
    uint64_t heard_ns      # boot clock
    uint64_t worst_ns      # longest an ack took in this half second, and in the one before
    uint64_t worst_before_ns
    uint64_t worst_since_ns
    uint64_t right_boot    # the right its grant gives ends here
    uint64_t right_raw
    uint64_t log_bytes     # shipped, over all its links
    uint64_t base_bytes
    Waiter *waiters        # wake when acked_lsn >= arg

# What a rebuild session finds at the follower (control/prepare.pyx), as the control side hands it on.
cdef struct BasePlan:
    uint64_t keep          # Keep
    uint64_t joined_lsn    # KEEP_ALL: its log goes on after this
    uint64_t cursor        # pages below it are there
    uint64_t from_lsn      # with everything up to this LSN
    uint64_t base_lsn      # where its log began; 0 when it has none
    uint64_t patched       # pages below it miss nothing between the two
    uint64_t pages         # KEEP_ALL: size as of the end of its log; what was added since comes by the log
    uint8_t uuid[16]

# replication/base_send.pyx: up to 64 pages for the base lane
cdef struct Granule:
    Ship *ship
    bint reading
    bint second            # of the second pass
    uint64_t as_of
    BlockReq req           # its pages, once it is read

# replication/log_read.pyx: neighbouring batches of the ring, read at once for a link
cdef struct LogRead:
    Ship *ship
    uint64_t first         # sequence of the next of them to be sent
    uint64_t end           # one past the last of them
    bint ready             # they are here, and whole
    uint32_t at            # pages of those that were sent
    uint32_t count         # pages of all; 0: free
    Op op
    iovec iov[257]
    uint8_t *pages[257]

# One ship link. Freed when its last Op is done.
cdef struct Ship:
    Peer *peer             # NULL: the link is over
    Volume *volume
    int fd
    uint64_t epoch         # term of the link
    uint64_t start
    uint64_t alive_ns      # boot clock: the peer last showed that it has this link; 0 while nobody is asked
    uint64_t acked_ns      # boot clock of its first ack; 0: none yet
    uint64_t cursor        # sequence of the next batch to ship
    uint64_t sent_commit
    Task task
    Op send_op
    msghdr msg
    iovec iov[1024]
    uint32_t iov_count
    uint32_t iov_done
    sp_ship_frame heads[64]
    uint32_t head_count
    MemBatch *held[64]     # sent from memory in this send
    uint32_t held_count
    uint8_t *pages[640]    # SEND_PAGES: pool pages that go with this send
    uint32_t page_count
    LogRead reads[4]       # LOG_READS, in no order: for a peer that is behind what is in memory
    uint64_t alone_to      # batches below this sequence are read one by one: a read of several of them failed
    # acks
    Op recv_op
    uint8_t acks[1024]
    uint32_t acks_have
    # base lane
    bint rebuild
    bint base_started
    Granule granules[8]    # GRANULES: being read or to be sent, in the order of their pages
    uint32_t granule_first
    uint32_t granule_count
    uint32_t granule_reads # of them being read
    bint base_failed       # one could not be read
    bint base_done         # BASE_DONE was sent
    bint rebuilt           # the follower said so
    BasePlan plan
    uint8_t *changed       # bits of what may be missing below the cursor; NULL: nothing
    bint second            # the second pass: changed granules below the cursor
    uint64_t base_page     # next page of this pass to be read
    uint64_t told_page     # everything of this pass before it was sent, or needs no sending
    bint told_second       # and of this pass
    uint64_t base_end      # size when the session began: what was added later comes by the live lane
    uint64_t base_as_of    # newest as-of LSN sent
    uint64_t base_pages    # to be looked at in all, since the link began
    uint64_t base_looked   # and so far
    uint32_t unmarked      # pages sent since the last durable mark
    uint32_t marks_sent    # durable marks
    uint32_t marks_acked
    Timer base_timer       # the pace allows the next granule then
    uint32_t live_pages    # shipped on the live lane above the as-of LSN of the last base frame
    uint32_t live_zeros    # zero entries among them

# wal/recovery.pyx: the walk at open
cdef struct Walk:
    bint unwanted          # no other replica lacks anything of what is applied here
    uint8_t *window        # WALK_BYTES of the ring, read at `from_offset`
    uint32_t have
    uint64_t from_offset
    uint64_t offset        # next batch is looked for here
    bint wrapped           # offset 0 was tried for this batch
    bint looking           # for proof of damage
    uint64_t looked        # bytes looked through
    uint64_t look_to       # bytes to look through
    uint64_t floor_seen    # highest proof found
    bint torn_seen         # a batch was begun where the log ends
    uint64_t commit_seen
    Op op
    iovec iov
    Waiter *done

# replication/base_install.pyx: a base frame on its way into the extents
cdef enum InstallStage:
    INSTALL_FREE = 0
    INSTALL_PAGES = 1      # its pages are being written
    INSTALL_WRITTEN = 2    # they are; its sums are not
    INSTALL_SUMS = 3       # they are being written

cdef struct Install:
    Follow *follow
    uint32_t stage         # InstallStage
    uint64_t number        # as they arrived, from 1
    uint64_t as_of
    uint32_t at            # next page of it
    uint32_t run           # data pages before it
    uint32_t pages         # in body, the first holds the head
    uint8_t *body[65]
    Op op
    iovec iov[64]

# replication/base_marks.pyx: a durable mark on its way to the superblock
cdef enum MarkStage:
    MARK_FREE = 0
    MARK_WAITS = 1         # for frames that came before it
    MARK_FLUSHED = 2       # files are being flushed
    MARK_SUPER = 3

cdef struct Mark:
    Follow *follow
    uint32_t stage         # MarkStage
    uint64_t after         # frames up to this number came before it
    uint64_t cursor        # what it says
    uint64_t patched
    uint32_t syncs         # files that are not flushed yet
    int rc                 # or cannot be
    Waiter flushed[2]      # extents, sums
    Waiter waiter          # the superblock

# replication/receive.pyx: a follower's link from its primary. Freed when its last Op is done.
cdef struct Follow:
    Volume *volume
    bint over
    bint parsing
    bint heard             # something came by it
    uint32_t denied        # asks in a row whose sender had no such link
    uint64_t alive_ns      # boot clock: the primary last showed that it has this link; 0 while nobody asks
    int fd
    uint64_t epoch
    uint64_t start
    uint64_t told_lsn      # committed in the history of that term, as its frames say
    Task task
    Timer timer            # tries again when there was no room
    Op recv_op
    uint8_t *buffer
    uint32_t have
    uint32_t used
    bint in_body
    sp_ship_frame frame
    uint32_t frame_have
    uint32_t body_have
    uint8_t *body[257]     # pages being filled, the first holds the head
    uint32_t body_pages    # taken
    # acks
    Op send_op
    msghdr msg
    iovec iov
    sp_ship_ack ack
    uint64_t acked_lsn     # sent
    uint64_t acked_applied
    uint32_t acked_flags
    uint64_t acked_headroom
    uint32_t acked_marks
    # base lane
    bint base_busy         # the table is being stored, or the end made durable; nothing else is parsed
    bint base_over         # it was
    int base_rc            # the copy cannot go on
    Op base_op
    iovec base_iov[1]
    Install installs[8]    # INSTALLS
    uint32_t installing    # of them under way
    uint64_t arrived       # base frames taken
    bint patching          # a sums block is awaited or being written
    Frame *base_frame      # the one being written
    Waiter base_waiter     # a sums block
    Waiter end_waiter      # a flush of the whole copy
    bint behind            # the kernel is told to write back; what follows is told with the next call
    uint64_t behind_from   # pages that were written since
    uint64_t behind_end
    Op behind_op
    Mark marks_open[4]     # MARKS_OPEN: durable marks on their way
    uint32_t marking       # of them under way
    uint64_t mark_cursor   # of the newest one taken
    uint32_t marks         # durable marks taken
    uint64_t base_bytes    # base pages installed, with their heads
    Table *base_table      # came before BASE_START and is being written to its slot
    bint base_tabled       # it was
    bint base_synced       # BASE_DONE came and the base is durable
    uint64_t base_witness  # newest entry that a page taken may hold; durable here, it completes the rebuild
    bint reaching          # a frame waits until the superblock says how new pages become
    Waiter reach_waiter
    bint rebuilt
    Waiter super_waiter
    bint super_busy

# resize.pyx
cdef struct Resize:
    uint64_t lsn
    uint64_t pages

cdef struct Stats:
    uint64_t reads
    uint64_t writes
    uint64_t read_bytes
    uint64_t written_bytes
    uint64_t batches
    uint64_t damaged

cdef struct Volume:
    Reactor *reactor
    uint32_t index         # in the reactor; never 0
    uint64_t key           # hash of the volume id
    uint64_t pages         # size at the end of the log
    uint64_t served        # size as of the commit LSN: what clients may use
    uint64_t file_pages    # what the files can hold
    uint64_t grow_asked    # the control side was asked for so many
    Table *table           # newest logged, older ones behind it down to that of the checkpoint; NULL: there never was one
    bint reserved          # it has a reservation
    uint64_t table_serial  # counts what was the newest table
    uint64_t table_told    # the control side was told of tables up to this LSN
    Op table_op            # a slot is written or read
    iovec table_iov
    Resize resizes[8]      # LSN order
    uint32_t resize_count
    uint32_t block_size
    bint opened
    bint closing           # it is leaving: no new command, session or request; applied and checkpointed first
    bint cutting           # a join wipes the end of the log
    uint32_t commands      # of the control side, under way
    bint suspect
    bint joined            # in this process, to the primary of the term promised, or made ready for its copy
    uint64_t readied       # joins and preparations asked for so far
    uint64_t reach_durable # reach_lsn of both superblock copies
    bint promise_durable   # the promise in memory is on both superblock copies
    bint condemned         # a write or flush failed: nothing more is written
    bint frozen            # extents or sums failed on the last in-sync copy: it is read, and written no more
    bint pool_full         # the flusher met the end of the pool
    bint room_told         # the control side knows that there is no room
    int ext_fd
    int ext_direct_fd          # the same file past the page cache: the flusher's
    int sums_fd
    Sync ext_sync          # of ext_fd
    Sync sums_sync         # of sums_fd
    Super super
    Log log
    Joint joint
    Flush flush
    Seals seals
    Torn *torn             # NULL once it is open
    uint64_t completed     # torn sums blocks that were made whole when it was opened
    Punch punch
    Absence absences[4]
    uint64_t absence_blocks    # of one map
    int absence_fd
    uint8_t *absence_page      # pool page being written
    bint absence_due           # a map waits for a round that lists it
    Op absence_op
    iovec absence_iov
    Waiter *absence_waiter
    Gate gate
    # terms
    uint64_t term_epoch    # own term while primary(-to-be), else 0
    uint64_t term_start
    bint primary           # begin_term was called for the promised epoch
    uint32_t terms_ended   # own terms that are over
    uint64_t grant_boot    # promise given to the promised primary runs until then
    uint64_t grant_raw
    uint64_t grant_stamp   # the asker's, of the newest ask it was given for
    uint64_t release_stamp # the asker's: it gave back what it asked for until then
    uint64_t prior_epoch   # the newest older term that was promised anything, and until when
    uint64_t prior_start
    uint64_t prior_boot
    uint64_t prior_raw
    uint64_t prior_stamp
    uint64_t other_boot    # promises given in terms older than that run until then
    uint64_t other_raw
    # commit
    uint64_t commit_lsn
    uint64_t applied_lsn   # in memory; the superblock's may lag
    uint64_t extents_lsn   # extents and sums may hold versions up to here: a round that was begun, a page or block mended
    bint writable
    bint any_of            # some peer is one_of
    bint ack_local         # a write is answered when it is durable here; it commits as any other
    uint64_t ack_lsn       # answered up to here before it was committed; 0 when that is never done
    uint64_t blocked_ns    # boot clock: not writable since
    uint64_t term_start_lsn
    Task log_task          # close and write the open batch
    Task commit_task       # recompute the commit LSN
    Task resume_task       # look at held and queued requests again
    Task quiet_task        # see whether nothing is under way in log and flusher
    Waiter *quiet_waiters  # wake when so
    Timer commit_timer     # tell idle followers
    ReqList held
    ReqList queued
    ReqList logged         # LSN order, waiting for commit
    ReqList damaged        # waiting for the repair of a page or of a sums block
    Merge *merges          # writes that know, or will know, what is under them
    Timer held_timer
    Timer damaged_timer
    bint alone             # the newest line acted on names no other member (`for_nobody` in wal/keep.pyx)
    Peer *peers[8]
    Follow *follow         # the link from the primary, or NULL
    uint64_t heard_ns      # boot clock: the primary was heard, by a frame or a request for a grant
    uint64_t base_as_of    # while rebuilding nothing above it is applied
    Walk walk
    uint64_t torn_after    # what the walk found; <uint64_t>-1 for nothing
    uint64_t damaged_after
    uint64_t let_go_to     # retained, applied batches up to here were damaged and are let go; 0 normally
    uint32_t sessions
    uint32_t links         # ship and follow links not freed yet
    uint32_t reading       # reads under way
    # extent/dirty.pyx
    uint32_t fifo_head     # versions in LSN order
    uint32_t fifo_tail
    uint32_t version_count # not yet applied
    uint32_t behind_count  # extent/behind.pyx: of them, those that do not count for the bound of a volume
    Span spans[128]
    uint32_t span_count
    uint64_t headroom      # pages the pool can still take, told by the control side
    uint64_t *told         # control/report.pyx: the status the control side was told last
    uint64_t told_words    # 0: none yet
    bint telling           # in the answer that is being made
    uint64_t views         # page digests in progress: the flusher stands still
    Waiter *commit_waiters # wake when commit_lsn >= arg
    Stats stats
