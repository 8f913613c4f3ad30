/* What events do to the blocks of a shelf. */

#include "_cut.h"

#define CHUNK 32 /* blocks that are fetched together: they are far apart in memory */

/* Of a name that has changed before only this one counts. */
static void change(Table *table, Name *name, uint32_t state)
{
    if (name->change && name->change <= table->changed
        && table->changes[name->change - 1].name == name->name)
        table->changes[name->change - 1].state = VOID;
    table->changes[table->changed] = (Change){name->name, state};
    name->change = (uint32_t)++table->changed;
}

/* `cell`: where it belongs. */
static void add_block(Table *table, size_t cell, Block made, const uint8_t *tokens)
{
    size_t number = table->free != SIZE_MAX ? table->free : table->used++;
    if (number == table->free) {
        note(table, number);
        table->free = (size_t)table->blocks[number].parent;
        made.note = table->blocks[number].note;
    }
    Py_XINCREF(made.beside);
    table->blocks[number] = made;
    memcpy(table->tokens + number * table->size, tokens, table->size * sizeof *table->tokens);
    table->cells[cell] = mark_of(made.hash) | (number + 1);
    table->held++;
    table->given[table->givens++] = made.name;
    Name *name = name_of(table, made.name);
    if (!in_use(name)) {
        name->name = made.name;
        table->named++;
    }
    if (name->blocks++ == 0)
        change(table, name, STORED);
}

static void drop_block(Table *table, size_t cell)
{
    Block *block = block_in(table, table->cells[cell]);
    Name *name = name_of(table, block->name);
    note(table, (size_t)(block - table->blocks));
    if (--name->blocks == 0)
        change(table, name, REMOVED);
    erase_cell(table, cell);
    Py_CLEAR(block->beside);
    block->copies = 0;
    block->parent = table->free; /* SIZE_MAX ends the list */
    table->free = (size_t)(block - table->blocks);
    table->held--;
}

/* Blocks that an event stores, from number `start` on; `own`, `besides`: NULL, or of all of them.
   With `own`, their token hashes, `seed` is that of which these were made; else that of a root.
   Hashes are packed, and may stand anywhere. */
typedef struct {
    const uint8_t *hashes, *own, *tokens;
    PyObject *besides;
    uint64_t parent, seed;
    uint32_t number, blocks, start;
    int root;
} Stored;

static uint64_t hash_at(const uint8_t *packed, uint32_t i)
{
    return read64(packed + 8 * (size_t)i);
}

static uint64_t own_hash(const Table *table, const Stored *event, uint32_t i, uint64_t seed)
{
    size_t width = table->size * sizeof *table->tokens;
    return event->own ? hash_at(event->own, i) : xxh3(event->tokens + i * width, width, seed);
}

/* The names that blocks have if those before them are new too, after one of this name and seed. */
static void predict(const Table *table, const Stored *event, uint32_t from, uint32_t to,
                    uint64_t name, uint64_t seed, uint64_t *names)
{
    for (uint32_t i = from; i < to; i++, names++) {
        uint64_t own = own_hash(table, event, i, seed);
        *names = name = event->root && i == 0 ? own : sequence_hash(name, own);
        __builtin_prefetch(&table->names[home(name, table->name_bits)]);
        __builtin_prefetch(&table->cells[home(hash_at(event->hashes, i), table->cell_bits)]);
    }
}

/* Returns which block it came to: the first one whose parent is not known, or has another seed than
   `own` was made with; else all are stored. There is room for them. */
static uint32_t store(Table *table, const Stored *event)
{
    const Block *before = event->root ? NULL : find(table, event->parent);
    uint64_t name = before ? before->name : 0, seed = before ? before->seed : event->seed;
    uint64_t parent = event->parent, names[CHUNK];
    int known = event->root || before;
    size_t width = table->size * sizeof *table->tokens;
    for (uint32_t first = event->start; first < event->blocks; first += CHUNK) {
        uint32_t end = event->blocks - first < CHUNK ? event->blocks : first + CHUNK;
        predict(table, event, first, end, name, seed, names);
        for (uint32_t i = first; i < end; i++) {
            uint64_t hash = hash_at(event->hashes, i);
            size_t cell = cell_of(table, hash);
            int root = event->root && i == 0;
            if (table->cells[cell]) {
                Block *block = block_in(table, table->cells[cell]);
                note(table, (size_t)(block - table->blocks));
                block->copies++;
                table->further[table->furthers++] = (Further){event->number, event->blocks, i};
                if (block->name != names[i - first] || block->seed != seed || !known)
                    predict(table, event, i + 1, end, block->name, block->seed,
                            names + (i + 1 - first));
                name = block->name;
                seed = block->seed;
            } else {
                if (!known || (event->own && seed != event->seed))
                    return i;
                name = names[i - first];
                Block made = {hash, root ? 0 : parent, name, seed, NULL, 1, (uint32_t)root & 1, 0};
                if (event->besides && (made.beside = PyList_GetItem(event->besides, i)) == Py_None)
                    made.beside = NULL;
                add_block(table, cell, made, event->tokens + i * width);
            }
            parent = hash;
            known = 1;
        }
    }
    return event->blocks;
}

/* Fetches what taking these away will look at: the cells, then the blocks, then their names. */
static void fetch(const Table *table, const uint8_t *hashes, uint32_t count)
{
    const Block *guessed[CHUNK];
    for (uint32_t i = 0; i < count; i++)
        __builtin_prefetch(&table->cells[home(hash_at(hashes, i), table->cell_bits)]);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t cell = table->cells[home(hash_at(hashes, i), table->cell_bits)];
        guessed[i] = cell ? block_in(table, cell) : NULL;
        if (guessed[i])
            __builtin_prefetch(guessed[i]);
    }
    for (uint32_t i = 0; i < count; i++)
        if (guessed[i])
            __builtin_prefetch(&table->names[home(guessed[i]->name, table->name_bits)]);
}

static void take_away(Table *table, const uint8_t *hashes, uint32_t blocks, uint32_t number)
{
    for (uint32_t i = 0; table->cells && i < blocks; i++) {
        if (i % CHUNK == 0)
            fetch(table, hashes + 8 * (size_t)i, blocks - i < CHUNK ? blocks - i : CHUNK);
        size_t cell = cell_of(table, hash_at(hashes, i));
        if (table->cells[cell] == 0)
            continue; /* nobody is known to hold it: let the reader know too */
        Block *block = block_in(table, table->cells[cell]);
        if (block->copies > 1) {
            note(table, (size_t)(block - table->blocks));
            block->copies--;
            table->further[table->furthers++] = (Further){number, blocks, i};
        } else
            drop_block(table, cell);
    }
}
