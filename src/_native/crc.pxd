from libc.stdint cimport uint32_t

# CRC32C of one 4 KiB page, three streams at once.
cdef uint32_t crc_page(const void *page) noexcept nogil
# The same of a page that is zero from byte `used` on.
cdef uint32_t crc_page_head(const void *page, uint32_t used) noexcept nogil
# The same with zeros in place of the four bytes from byte 8 on, where a header of one block has its own sum.
cdef uint32_t crc_page_but_8(const void *page) noexcept nogil
