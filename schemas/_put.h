/* Msgpack, written: each returns where the next value goes. There is room for what is written. */

#include <stdint.h>
#include <string.h>

static inline uint8_t *put_copy(uint8_t *to, const uint8_t *from, const uint8_t *end)
{
    memcpy(to, from, (size_t)(end - from));
    return to + (end - from);
}

/* `bytes` of it, big-endian. */
static inline uint8_t *put_size(uint8_t *to, uint64_t size, int bytes)
{
    while (bytes--)
        *to++ = (uint8_t)(size >> 8 * bytes);
    return to;
}

/* The head of an array. */
static inline uint8_t *put_array(uint8_t *to, uint64_t count)
{
    if (count < 16) {
        *to++ = (uint8_t)(0x90 | count);
        return to;
    }
    int wide = count < 1 << 16 ? 2 : 4;
    *to++ = wide == 2 ? 0xdc : 0xdd;
    return put_size(to, count, wide);
}
