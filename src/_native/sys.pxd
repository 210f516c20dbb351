# libc and kernel declarations, all nogil; nowhere else.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "compat.h" nogil:
    void SP_ASSERT(bint cond)
    void sp_assert(bint cond, const char *what)
    uint64_t sp_load_acquire(const uint64_t *p)
    void sp_store_release(uint64_t *p, uint64_t v)
    uint64_t sp_exchange(uint64_t *p, uint64_t v)
    void sp_fence()
    uint64_t sp_clock_ns(int clock)
    uint32_t sp_low_bit(uint32_t bits)
    uint32_t sp_crc32c(uint32_t seed, const void *data, size_t length)

    int CLOCK_BOOTTIME
    int CLOCK_MONOTONIC_RAW
    int EAGAIN, ECANCELED, EIO, EINVAL, ENOMEM, ENOSPC, ENOENT, EPIPE, EPROTO, ESTALE, EBUSY, ETIME, EBADMSG, ENODATA
    int ECONNRESET, EDQUOT, EFBIG, EILSEQ, EINTR, EOPNOTSUPP, EPERM, ESHUTDOWN
    int FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
    unsigned int SYNC_FILE_RANGE_WRITE

    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        uint32_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    int MSG_NOSIGNAL, MSG_WAITALL
    int SHUT_RDWR
    int shutdown(int fd, int how)
    int setsockopt(int fd, int level, int name, const void *value, uint32_t length)
    int IPPROTO_TCP, TCP_NODELAY, SOL_SOCKET, SO_SNDBUF
    int close(int fd)
    int eventfd(unsigned int initial, int flags)
    int EFD_CLOEXEC, EFD_NONBLOCK
    ssize_t write(int fd, const void *data, size_t length)
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, int64_t offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    void *MAP_FAILED
    void *memcpy(void *to, const void *what, size_t length)
    void *memset(void *to, int c, size_t length)
    void *memmove(void *to, const void *what, size_t length)
    int memcmp(const void *a, const void *b, size_t length)
    size_t strlen(const char *text)
    void *malloc(size_t size)
    void *calloc(size_t count, size_t size)
    void *realloc(void *p, size_t size)
    void free(void *p)
