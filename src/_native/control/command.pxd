# A command under way: its mail, and what it needs to wait. Freed when it is answered. Thread: reactor.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.front.client cimport Client
from sparrow._native.io.ops cimport Op
from sparrow._native.mailbox cimport Mail
from sparrow._native.reactor cimport Timer
from sparrow._native.sys cimport iovec
from sparrow._native.volume cimport BlockReq, Core, Volume, Waiter

cdef enum CommandKind:
    COMMAND_OPEN = 1
    COMMAND_CLOSE = 2
    COMMAND_STATUS = 3
    COMMAND_SET_STATE = 4
    COMMAND_SET_LINE = 5
    COMMAND_FENCE = 6
    COMMAND_BEGIN_TERM = 7
    COMMAND_READ_LOG = 8
    COMMAND_APPEND_LOG = 9
    COMMAND_CHECK_AT = 10
    COMMAND_JOIN = 11
    COMMAND_PREPARE = 12
    COMMAND_PREPARED = 13
    COMMAND_COMMIT_INHERITED = 14
    COMMAND_SET_MEMBERSHIP = 15
    COMMAND_SHIP = 16
    COMMAND_RECEIVE = 17
    COMMAND_DROP_PEER = 18
    COMMAND_PEER_ACKED = 19
    COMMAND_GRANT_LINK = 20
    COMMAND_OPEN_GATE = 21
    COMMAND_CLOSE_GATE = 22
    COMMAND_ADOPT_SESSION = 23
    COMMAND_ANSWER = 24
    COMMAND_ANSWER_RAW = 25
    COMMAND_END_SESSION = 26
    COMMAND_DIGESTS = 27
    COMMAND_READ_PAGE = 28
    COMMAND_REPAIR_PAGE = 29
    COMMAND_STOP = 30
    COMMAND_SET_HEADROOM = 31
    COMMAND_READ_SUMS = 32
    COMMAND_MEND_SUMS = 33
    COMMAND_MEND_BATCH = 34
    COMMAND_CHECK_BATCH = 35
    COMMAND_CHECK_SUMS = 36
    COMMAND_CHECK_PAGES = 37
    COMMAND_PAGE_STATES = 38
    COMMAND_RESIZE = 39
    COMMAND_GROWN = 40
    COMMAND_SET_ABSENT = 41
    COMMAND_ADOPT_QUEUE = 42
    COMMAND_ADOPT_NBD = 43
    COMMAND_RESERVATIONS = 44
    COMMAND_LOG_RESERVATIONS = 45
    COMMAND_ABORT_COMMAND = 46
    COMMAND_MEND_TABLE = 47
    COMMAND_ATTENTION = 48
    COMMAND_STATUSES = 49
    COMMAND_MEND_SUPERBLOCK = 50
    COMMAND_PIN = 51
    COMMAND_UNPIN = 52
    COMMAND_PREEMPTED = 53

ctypedef void (*command_step)(Waiter *waiter, int rc) noexcept nogil

cdef struct Command:
    Mail mail
    Core *core
    Volume *volume
    Waiter waiter
    Timer timer
    Op op
    iovec iov
    uint8_t *buffer        # pool page or malloc, the command's own
    uint64_t at
    uint64_t end
    uint32_t stage
    uint64_t number        # JOIN, PREPARE: the volume's `readied` when it was asked for; else the checksum of a batch
    command_step step      # of a part that several commands share
    Client *client         # LOG_RESERVATIONS: whose command it is, once it is logged; counted in its `changes`
    BlockReq req

# Keeps the mail's payload; NULL without memory (the command is then answered with -ENOMEM).
cdef Command *command_new(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# Answer and free. `data` is malloc'ed or NULL. A volume is not freed while commands on it are under way; who frees it
# first sets `command.volume` to NULL.
cdef void command_done(Command *command, int rc, uint64_t a, uint64_t b, uint64_t c, uint8_t *data,
                       uint64_t length) noexcept nogil
# Is the term that it names, by `a` and `b` of its mail, still the one that is promised?
cdef bint command_of_term(const Command *command) noexcept nogil
# Call `step` when nothing is under way in the volume's log and flusher.
cdef void command_when_quiet(Command *command, command_step step) noexcept nogil
cdef void quiet_init(Volume *volume) noexcept nogil
