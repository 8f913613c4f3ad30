/* Reads batches of KV events in msgpack: maps, hashes as unsigned integers, full attention, the
   GPU, nothing beside tokens that a block's KV depends on; and blocks of other groups, of which no
   prefix is made. What is not exactly so is FOREIGN: it may be fine all the same, and wire.py reads
   it. Nothing is believed before it has been looked at. */

#include "../../schemas/_xxh3.h"

enum { READ, FOREIGN, NO_MEMORY };

#define MIN_SIZE ((SHORTEST + 3) / 4)
#define MAX_SIZE 4096 /* tokens of a block */
#define NO_GROUP UINT64_MAX
#define MAX_GROUP INT32_MAX
#define OTHER_GROUPS 16 /* that make no prefix */
#define MAX_PAYLOAD (16 << 20) /* as in wire.py */
#define KEPT (1u << 20) /* hashes, or tokens, of a batch */

typedef struct {
    const uint8_t *at, *end;
} Reader;

/* `hashes` and `tokens`: where its own begin among those of the batch. `passed`: of another group.
   `others`: how many of these were known before it. */
typedef struct {
    size_t hashes, tokens;
    uint64_t parent;
    uint32_t blocks, others;
    uint8_t stored, root, passed;
} Event;

/* `stored` and `removed`: how many blocks all of the events name, `passed` ones left out. */
typedef struct {
    Event *events;
    uint64_t *hashes;
    uint32_t *tokens;
    size_t count, room, hash_count, hash_room, token_count, token_room, stored, removed, passed;
    int no_memory;
} Batch;

/* Medium (the GPU, or none), group and kind, as the first event of the shelf has them. `others`:
   groups that were seen to make no prefix, in that order. */
typedef struct {
    uint64_t group;
    uint32_t known, medium, kind, other_count;
    uint64_t others[OTHER_GROUPS];
} Shelf;

static const char *const kinds[] = {NULL, "full_attention", "mla_attention",
                                    "sink_full_attention"};
#define KINDS (sizeof kinds / sizeof *kinds) /* any other makes no prefix */

typedef struct {
    const uint8_t *text;
    size_t size;
} Text;

static int is(Text text, const char *other)
{
    return other && text.size == strlen(other) && memcmp(text.text, other, text.size) == 0;
}

static int is_other(const Shelf *shelf, uint64_t group)
{
    for (uint32_t i = 0; i < shelf->other_count; i++)
        if (shelf->others[i] == group)
            return 1;
    return 0;
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

/* Room for `more` elements of `width` bytes after the first `count`; NULL without memory. */
static void *with_room(void *items, size_t count, uint64_t more, size_t *room, size_t width)
{
    if (items && *room - count >= more)
        return items;
    size_t larger = *room ? *room : 1024;
    while (larger - count < more)
        larger *= 2;
    void *grown = PyMem_Realloc(items, larger * width);
    if (grown)
        *room = larger;
    return grown;
}

/* The header of an array. Each element has a byte at least, so its length can be believed. */
static int read_count(Reader *reader, uint64_t *count)
{
    return read_array(reader, count) && *count <= (uint64_t)(reader->end - reader->at);
}

static int read_hashes(Reader *reader, Batch *batch, uint64_t *count)
{
    if (!read_count(reader, count))
        return 0;
    uint64_t *hashes =
        with_room(batch->hashes, batch->hash_count, *count, &batch->hash_room, sizeof *hashes);
    if (hashes == NULL) {
        batch->no_memory = 1;
        return 0;
    }
    batch->hashes = hashes;
    hashes += batch->hash_count;
    for (uint64_t i = 0; i < *count; i++)
        if (!read_unsigned(reader, &hashes[i]))
            return 0;
    batch->hash_count += (size_t)*count;
    return 1;
}

static int read_tokens(Reader *reader, Batch *batch, uint64_t *count)
{
    if (!read_count(reader, count))
        return 0;
    uint32_t *tokens =
        with_room(batch->tokens, batch->token_count, *count, &batch->token_room, sizeof *tokens);
    if (tokens == NULL) {
        batch->no_memory = 1;
        return 0;
    }
    batch->tokens = tokens;
    tokens += batch->token_count;
    for (uint64_t i = 0; i < *count; i++) {
        uint64_t value;
        if (!read_unsigned(reader, &value) || value > UINT32_MAX)
            return 0;
        tokens[i] = (uint32_t)value;
    }
    batch->token_count += (size_t)*count;
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
    for (*kind = 1; *kind < KINDS && !is(text, kinds[*kind]);)
        ++*kind;
    return 1;
}

enum { HASHES, MEDIUM, GROUP, LOCALITY, OWNERSHIP, OF_BOTH, PARENT = OF_BOTH, TOKENS, SIZE,
       LORA_ID, LORA, EXTRA, KIND, WINDOW, KEYS };
static const char *const keys[KEYS] = {
    "block_hashes", "medium",  "group_idx",  "locality",   "ownership",
    "parent_block_hash", "token_ids", "block_size", "lora_id", "lora_name",
    "extra_keys", "kv_cache_spec_kind", "kv_cache_spec_sliding_window",
};

typedef struct {
    uint64_t tokens, size, blocks, group, window;
    uint32_t medium, kind;
} Fields;

static int read_field(Reader *reader, int key, Batch *batch, Event *event, Fields *fields)
{
    Text text;
    switch (key) {
    case HASHES:
        event->hashes = batch->hash_count;
        return read_hashes(reader, batch, &fields->blocks);
    case MEDIUM:
        if (read_nil(reader))
            return 1;
        fields->medium = 1;
        return read_text(reader, &text) && is(text, "GPU");
    case GROUP:
        return read_nil(reader)
               || (read_unsigned(reader, &fields->group) && fields->group <= MAX_GROUP);
    case PARENT:
        if (read_nil(reader))
            return 1;
        event->root = 0;
        return read_unsigned(reader, &event->parent);
    case TOKENS:
        event->tokens = batch->token_count;
        return read_tokens(reader, batch, &fields->tokens);
    case SIZE:
        return read_unsigned(reader, &fields->size);
    case EXTRA:
        return read_nils(reader);
    case KIND:
        return read_kind(reader, &fields->kind);
    case WINDOW:
        return read_nil(reader)
               || (read_unsigned(reader, &fields->window) && fields->window < MAX_GROUP
                   && ++fields->window);
    case KEYS:
        return skip(reader);
    default:
        return read_nil(reader); /* adapters and other tiers are for Python */
    }
}

static int read_fields(Reader *reader, uint64_t count, Batch *batch, Event *event, Fields *fields)
{
    Text text;
    uint32_t seen = 0;
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
        if (!read_field(reader, key, batch, event, fields))
            return 0;
    }
    return (seen & 1u << HASHES) && fields->blocks <= UINT32_MAX;
}

static int read_event(Reader *reader, Batch *batch, Event *event, Shelf *shelf, size_t *size)
{
    uint64_t count;
    Text text;
    Fields fields = {.group = NO_GROUP};
    *event = (Event){.root = 1, .others = shelf->other_count};
    if (!read_map(reader, &count) || count == 0 || !read_text(reader, &text) || !is(text, "type")
        || !read_text(reader, &text))
        return 0;
    event->stored = is(text, "BlockStored");
    if (!event->stored && !is(text, "BlockRemoved"))
        return 0;
    if (!read_fields(reader, count, batch, event, &fields))
        return 0;
    event->blocks = (uint32_t)fields.blocks;
    if (!event->stored) {
        event->passed = fields.group != NO_GROUP && is_other(shelf, fields.group);
        return event->passed || !shelf->known
               || (fields.medium == shelf->medium && fields.group == shelf->group);
    }
    if (fields.kind == KINDS) {
        event->passed = 1;
        if (fields.group == NO_GROUP || is_other(shelf, fields.group))
            return 1;
        if (shelf->other_count == OTHER_GROUPS)
            return 0;
        shelf->others[shelf->other_count++] = fields.group;
        return 1;
    }
    if (*size == 0)
        *size = fields.size <= MAX_SIZE ? (size_t)fields.size : 0;
    if (*size < MIN_SIZE || fields.size != *size || fields.tokens == 0 || fields.window
        || fields.tokens != fields.size * fields.blocks)
        return 0;
    if (!shelf->known) {
        shelf->known = 1;
        shelf->medium = fields.medium;
        shelf->group = fields.group;
        shelf->kind = fields.kind;
    }
    return fields.medium == shelf->medium && fields.group == shelf->group;
}

/* Room that only few batches need is not kept. */
static void trim(Batch *batch)
{
    if (batch->hash_room > KEPT || batch->token_room > KEPT) {
        PyMem_Free(batch->hashes);
        PyMem_Free(batch->tokens);
        batch->hashes = NULL;
        batch->tokens = NULL;
        batch->hash_room = batch->token_room = 0;
    }
}

/* `shelf` and `size` are those of the table, and of the first event where it has none yet. */
static int read_batch(Reader *reader, Batch *batch, Shelf *shelf, size_t *size)
{
    uint64_t fields, count, time;
    batch->count = batch->hash_count = batch->token_count = 0;
    batch->stored = batch->removed = batch->passed = 0;
    batch->no_memory = 0;
    if (!read_array(reader, &fields) || fields < 2 || reader->at == reader->end
        || *reader->at++ != 0xcb || !read_bytes(reader, 8, &time) || !read_array(reader, &count))
        return FOREIGN;
    for (; count > 0; count--) {
        Event *events =
            with_room(batch->events, batch->count, 1, &batch->room, sizeof *events);
        if (events == NULL)
            return NO_MEMORY;
        batch->events = events;
        Event *event = &events[batch->count];
        if (!read_event(reader, batch, event, shelf, size))
            return batch->no_memory ? NO_MEMORY : FOREIGN;
        batch->count++;
        *(event->passed ? &batch->passed : event->stored ? &batch->stored : &batch->removed) +=
            event->blocks;
    }
    for (; fields > 2; fields--)
        if (!skip(reader))
            return FOREIGN;
    return reader->at == reader->end ? READ : FOREIGN;
}
