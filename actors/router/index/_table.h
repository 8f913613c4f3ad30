/* The table of the prefix index without Python around it: cells and their places.

   A block is a cell of 16 bytes in an open-addressing hash table: its hash, and its holders. A
   *place* is 4 * holder + tier. Up to three places fit into the cell; more stand, sorted, in a list
   of their own. The table is cut into SHARDS small tables by the lowest bits of the hash, so that
   growing one and sweeping one are short. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

#define TIERS 4
#define MAX_HOLDERS 500000 /* as in table.py; 4 * MAX_HOLDERS must be below 2**21 */
#define SHARD_BITS 10
#define SHARDS (1u << SHARD_BITS)
#define FIRST_BITS 3 /* of a shard: 8 cells */
#define INLINE 3     /* places in a cell */
#define AHEAD 8      /* blocks whose cells are fetched while others are worked on */
#define NONE UINT32_MAX

typedef struct {
    uint32_t count, capacity;
    uint32_t places[]; /* ascending */
} List;

/* `holders` is 0 in an empty cell. If its lowest bit is set, three places of 21 bits follow from
   bit 1, each plus 1, ascending, 0 for none. Else it is the address of a List. */
typedef struct {
    uint64_t hash, holders;
} Cell;

typedef struct {
    char *data;
    size_t size, room;
} Buffer;

/* `notes`: what blocks were at the cut that is under way; each has its places, their number and its
   hash, so they can be read backwards. */
typedef struct {
    Cell *cells; /* NULL or 2**bits */
    uint32_t bits;
    size_t used;
    Buffer notes;
} Shard;

typedef struct {
    int live;             /* given out and not retired */
    uint32_t owner, next; /* next of the same list, if not live */
    size_t held[TIERS];
    /* Of the match that is under way: the next block it must have is number `total`, 0 if none. */
    size_t total, found[TIERS];
    int tier;
} Holder;

typedef struct {
    PyObject_HEAD
    Shard shards[SHARDS];
    Holder *holders;
    uint32_t *matched; /* room for a match: as many as holders */
    uint32_t holder_count, holder_room;
    uint32_t clean, retired, sweeping; /* lists of holders, NONE at their ends */
    uint32_t next_shard;               /* which the sweep comes to next */
    int64_t credit; /* blocks that may be swept; below 0 after a shard that had more */
    size_t blocks, max_blocks, refused, unswept, bytes;
    uint32_t next_cut; /* shards before it are told; SHARDS if no cut is under way */
    uint32_t places_at_cut;
    int cut_failed;    /* a note could not be taken, for want of memory */
} Table;

/* ---- the places of a block ------------------------------------------------------------------ */

/* Points `places` to the places of a cell and returns how many. `room` holds those of a cell. */
static uint32_t places_of(uint64_t holders, uint32_t room[INLINE], const uint32_t **places)
{
    if (!(holders & 1) && holders) {
        const List *list = (const List *)(uintptr_t)holders;
        *places = list->places;
        return list->count;
    }
    uint32_t count = 0;
    for (uint64_t rest = holders >> 1; rest; rest >>= 21)
        room[count++] = (uint32_t)(rest & 0x1FFFFF) - 1;
    *places = room;
    return count;
}

static uint64_t in_cell(const uint32_t *places, uint32_t count)
{
    uint64_t holders = 0;
    while (count--)
        holders = holders << 21 | (places[count] + 1);
    return holders << 1 | 1;
}

/* Number of places below `place`, which is where it stands or would. */
static uint32_t position(const uint32_t *places, uint32_t count, uint32_t place)
{
    uint32_t low = 0;
    while (count) {
        uint32_t half = count / 2;
        if (places[low + half] < place) {
            low += half + 1;
            count -= half + 1;
        } else
            count = half;
    }
    return low;
}

static size_t list_bytes(uint32_t capacity)
{
    return sizeof(List) + capacity * sizeof(uint32_t);
}

static void free_list(Table *table, uint64_t holders)
{
    if (holders && !(holders & 1)) {
        List *list = (List *)(uintptr_t)holders;
        table->bytes -= list_bytes(list->capacity);
        PyMem_Free(list);
    }
}

/* 1: added, 0: was there, -1: no memory, and nothing has changed. */
static int add_place(Table *table, Cell *cell, uint32_t place)
{
    uint32_t room[INLINE + 1];
    const uint32_t *places;
    uint32_t count = places_of(cell->holders, room, &places);
    uint32_t at = position(places, count, place);
    if (at < count && places[at] == place)
        return 0;
    if (count < INLINE) {
        memmove(room + at + 1, room + at, (count - at) * sizeof *room);
        room[at] = place;
        cell->holders = in_cell(room, count + 1);
        return 1;
    }
    List *list = cell->holders & 1 ? NULL : (List *)(uintptr_t)cell->holders;
    uint32_t capacity = list ? list->capacity : 0;
    if (count >= capacity) {
        uint32_t larger = capacity ? 2 * capacity : 2 * (INLINE + 1);
        List *grown = PyMem_Realloc(list, list_bytes(larger));
        if (grown == NULL)
            return -1;
        if (list == NULL) {
            memcpy(grown->places, room, count * sizeof *room);
            grown->count = count;
        }
        grown->capacity = larger;
        table->bytes += list_bytes(larger) - (capacity ? list_bytes(capacity) : 0);
        list = grown;
        cell->holders = (uint64_t)(uintptr_t)list;
    }
    memmove(list->places + at + 1, list->places + at, (count - at) * sizeof *list->places);
    list->places[at] = place;
    list->count = count + 1;
    return 1;
}

/* 1: removed, 0: was not there. The cell's `holders` are "no places" (1) after the last one. */
static int remove_place(Table *table, Cell *cell, uint32_t place)
{
    uint32_t room[INLINE];
    const uint32_t *places;
    uint32_t count = places_of(cell->holders, room, &places);
    uint32_t at = position(places, count, place);
    if (at == count || places[at] != place)
        return 0;
    uint32_t *own = places == room ? room : ((List *)(uintptr_t)cell->holders)->places;
    memmove(own + at, own + at + 1, (count - at - 1) * sizeof *own);
    if (own == room)
        cell->holders = in_cell(room, count - 1);
    else if (count - 1 > INLINE)
        ((List *)(uintptr_t)cell->holders)->count = count - 1;
    else {
        uint64_t inside = in_cell(own, count - 1);
        free_list(table, cell->holders);
        cell->holders = inside;
    }
    return 1;
}

/* ---- cells ---------------------------------------------------------------------------------- */

static uint64_t mixed(uint64_t hash)
{
    return hash * 0x9E3779B97F4A7C15u; /* hashes may be any numbers; the high bits come out well */
}

static Shard *shard_of(Table *table, uint64_t hash)
{
    return &table->shards[hash & (SHARDS - 1)];
}

static size_t home(const Shard *shard, uint64_t hash)
{
    return mixed(hash) >> (64 - shard->bits);
}

static void prefetch(Table *table, uint64_t hash)
{
    const Shard *shard = shard_of(table, hash);
    if (shard->cells)
        PREFETCH(&shard->cells[home(shard, hash)]);
}

/* The cell of `hash`, or the empty one where it belongs. The shard has an empty cell. */
static Cell *find(const Shard *shard, uint64_t hash)
{
    size_t mask = ((size_t)1 << shard->bits) - 1, at = home(shard, hash);
    while (shard->cells[at].holders && shard->cells[at].hash != hash)
        at = (at + 1) & mask;
    return &shard->cells[at];
}

/* -1: no memory, and nothing has changed. */
static int resize(Table *table, Shard *shard, uint32_t bits)
{
    Shard made = {PyMem_Calloc((size_t)1 << bits, sizeof(Cell)), bits, shard->used, shard->notes};
    if (made.cells == NULL)
        return -1;
    if (shard->cells) {
        for (size_t i = 0; i < (size_t)1 << shard->bits; i++)
            if (shard->cells[i].holders)
                *find(&made, shard->cells[i].hash) = shard->cells[i];
        PyMem_Free(shard->cells);
        table->bytes -= sizeof(Cell) << shard->bits;
    }
    table->bytes += sizeof(Cell) << bits;
    *shard = made;
    return 0;
}

/* Empties a cell and closes the gap: no later cell is cut off from its home. */
static void erase(Table *table, Shard *shard, Cell *cell)
{
    size_t mask = ((size_t)1 << shard->bits) - 1, gap = (size_t)(cell - shard->cells);
    for (size_t at = (gap + 1) & mask; shard->cells[at].holders; at = (at + 1) & mask)
        if (((at - home(shard, shard->cells[at].hash)) & mask) >= ((at - gap) & mask)) {
            shard->cells[gap] = shard->cells[at];
            gap = at;
        }
    shard->cells[gap].holders = 0;
    shard->used--;
    table->blocks--;
}
