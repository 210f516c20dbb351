/* What Cython cannot say: an assert that aborts, full barriers, hardware CRC32C, prctl-like one-liners. */
#ifndef SP_COMPAT_H
#define SP_COMPAT_H

#include <errno.h>
#include <linux/falloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#if defined(__SSE4_2__)
#include <nmmintrin.h>
#endif

/* States what only a bug can break. A Cython assert inside noexcept nogil prints and goes on; this one stops. */
#define SP_ASSERT(cond) \
    do { \
        if (__builtin_expect(!(cond), 0)) { \
            fprintf(stderr, "sparrow: %s:%d: assertion failed: %s\n", __FILE__, __LINE__, #cond); \
            abort(); \
        } \
    } while (0)
static inline void sp_assert(int cond, const char *what)
{
    if (__builtin_expect(!cond, 0)) {
        fprintf(stderr, "sparrow: assertion failed: %s\n", what);
        abort();
    }
}

static inline uint64_t sp_load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void sp_store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t sp_exchange(uint64_t *p, uint64_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
static inline void sp_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static inline uint64_t sp_clock_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* The number of the lowest bit that is set, of bits that are not all clear. */
static inline uint32_t sp_low_bit(uint32_t bits)
{
    return (uint32_t)__builtin_ctz(bits);
}

/* CRC32C (Castagnoli, reflected, initial and final inversion), as in RFC 3720 B.4. `seed` continues an earlier sum. */
static inline uint32_t sp_crc32c(uint32_t seed, const void *data, size_t len)
{
    const uint8_t *p = data;
#if defined(__SSE4_2__)
    uint64_t c = ~seed;
    while (len && ((uintptr_t)p & 7)) { c = _mm_crc32_u8((uint32_t)c, *p++); len--; }
    for (; len >= 32; len -= 32, p += 32) {
        c = _mm_crc32_u64(c, *(const uint64_t *)p);
        c = _mm_crc32_u64(c, *(const uint64_t *)(p + 8));
        c = _mm_crc32_u64(c, *(const uint64_t *)(p + 16));
        c = _mm_crc32_u64(c, *(const uint64_t *)(p + 24));
    }
    for (; len >= 8; len -= 8, p += 8) c = _mm_crc32_u64(c, *(const uint64_t *)p);
    while (len--) c = _mm_crc32_u8((uint32_t)c, *p++);
    return ~(uint32_t)c;
#else
    uint32_t c = ~seed;
    while (len--) {
        c ^= *p++;
        for (int k = 0; k < 8; k++) c = (c >> 1) ^ (0x82F63B78u & (0u - (c & 1)));
    }
    return ~c;
#endif
}

#endif
