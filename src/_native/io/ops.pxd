# The io function table: the only way the core touches the world. uring.pyx fills it with the kernel's ring,
# a simulator with virtual disks, links and clocks; the same wal/, extent/, replication/ and front/ run on both.
#
# Thread: reactor. An Op belongs to its caller from submit to done; while `busy` the kernel holds its buffers.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from sparrow._native.sys cimport iovec, msghdr


ctypedef void (*op_done)(Op *op, int32_t res) noexcept nogil

cdef struct Op:
    op_done done          # called once per submission with a byte count or -errno
    void *owner           # the caller's own
    uint64_t tag          # the caller's own
    bint busy             # submitted, done not yet called


cdef struct Io:
    void *impl
    # Files. `iov` must stay until done. Offsets in bytes. dsync: durable when done.
    void (*read)(Io *io, Op *op, int fd, iovec *iov, uint32_t count, uint64_t offset) noexcept nogil
    void (*write)(Io *io, Op *op, int fd, iovec *iov, uint32_t count, uint64_t offset, bint dsync) noexcept nogil
    void (*datasync)(Io *io, Op *op, int fd) noexcept nogil
    # Give these bytes of a file back to its file system; they read as zeros from then on. May take long: never done on
    # the thread that asks.
    void (*punch)(Io *io, Op *op, int fd, uint64_t offset, uint64_t length) noexcept nogil
    # Begin to write back what is dirty in this range. A hint: nothing is durable afterwards, and an error says nothing that
    # the next datasync does not say.
    void (*behind)(Io *io, Op *op, int fd, uint64_t offset, uint64_t length) noexcept nogil
    # Sockets. recv gives 0 at end of stream; `msg` and what it points to must stay until done.
    void (*recv)(Io *io, Op *op, int fd, void *data, uint32_t length) noexcept nogil
    void (*send)(Io *io, Op *op, int fd, msghdr *msg) noexcept nogil
    # Wakes at an absolute CLOCK_BOOTTIME; done gets -ETIME.
    void (*wake_at)(Io *io, Op *op, uint64_t boot_ns) noexcept nogil
    # Reads 8 bytes of an eventfd.
    void (*read_event)(Io *io, Op *op, int fd, uint64_t *value) noexcept nogil
    # Ask the kernel to end an Op early; its done still comes, with -ECANCELED if it was stopped.
    void (*cancel)(Io *io, Op *op) noexcept nogil
    void (*shutdown)(Io *io, int fd) noexcept nogil
    void (*close)(Io *io, int fd) noexcept nogil
    # Small frames leave at once.
    void (*no_delay)(Io *io, int fd) noexcept nogil
    uint64_t (*boot_ns)(Io *io) noexcept nogil
    uint64_t (*raw_ns)(Io *io) noexcept nogil
    # Submit what is queued and, when `wait`, sleep until a completion; then call done for all that are there.
    int (*turn)(Io *io, bint wait) noexcept nogil
