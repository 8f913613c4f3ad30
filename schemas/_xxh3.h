/* XXH3, 64 bits, of inputs from 9 bytes on, with a seed: after the published specification
   (github.com/Cyan4973/xxHash, doc/xxhash_spec.md). Little-endian machines only. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || !defined __SIZEOF_INT128__
#error "little-endian, with integers of 128 bits; without the extension Python does its work"
#endif

#define SHORTEST 9 /* bytes */
#define P32_1 0x9E3779B1U
#define P32_2 0x85EBCA77U
#define P32_3 0xC2B2AE3DU
#define P64_1 0x9E3779B185EBCA87U
#define P64_2 0xC2B2AE3D27D4EB4FU
#define P64_3 0x165667B19E3779F9U
#define P64_4 0x85EBCA77C2B2AE63U
#define P64_5 0x27D4EB2F165667C5U
#define SECRET 192
#define LANES 8
#define STRIPE 64  /* bytes */
#define STRIPES 16 /* of a block: what the secret is enough for, 8 bytes further each */

static const uint8_t xxh3_secret[SECRET] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

static inline uint64_t read64(const uint8_t *bytes)
{
    uint64_t value; /* the bytes may stand anywhere */
    memcpy(&value, bytes, 8);
    return value;
}

static inline uint64_t folded(uint64_t left, uint64_t right)
{
    __extension__ unsigned __int128 product = (unsigned __int128)left * right;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t avalanche(uint64_t hash)
{
    hash ^= hash >> 37;
    hash *= 0x165667919E3779F9U;
    return hash ^ hash >> 32;
}

static inline uint64_t mixed(const uint8_t *bytes, const uint8_t *secret, uint64_t seed)
{
    return folded(read64(bytes) ^ (read64(secret) + seed),
                  read64(bytes + 8) ^ (read64(secret + 8) - seed));
}

static inline uint64_t xxh3_to_16(const uint8_t *bytes, size_t size, uint64_t seed)
{
    const uint8_t *secret = xxh3_secret;
    uint64_t low = (read64(secret + 24) ^ read64(secret + 32)) + seed;
    uint64_t high = (read64(secret + 40) ^ read64(secret + 48)) - seed;
    low ^= read64(bytes);
    high ^= read64(bytes + size - 8);
    return avalanche(size + __builtin_bswap64(low) + high + folded(low, high));
}

static inline uint64_t xxh3_to_128(const uint8_t *bytes, size_t size, uint64_t seed)
{
    uint64_t sum = size * P64_1;
    for (size_t i = (size - 1) / 32 + 1; i-- > 0;) {
        sum += mixed(bytes + 16 * i, xxh3_secret + 32 * i, seed);
        sum += mixed(bytes + size - 16 * (i + 1), xxh3_secret + 32 * i + 16, seed);
    }
    return avalanche(sum);
}

static inline uint64_t xxh3_to_240(const uint8_t *bytes, size_t size, uint64_t seed)
{
    uint64_t sum = size * P64_1;
    for (size_t i = 0; i < 8; i++)
        sum += mixed(bytes + 16 * i, xxh3_secret + 16 * i, seed);
    sum = avalanche(sum);
    for (size_t i = 8; i < size / 16; i++)
        sum += mixed(bytes + 16 * i, xxh3_secret + 16 * (i - 8) + 3, seed);
    return avalanche(sum + mixed(bytes + size - 16, xxh3_secret + 136 - 17, seed));
}

static inline void accumulate(uint64_t lanes[LANES], const uint8_t *stripe, const uint8_t *secret)
{
    for (size_t i = 0; i < LANES; i++) {
        uint64_t value = read64(stripe + 8 * i), key = value ^ read64(secret + 8 * i);
        lanes[i ^ 1] += value;
        lanes[i] += (key & 0xFFFFFFFF) * (key >> 32);
    }
}

static inline uint64_t xxh3_long(const uint8_t *bytes, size_t size, uint64_t seed)
{
    uint64_t lanes[LANES] = {P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1};
    uint8_t secret[SECRET];
    for (size_t i = 0; i < SECRET; i += 16) {
        uint64_t low = read64(xxh3_secret + i) + seed, high = read64(xxh3_secret + i + 8) - seed;
        memcpy(secret + i, &low, 8);
        memcpy(secret + i + 8, &high, 8);
    }
    size_t stripes = (size - 1) / STRIPE; /* the last one is taken from the end */
    for (size_t i = 0; i < stripes; i++) {
        accumulate(lanes, bytes + STRIPE * i, secret + 8 * (i % STRIPES));
        if (i % STRIPES == STRIPES - 1)
            for (size_t lane = 0; lane < LANES; lane++) {
                uint64_t key = read64(secret + SECRET - STRIPE + 8 * lane);
                lanes[lane] = (lanes[lane] ^ lanes[lane] >> 47 ^ key) * P32_1;
            }
    }
    accumulate(lanes, bytes + size - STRIPE, secret + SECRET - STRIPE - 7);
    uint64_t sum = size * P64_1;
    for (size_t i = 0; i < LANES; i += 2)
        sum += folded(lanes[i] ^ read64(secret + 11 + 8 * i),
                      lanes[i + 1] ^ read64(secret + 19 + 8 * i));
    return avalanche(sum);
}

/* `size` is SHORTEST at least. */
static inline uint64_t xxh3(const uint8_t *bytes, size_t size, uint64_t seed)
{
    if (size <= 16)
        return xxh3_to_16(bytes, size, seed);
    if (size <= 128)
        return xxh3_to_128(bytes, size, seed);
    return size <= 240 ? xxh3_to_240(bytes, size, seed) : xxh3_long(bytes, size, seed);
}

/* ---- the names of blocks, as block_hash.py has them ------------------------------------------- */

#define SEED 1337

/* The sequence hash of a block with the token hash `block` after one with that of `parent`. */
static inline uint64_t sequence_hash(uint64_t parent, uint64_t block)
{
    uint64_t pair[2] = {parent, block};
    return xxh3((const uint8_t *)pair, sizeof pair, SEED);
}
