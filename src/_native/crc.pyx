"""CRC32C of a page, by the fastest of two ways that the processor has; which one is found out when the module is
loaded.

`three`: three interleaved streams of the crc32 instruction, whose latency is 3 and whose throughput is 1. Every x86-64
has it.

`wide`: carry-less multiplication of 64 bytes at once (AVX-512 with VPCLMULQDQ: Ice Lake, Zen 4 and newer), a third of
the time. Eight registers are each moved past the next 512 bytes and added to them until 512 bytes are left that have
the page's remainder, then one onto the other until 16 are. A 64-bit half of a register is a polynomial whose
coefficient of x^63 is bit 0. The product of two such halves lies one place higher than 128 bits of that kind would, so
what moves a half by n places is x^(n-1) mod P. Source: Gopal et al., "Fast CRC Computation for Generic Polynomials
Using PCLMULQDQ Instruction" (Intel, 2009).

A block that is zero from some byte on, as the header of a batch is, needs no look at its zeros: the sum of what is
before them is moved past them by one such product, of 32 bits by 32. A sum is linear, so what one field of four bytes
adds to that of a page is moved to the page's end likewise and taken off again.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.sys cimport sp_crc32c

cdef extern from *:
    """
    #if defined(__SSE4_2__)
    #include <immintrin.h>
    #include <stdint.h>
    #include <stddef.h>
    /* So many words, one after the other, take as long as a whole page at the fastest. */
    #define SP_HEAD_WORDS 64
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
    /* x^n mod P in the upper half of a 64-bit polynomial. */
    static uint64_t sp_power(unsigned n)
    {
        uint32_t r = 0x80000000u;
        while (n--) r = r >> 1 ^ (r & 1 ? 0x82f63b78u : 0);
        return (uint64_t)r << 32;
    }
    /* What moves a register by so many bits: its first half, which lies 64 places higher, and its second. */
    struct sp_by { uint64_t first, second; };
    static struct sp_by sp_by_512_bytes, sp_by_64_bytes, sp_by_16_bytes;
    static struct sp_by sp_move_by(unsigned bits)
    {
        struct sp_by by = { sp_power(bits + 63), sp_power(bits - 1) };
        return by;
    }
    static int sp_wide, sp_narrow;
    /* What moves a sum past 8 n bytes, and past all that follows byte 12: a product of 32 by 32 bits and a crc32 of it add
     * 33 places. */
    static uint32_t sp_past_words[513], sp_past_12;
    static void sp_past_init(void)
    {
        uint32_t r = (uint32_t)(sp_power(8 * 8 - 33) >> 32);
        for (int n = 1; n <= 512; n++) {
            sp_past_words[n] = r;
            for (int bit = 0; bit < 64; bit++) r = r >> 1 ^ (r & 1 ? 0x82f63b78u : 0);
        }
        sp_past_12 = (uint32_t)(sp_power(8 * (4096 - 12) - 33) >> 32);
    }
    static void sp_page_init(void)
    {
        sp_fill(sp_past_a, 1360 + 1376);
        sp_fill(sp_past_b, 1376);
        sp_by_512_bytes = sp_move_by(4096);
        sp_by_64_bytes = sp_move_by(512);
        sp_by_16_bytes = sp_move_by(128);
        sp_wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq")
            && __builtin_cpu_supports("pclmul");
        sp_narrow = __builtin_cpu_supports("pclmul");
        sp_past_init();
    }
    #define SP_WIDE __attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.2")))
    SP_WIDE static inline __m512i sp_onto(__m512i from, __m512i by, __m512i to)
    {
        return _mm512_ternarylogic_epi64(
            _mm512_clmulepi64_epi128(from, by, 0x00), _mm512_clmulepi64_epi128(from, by, 0x11), to, 0x96);
    }
    SP_WIDE static inline __m512i sp_spread(struct sp_by by)
    {
        return _mm512_broadcast_i32x4(_mm_set_epi64x((long long)by.second, (long long)by.first));
    }
    SP_WIDE static uint32_t sp_page_wide(const void *page)
    {
        const __m512i *at = page;
        __m512i by = sp_spread(sp_by_512_bytes), s[8];
        for (int i = 0; i < 8; i++) s[i] = _mm512_loadu_si512(at + i);
        /* The sum begins with ones. */
        s[0] = _mm512_xor_si512(s[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(-1)));
        for (int n = 1; n < 8; n++)
            for (int i = 0; i < 8; i++) s[i] = sp_onto(s[i], by, _mm512_loadu_si512(at + 8 * n + i));
        by = sp_spread(sp_by_64_bytes);
        for (int i = 1; i < 8; i++) s[i] = sp_onto(s[i - 1], by, s[i]);
        uint64_t last[8], c = 0;
        _mm512_storeu_si512(last, s[7]);
        __m128i sum = _mm_set_epi64x((long long)last[1], (long long)last[0]);
        __m128i step = _mm_set_epi64x((long long)sp_by_16_bytes.second, (long long)sp_by_16_bytes.first);
        for (int i = 2; i < 8; i += 2)
            sum = _mm_xor_si128(
                _mm_xor_si128(_mm_clmulepi64_si128(sum, step, 0x00), _mm_clmulepi64_si128(sum, step, 0x11)),
                _mm_set_epi64x((long long)last[i + 1], (long long)last[i]));
        /* The remainder of what is left, by the instruction. */
        _mm_storeu_si128((__m128i *)last, sum);
        c = _mm_crc32_u64(_mm_crc32_u64(c, last[0]), last[1]);
        return ~(uint32_t)c;
    }
    static inline uint32_t sp_move(uint32_t t[4][256], uint32_t c)
    {
        return t[0][c & 255] ^ t[1][(c >> 8) & 255] ^ t[2][(c >> 16) & 255] ^ t[3][c >> 24];
    }
    static uint32_t sp_page_three(const void *page)
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
    static inline uint32_t sp_page(const void *page)
    {
        return sp_wide ? sp_page_wide(page) : sp_page_three(page);
    }
    __attribute__((target("pclmul,sse4.2"))) static inline uint32_t sp_past(uint32_t c, uint32_t by)
    {
        __m128i product = _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)c), _mm_cvtsi32_si128((int)by), 0x00);
        return (uint32_t)_mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
    }
    __attribute__((target("pclmul,sse4.2"))) static uint32_t sp_page_head(const void *page, uint32_t used)
    {
        const uint64_t *word = page;
        const uint32_t words = (used + 7) / 8;
        uint64_t c = 0xffffffffu;
        if (!sp_narrow || words >= SP_HEAD_WORDS) return sp_page(page);
        for (uint32_t i = 0; i < words; i++) c = _mm_crc32_u64(c, word[i]);
        return ~sp_past((uint32_t)c, sp_past_words[512 - words]);
    }
    __attribute__((target("pclmul,sse4.2"))) static uint32_t sp_page_but_8(const void *page)
    {
        const uint32_t zero = 0;
        if (!sp_narrow)
            return sp_crc32c(sp_crc32c(sp_crc32c(0, page, 8), &zero, 4), (const uint8_t *)page + 12, 4096 - 12);
        return sp_page(page) ^ sp_past(_mm_crc32_u32(0, ((const uint32_t *)page)[2]), sp_past_12);
    }
    #else
    static const int sp_wide;
    static void sp_page_init(void) {}
    #define sp_page_three(p) sp_crc32c(0, (p), 4096)
    #define sp_page(p) sp_crc32c(0, (p), 4096)
    #define sp_page_head(p, used) sp_page(p)
    static inline uint32_t sp_page_but_8(const void *page)
    {
        const uint32_t zero = 0;
        return sp_crc32c(sp_crc32c(sp_crc32c(0, page, 8), &zero, 4), (const uint8_t *)page + 12, 4096 - 12);
    }
    #endif
    """
    int sp_wide
    void sp_page_init() nogil
    uint32_t sp_page(const void *page) nogil
    uint32_t sp_page_three(const void *page) nogil
    uint32_t sp_page_head(const void *page, uint32_t used) nogil
    uint32_t sp_page_but_8(const void *page) nogil

sp_page_init()


cdef uint32_t crc_page(const void *page) noexcept nogil:
    return sp_page(page)


cdef uint32_t crc_page_head(const void *page, uint32_t used) noexcept nogil:
    return sp_page_head(page, used)


cdef uint32_t crc_page_but_8(const void *page) noexcept nogil:
    return sp_page_but_8(page)


def crc32c(data, seed=0):
    """CRC32C of a bytes-like object; ``seed`` is an earlier sum to go on from (RFC 3720, B.4)."""
    cdef const uint8_t[::1] view = data
    if view.shape[0] == 0:
        return seed
    return sp_crc32c(seed, &view[0], view.shape[0])


def crc32c_page(data, *, bint three=False):
    """CRC32C of exactly 4096 bytes by the fast path, or ``three`` streams whatever the processor has."""
    cdef const uint8_t[::1] view = data
    if view.shape[0] != 4096:
        raise ValueError(f"a page has 4096 bytes, not {view.shape[0]}")
    return sp_page_three(&view[0]) if three else sp_page(&view[0])


def crc32c_page_head(data, uint32_t used):
    """CRC32C of exactly 4096 bytes that are zero from byte ``used`` on."""
    cdef const uint8_t[::1] view = data
    if view.shape[0] != 4096 or used > 4096:
        raise ValueError(f"a page has 4096 bytes, not {view.shape[0]}, and no more than that are used")
    return sp_page_head(&view[0], used)


def crc32c_page_but_8(data):
    """CRC32C of exactly 4096 bytes with zeros in place of the four from byte 8 on."""
    cdef const uint8_t[::1] view = data
    if view.shape[0] != 4096:
        raise ValueError(f"a page has 4096 bytes, not {view.shape[0]}")
    return sp_page_but_8(&view[0])


def page_sums_are_wide():
    """Whether this processor sums pages 64 bytes at a time."""
    return sp_wide != 0


def crc32c_pages(data):
    """CRC32C of each whole page of a buffer, as u32 little endian."""
    cdef const uint8_t[::1] view = data
    cdef Py_ssize_t n = view.shape[0] // 4096, i
    cdef bytearray out = bytearray(4 * n)
    cdef uint8_t[::1] to = out
    for i in range(n):
        (<uint32_t *>&to[4 * i])[0] = sp_page(&view[4096 * i])
    return bytes(out)
