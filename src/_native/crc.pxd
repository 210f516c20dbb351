from libc.stdint cimport uint32_t

# CRC32C of one 4 KiB page, three streams at once.
cdef uint32_t crc_page(const void *page) noexcept nogil
