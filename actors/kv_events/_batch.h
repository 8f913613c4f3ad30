/* Reads batches of KV events in msgpack: maps, hashes as unsigned integers, full attention, the GPU,
   nothing beside tokens that a block's KV depends on. What is not exactly so is FOREIGN: it may be
   fine all the same, and wire.py reads it. Nothing is believed before it has been looked at. */

#include "../../schemas/_xxh3.h"

enum { READ, FOREIGN, NO_MEMORY };

#define MIN_SIZE ((SHORTEST + 3) / 4)
#define MAX_SIZE 4096 /* tokens of a block */
#define NO_GROUP UINT64_MAX
#define MAX_GROUP INT32_MAX

typedef struct {
    const uint8_t *at, *end;
} Reader;

/* `hashes` and `tokens` stand at the first of their elements, all of which can be read. */
typedef struct {
    Reader hashes, tokens;
    uint64_t parent;
    uint32_t blocks, stored, root;
} Event;

/* `stored` and `removed`: how many blocks all of the events name. */
typedef struct {
    Event *events;
    size_t count, room, stored, removed;
} Batch;

/* Medium (the GPU, or none), group and kind, as the first event of the shelf has them. */
typedef struct {
    uint64_t group;
    uint32_t known, medium, kind;
} Shelf;

static const char *const kinds[] = {NULL, "full_attention", "mla_attention",
                                    "sink_full_attention"};

typedef struct {
    const uint8_t *text;
    size_t size;
} Text;

static int is(Text text, const char *other)
{
    return other && text.size == strlen(other) && memcmp(text.text, other, text.size) == 0;
}

/* `count` bytes (1, 2, 4 or 8), big-endian, as a number. False if there are fewer. */
static inline int read_bytes(Reader *reader, size_t count, uint64_t *value)
{
    if ((size_t)(reader->end - reader->at) < count)
        return 0;
    uint64_t big = 0;
    memcpy((uint8_t *)&big + 8 - count, reader->at, count);
    *value = __builtin_bswap64(big);
    reader->at += count;
    return 1;
}

static inline int read_unsigned(Reader *reader, uint64_t *value)
{
    if (reader->at == reader->end)
        return 0;
    uint8_t first = *reader->at++;
    switch (first) {
    case 0xcc:
        return read_bytes(reader, 1, value);
    case 0xcd:
        return read_bytes(reader, 2, value);
    case 0xce:
        return read_bytes(reader, 4, value);
    case 0xcf:
        return read_bytes(reader, 8, value);
    default:
        *value = first;
        return first < 0x80;
    }
}

static int read_nil(Reader *reader)
{
    if (reader->at == reader->end || *reader->at != 0xc0)
        return 0;
    reader->at++;
    return 1;
}

/* The header of an array (`fix` 0x90, `wide` 0xdc) or a map (0x80, 0xde). */
static int read_header(Reader *reader, uint8_t fix, uint8_t wide, uint64_t *count)
{
    if (reader->at == reader->end)
        return 0;
    uint8_t first = *reader->at++;
    if ((first & 0xf0) == fix) {
        *count = first & 0x0f;
        return 1;
    }
    return (first == wide && read_bytes(reader, 2, count))
           || (first == wide + 1 && read_bytes(reader, 4, count));
}

#define read_array(reader, count) read_header(reader, 0x90, 0xdc, count)
#define read_map(reader, count) read_header(reader, 0x80, 0xde, count)

/* ASCII, of less than 256 bytes. */
static int read_text(Reader *reader, Text *text)
{
    uint64_t size;
    if (reader->at == reader->end)
        return 0;
    uint8_t first = *reader->at++;
    if ((first & 0xe0) == 0xa0)
        size = first & 0x1f;
    else if (first != 0xd9 || !read_bytes(reader, 1, &size))
        return 0;
    if ((uint64_t)(reader->end - reader->at) < size)
        return 0;
    *text = (Text){reader->at, (size_t)size};
    for (; size > 0; size--)
        if (*reader->at++ & 0x80)
            return 0;
    return 1;
}

/* A value that says nothing to us: nil, a boolean, a number or a text. */
static int skip(Reader *reader)
{
    Text text;
    uint64_t number;
    if (reader->at == reader->end)
        return 0;
    uint8_t first = *reader->at;
    if (first == 0xc0 || first == 0xc2 || first == 0xc3 || first >= 0xe0) {
        reader->at++;
        return 1;
    }
    if (first == 0xca || first == 0xcb) {
        reader->at++;
        return read_bytes(reader, first == 0xca ? 4 : 8, &number);
    }
    if (first >= 0xd0 && first <= 0xd3) {
        reader->at++;
        return read_bytes(reader, (size_t)1 << (first - 0xd0), &number);
    }
    return (first & 0xe0) == 0xa0 || first == 0xd9 ? read_text(reader, &text)
                                                    : read_unsigned(reader, &number);
}

/* An array of integers up to `most`; `first` is where its elements begin. */
static int read_integers(Reader *reader, uint64_t most, Reader *first, uint64_t *count)
{
    if (!read_array(reader, count))
        return 0;
    *first = *reader;
    for (uint64_t i = 0; i < *count; i++) {
        uint64_t value;
        if (!read_unsigned(reader, &value) || value > most)
            return 0;
    }
    return 1;
}

static int read_nils(Reader *reader)
{
    uint64_t count;
    if (read_nil(reader))
        return 1;
    if (!read_array(reader, &count))
        return 0;
    for (; count > 0; count--)
        if (!read_nil(reader))
            return 0;
    return 1;
}

static int read_kind(Reader *reader, uint32_t *kind)
{
    Text text;
    *kind = 0;
    if (read_nil(reader))
        return 1;
    if (!read_text(reader, &text))
        return 0;
    for (*kind = 1; *kind < sizeof kinds / sizeof *kinds; ++*kind)
        if (is(text, kinds[*kind]))
            return 1;
    return 0;
}

enum { HASHES, MEDIUM, GROUP, LOCALITY, OWNERSHIP, OF_BOTH, PARENT = OF_BOTH, TOKENS, SIZE,
       LORA_ID, LORA, EXTRA, KIND, WINDOW, KEYS };
static const char *const keys[KEYS] = {
    "block_hashes", "medium",  "group_idx",  "locality",   "ownership",
    "parent_block_hash", "token_ids", "block_size", "lora_id", "lora_name",
    "extra_keys", "kv_cache_spec_kind", "kv_cache_spec_sliding_window",
};

typedef struct {
    uint64_t tokens, size, blocks;
    Shelf shelf;
} Fields;

static int read_field(Reader *reader, int key, Event *event, Fields *fields)
{
    Text text;
    switch (key) {
    case HASHES:
        return read_integers(reader, UINT64_MAX, &event->hashes, &fields->blocks);
    case MEDIUM:
        if (read_nil(reader))
            return 1;
        fields->shelf.medium = 1;
        return read_text(reader, &text) && is(text, "GPU");
    case GROUP:
        return read_nil(reader)
               || (read_unsigned(reader, &fields->shelf.group) && fields->shelf.group <= MAX_GROUP);
    case PARENT:
        if (read_nil(reader))
            return 1;
        event->root = 0;
        return read_unsigned(reader, &event->parent);
    case TOKENS:
        return read_integers(reader, UINT32_MAX, &event->tokens, &fields->tokens);
    case SIZE:
        return read_unsigned(reader, &fields->size);
    case EXTRA:
        return read_nils(reader);
    case KIND:
        return read_kind(reader, &fields->shelf.kind);
    case KEYS:
        return skip(reader);
    default:
        return read_nil(reader); /* adapters, other tiers and windows are for Python */
    }
}

static int read_event(Reader *reader, Event *event, Shelf *shelf, size_t *size)
{
    uint64_t count;
    Text text;
    Fields fields = {.shelf = {.group = NO_GROUP, .known = 1}};
    uint32_t seen = 0;
    *event = (Event){.root = 1};
    if (!read_map(reader, &count) || count == 0 || !read_text(reader, &text) || !is(text, "type")
        || !read_text(reader, &text))
        return 0;
    event->stored = is(text, "BlockStored");
    if (!event->stored && !is(text, "BlockRemoved"))
        return 0;
    while (--count > 0) {
        int key = 0, known = event->stored ? KEYS : OF_BOTH;
        if (!read_text(reader, &text) || is(text, "type"))
            return 0;
        while (key < known && !is(text, keys[key]))
            key++;
        if (key == known)
            key = KEYS;
        else if (seen & 1u << key)
            return 0; /* which of the two is meant is not for us to say */
        else
            seen |= 1u << key;
        if (!read_field(reader, key, event, &fields))
            return 0;
    }
    if (!(seen & 1u << HASHES) || fields.blocks > UINT32_MAX)
        return 0;
    event->blocks = (uint32_t)fields.blocks;
    if (!event->stored)
        return !shelf->known
               || (fields.shelf.medium == shelf->medium && fields.shelf.group == shelf->group);
    if (*size == 0)
        *size = fields.size <= MAX_SIZE ? (size_t)fields.size : 0;
    if (*size < MIN_SIZE || fields.size != *size || fields.tokens == 0
        || fields.tokens != fields.size * fields.blocks)
        return 0;
    if (!shelf->known)
        *shelf = fields.shelf;
    return fields.shelf.medium == shelf->medium && fields.shelf.group == shelf->group;
}

/* `shelf` and `size` are those of the table, and of the first event where it has none yet. */
static int read_batch(Reader *reader, Batch *batch, Shelf *shelf, size_t *size)
{
    uint64_t fields, count, time;
    batch->count = batch->stored = batch->removed = 0;
    if (!read_array(reader, &fields) || fields < 2 || reader->at == reader->end
        || *reader->at++ != 0xcb || !read_bytes(reader, 8, &time) || !read_array(reader, &count))
        return FOREIGN;
    for (; count > 0; count--) {
        if (batch->count == batch->room) {
            size_t room = batch->room ? 2 * batch->room : 64;
            Event *events = PyMem_Realloc(batch->events, room * sizeof *events);
            if (events == NULL)
                return NO_MEMORY;
            batch->events = events;
            batch->room = room;
        }
        Event *event = &batch->events[batch->count];
        if (!read_event(reader, event, shelf, size))
            return FOREIGN;
        batch->count++;
        *(event->stored ? &batch->stored : &batch->removed) += event->blocks;
    }
    for (; fields > 2; fields--)
        if (!skip(reader))
            return FOREIGN;
    return reader->at == reader->end ? READ : FOREIGN;
}
