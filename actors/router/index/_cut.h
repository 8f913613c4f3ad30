/* A *cut* is the table of one moment, told shard by shard while the table goes on changing: of a
   block that changes in a shard that has not been told yet, it is noted down what it was. These
   notes are told after the shard, the oldest at the very end. So whoever reads rows as "this block
   has these places" has the moment of the cut when all are read. */

#define LAST (1u << 31)   /* in a row: of the last place */
#define ABSENT UINT32_MAX /* in a row, instead of places: there is no such block */

/* -1: no memory, and nothing has changed. */
static int reserve(Buffer *buffer, size_t more)
{
    if (buffer->size + more <= buffer->room)
        return 0;
    size_t room = buffer->room ? 2 * buffer->room : 256;
    while (room < buffer->size + more)
        room *= 2;
    char *data = PyMem_Realloc(buffer->data, room);
    if (data == NULL)
        return -1;
    buffer->data = data;
    buffer->room = room;
    return 0;
}

static void put(Buffer *buffer, const void *data, size_t size)
{
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
}

static void empty(Buffer *buffer)
{
    PyMem_Free(buffer->data);
    *buffer = (Buffer){0};
}

/* Before a block changes: what it was, if a cut that is under way has not told it yet. */
static void note(Table *table, uint64_t hash, const Cell *cell)
{
    if ((hash & (SHARDS - 1)) < table->next_cut)
        return;
    uint32_t room[INLINE];
    const uint32_t *places;
    uint32_t count = places_of(cell->holders, room, &places);
    Buffer *notes = &shard_of(table, hash)->notes;
    if (reserve(notes, count * sizeof *places + sizeof count + sizeof hash) < 0) {
        table->cut_failed = 1;
        return;
    }
    put(notes, places, count * sizeof *places);
    put(notes, &count, sizeof count);
    put(notes, &hash, sizeof hash);
}

/* A row: the hash, then its places but those that came to be after the cut: another row, told later,
   says what this block was. -1: no memory. */
static int tell(Buffer *rows, uint32_t places_at_cut, uint64_t hash, const uint32_t *places,
                uint32_t count)
{
    while (count && places[count - 1] >= places_at_cut)
        count--;
    if (reserve(rows, sizeof hash + (count + 1) * sizeof *places) < 0)
        return -1;
    put(rows, &hash, sizeof hash);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t place = places[i] | (i + 1 == count ? LAST : 0);
        put(rows, &place, sizeof place);
    }
    uint32_t absent = ABSENT;
    if (count == 0)
        put(rows, &absent, sizeof absent);
    return 0;
}

static int tell_notes(Buffer *rows, uint32_t places_at_cut, const Buffer *notes)
{
    for (const char *at = notes->data + notes->size; at > notes->data;) {
        uint64_t hash;
        uint32_t count;
        memcpy(&hash, at -= sizeof hash, sizeof hash);
        memcpy(&count, at -= sizeof count, sizeof count);
        at -= count * sizeof(uint32_t); /* all sizes are whole numbers of 4 bytes */
        if (tell(rows, places_at_cut, hash, (const uint32_t *)at, count) < 0)
            return -1;
    }
    return 0;
}

static int tell_shard(Buffer *rows, uint32_t places_at_cut, const Shard *shard)
{
    for (size_t i = 0; shard->cells && i < (size_t)1 << shard->bits; i++) {
        uint32_t room[INLINE];
        const uint32_t *places;
        uint32_t count = places_of(shard->cells[i].holders, room, &places);
        if (count && tell(rows, places_at_cut, shard->cells[i].hash, places, count) < 0)
            return -1;
    }
    return tell_notes(rows, places_at_cut, &shard->notes);
}

/* No cut is under way any more. */
static void end_cut(Table *table)
{
    for (; table->next_cut < SHARDS; table->next_cut++)
        empty(&table->shards[table->next_cut].notes);
}
