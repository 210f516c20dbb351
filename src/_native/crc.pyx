"""CRC32C of a page as three interleaved streams: the CRC unit has a latency of 3 and a throughput of 1."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.sys cimport sp_crc32c

cdef extern from *:
    """
    #if defined(__SSE4_2__)
    #include <nmmintrin.h>
    #include <stdint.h>
    #include <stddef.h>
    /* 4096 = 1360 + 1360 + 1376. A stream's sum is moved past the bytes after it by a linear map, kept as 4 x 256. */
    static uint32_t sp_past_a[4][256], sp_past_b[4][256];
    static uint32_t sp_zeros(uint32_t c, size_t bytes)
    {
        uint64_t x = c;
        for (; bytes; bytes -= 8) x = _mm_crc32_u64(x, 0);
        return (uint32_t)x;
    }
    static void sp_fill(uint32_t t[4][256], size_t bytes)
    {
        for (int k = 0; k < 4; k++)
            for (uint32_t v = 0; v < 256; v++) t[k][v] = sp_zeros(v << (8 * k), bytes);
    }
    static void sp_page_init(void) { sp_fill(sp_past_a, 1360 + 1376); sp_fill(sp_past_b, 1376); }
    static inline uint32_t sp_move(uint32_t t[4][256], uint32_t c)
    {
        return t[0][c & 255] ^ t[1][(c >> 8) & 255] ^ t[2][(c >> 16) & 255] ^ t[3][c >> 24];
    }
    static inline uint32_t sp_page(const void *page)
    {
        const uint64_t *a = page, *b = a + 170, *d = b + 170;
        uint64_t ca = 0xffffffffu, cb = 0, cd = 0;
        for (int i = 0; i < 170; i++) {
            ca = _mm_crc32_u64(ca, a[i]);
            cb = _mm_crc32_u64(cb, b[i]);
            cd = _mm_crc32_u64(cd, d[i]);
        }
        cd = _mm_crc32_u64(cd, d[170]);
        cd = _mm_crc32_u64(cd, d[171]);
        return ~(sp_move(sp_past_a, (uint32_t)ca) ^ sp_move(sp_past_b, (uint32_t)cb) ^ (uint32_t)cd);
    }
    #else
    static void sp_page_init(void) {}
    #define sp_page(p) sp_crc32c(0, (p), 4096)
    #endif
    """
    void sp_page_init() nogil
    uint32_t sp_page(const void *page) nogil

sp_page_init()


cdef uint32_t crc_page(const void *page) noexcept nogil:
    return sp_page(page)


def crc32c(data, seed=0):
    """CRC32C of a bytes-like object; ``seed`` is an earlier sum to go on from (RFC 3720, B.4)."""
    cdef const uint8_t[::1] view = data
    if view.shape[0] == 0:
        return seed
    return sp_crc32c(seed, &view[0], view.shape[0])


def crc32c_page(data):
    """CRC32C of exactly 4096 bytes by the fast path."""
    cdef const uint8_t[::1] view = data
    if view.shape[0] != 4096:
        raise ValueError(f"a page has 4096 bytes, not {view.shape[0]}")
    return sp_page(&view[0])


def crc32c_pages(data):
    """CRC32C of each whole page of a buffer, as u32 little endian."""
    cdef const uint8_t[::1] view = data
    cdef Py_ssize_t n = view.shape[0] // 4096, i
    cdef bytearray out = bytearray(4 * n)
    cdef uint8_t[::1] to = out
    for i in range(n):
        (<uint32_t *>&to[4 * i])[0] = sp_page(&view[4096 * i])
    return bytes(out)
