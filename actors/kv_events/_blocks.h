/* The blocks of a shelf and their names, in two tables with open addressing. What may need memory
   is done before anything changes: see `reserve`. */

#include "_batch.h"

#define FIRST_BITS 10
#define MAX_BITS 30

/* `copies` is 0 in a free one; then `parent` is the next free one. `root`: it has no parent.
   `seed`: of its token hash and its children's. `beside`: what Python wants to be told of it again,
   or NULL; it consists of plain things, so that to let it go runs no code. `note`: the number, plus
   1, of the note that was made of this place, if that still speaks of it. */
typedef struct {
    uint64_t hash, parent, name, seed;
    PyObject *beside;
    uint32_t copies;
    uint32_t root : 1, note : 31;
} Block;

/* What stood at place `number` at the cut that is under way. */
typedef struct {
    Block block;
    size_t number;
} Note;

/* How many blocks have this name. `change`: its place among the changes of this batch, plus 1; or
   of one before, if blocks have it: then another stands there. */
typedef struct {
    uint64_t name;
    uint32_t blocks, change;
} Name;

typedef struct {
    uint64_t name;
    uint32_t state; /* VOID: it has changed again since */
} Change;

enum { REMOVED, STORED, VOID };

/* A further copy came, or went while others remain. */
typedef struct {
    uint32_t event, blocks, number;
} Further;

/* `passed`: blocks of other groups that events have named since the last outcome. */
typedef struct {
    PyObject_HEAD
    Block *blocks;
    uint32_t *tokens; /* of each block, `size` */
    size_t room, used, free, held;
    uint64_t *cells; /* open addressing: number of the block plus 1, above it `mark_of` its hash */
    Name *names;     /* open addressing; unused ones have neither blocks nor a change */
    uint32_t cell_bits, name_bits;
    size_t named;
    size_t size; /* tokens of a block; 0 while not known */
    Shelf shelf;
    Batch batch;
    Change *changes;
    Further *further;
    uint64_t *given; /* names of blocks that are new, in their order, since the last outcome */
    size_t scratch, changed, furthers, givens, passed;
    size_t next_told, to_tell; /* of a cut: places before are told, those after came later */
    Note *notes;
    uint32_t *noted_tokens; /* of each note, `size` */
    size_t noted, note_room;
    int cut_failed; /* a note could not be made, for want of memory */
} Table;

/* ---- open addressing ------------------------------------------------------------------------ */

static size_t home(uint64_t hash, uint32_t bits)
{
    return (size_t)(hash * P64_1 >> (64 - bits));
}

/* Of a hash that is spread over all bits those that a cell has room for; they say its home too. */
static uint64_t mark_of(uint64_t hash)
{
    return (hash * P64_1) >> 32 << 32;
}

static Block *block_in(const Table *table, uint64_t cell)
{
    return &table->blocks[(uint32_t)cell - 1];
}

static size_t cell_of(const Table *table, uint64_t hash)
{
    size_t mask = ((size_t)1 << table->cell_bits) - 1, at = home(hash, table->cell_bits);
    uint64_t mark = mark_of(hash), cell;
    while ((cell = table->cells[at])
           && (cell >> 32 != mark >> 32 || block_in(table, cell)->hash != hash))
        at = (at + 1) & mask;
    return at;
}

static Block *find(const Table *table, uint64_t hash)
{
    if (table->cells == NULL)
        return NULL;
    uint64_t cell = table->cells[cell_of(table, hash)];
    return cell ? block_in(table, cell) : NULL;
}

static int in_use(const Name *name)
{
    return name->blocks || name->change;
}

static Name *name_of(const Table *table, uint64_t name)
{
    size_t mask = ((size_t)1 << table->name_bits) - 1, at = home(name, table->name_bits);
    while (in_use(&table->names[at]) && table->names[at].name != name)
        at = (at + 1) & mask;
    return &table->names[at];
}

/* Whether what has its home at `from` may move from `at` to the hole. */
static int may_move(size_t from, size_t hole, size_t at)
{
    return hole <= at ? from <= hole || from > at : from <= hole && from > at;
}

static void erase_cell(Table *table, size_t hole)
{
    size_t mask = ((size_t)1 << table->cell_bits) - 1;
    for (size_t at = (hole + 1) & mask; table->cells[at]; at = (at + 1) & mask)
        if (may_move((size_t)(table->cells[at] >> (64 - table->cell_bits)), hole, at)) {
            table->cells[hole] = table->cells[at];
            hole = at;
        }
    table->cells[hole] = 0;
}

static void erase_name(Table *table, Name *name)
{
    size_t mask = ((size_t)1 << table->name_bits) - 1, hole = (size_t)(name - table->names);
    for (size_t at = (hole + 1) & mask; in_use(&table->names[at]); at = (at + 1) & mask)
        if (may_move(home(table->names[at].name, table->name_bits), hole, at)) {
            table->names[hole] = table->names[at];
            hole = at;
        }
    table->names[hole] = (Name){0, 0, 0};
    table->named--;
}

/* ---- room, made before anything changes ----------------------------------------------------- */

static uint32_t bits_for(size_t count)
{
    uint32_t bits = FIRST_BITS;
    while (bits < MAX_BITS && ((size_t)1 << bits) * 2 < count * 3)
        bits++;
    return bits;
}

static int reserve_cells(Table *table, size_t count)
{
    uint32_t bits = bits_for(count);
    if (table->cells && bits <= table->cell_bits)
        return 0;
    uint64_t *cells = PyMem_Calloc((size_t)1 << bits, sizeof *cells), *old = table->cells;
    if (cells == NULL)
        return -1;
    table->cells = cells;
    table->cell_bits = bits;
    for (size_t i = 0; i < table->used; i++)
        if (table->blocks[i].copies)
            cells[cell_of(table, table->blocks[i].hash)] = mark_of(table->blocks[i].hash) | (i + 1);
    PyMem_Free(old);
    return 0;
}

static int reserve_names(Table *table, size_t count)
{
    uint32_t bits = bits_for(count), before = table->name_bits;
    if (table->names && bits <= before)
        return 0;
    Name *names = PyMem_Calloc((size_t)1 << bits, sizeof *names), *old = table->names;
    if (names == NULL)
        return -1;
    table->names = names;
    table->name_bits = bits;
    for (size_t i = 0; old && i < (size_t)1 << before; i++)
        if (in_use(&old[i]))
            *name_of(table, old[i].name) = old[i];
    PyMem_Free(old);
    return 0;
}

static int reserve_blocks(Table *table, size_t count)
{
    if (table->room >= count)
        return 0;
    size_t room = table->room ? table->room : 1024;
    while (room < count)
        room *= 2;
    Block *blocks = PyMem_Realloc(table->blocks, room * sizeof *blocks);
    if (blocks == NULL)
        return -1;
    table->blocks = blocks;
    uint32_t *tokens = PyMem_Realloc(table->tokens, room * table->size * sizeof *tokens);
    if (tokens == NULL)
        return -1;
    table->tokens = tokens;
    table->room = room;
    return 0;
}

/* For events that name so many blocks. */
static int reserve(Table *table, size_t stored, size_t all)
{
    if (table->held + stored > (size_t)1 << (MAX_BITS - 1))
        return -1;
    size_t before = table->changed > table->furthers ? table->changed : table->furthers;
    if (before < table->givens)
        before = table->givens;
    if (before + all > table->scratch) {
        size_t scratch = 2 * (before + all);
        Change *changes = PyMem_Realloc(table->changes, scratch * sizeof *changes);
        if (changes == NULL)
            return -1;
        table->changes = changes;
        Further *further = PyMem_Realloc(table->further, scratch * sizeof *further);
        if (further == NULL)
            return -1;
        table->further = further;
        uint64_t *given = PyMem_Realloc(table->given, scratch * sizeof *given);
        if (given == NULL)
            return -1;
        table->given = given;
        table->scratch = scratch;
    }
    if (stored == 0)
        return 0;
    if (reserve_blocks(table, table->held + stored) < 0)
        return -1;
    if (reserve_names(table, table->named + stored) < 0)
        return -1;
    return reserve_cells(table, table->held + stored);
}
