/* The table of the prefix index in C: what `table.py` asks for, as `pure.py` does it in Python.
   Every function runs under the GIL, and runs no Python code while the table is not whole. */

#define Py_LIMITED_API 0x030B0000 /* one build for Python 3.11 and later */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_table.h"
#include "_cut.h"

/* ---- arguments ------------------------------------------------------------------------------ */

static int arguments(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted)
        return 0;
    PyErr_Format(PyExc_TypeError, "takes %zd arguments, not %zd", wanted, given);
    return -1;
}

/* An int from 0 to `most`, else NONE: without an exception if it is an int. */
static uint32_t small(PyObject *given, uint32_t most)
{
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(given, &overflow);
    return overflow || value < 0 || value > (long long)most ? NONE : (uint32_t)value;
}

/* A live holder, or NONE with an exception. */
static uint32_t live_holder(Table *table, PyObject *given)
{
    uint32_t holder = small(given, MAX_HOLDERS);
    if (holder < table->holder_count && table->holders[holder].live)
        return holder;
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "holder %S is not in use", given);
    return NONE;
}

/* A place of a live holder, or NONE with an exception. */
static uint32_t place_of(Table *table, PyObject *holder, PyObject *tier)
{
    uint32_t number = live_holder(table, holder);
    if (number == NONE)
        return NONE;
    uint32_t level = small(tier, TIERS - 1);
    if (level != NONE)
        return TIERS * number + level;
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "tier %S is none of 0 to 3", tier);
    return NONE;
}

/* The buffer of packed hashes, to be released, and their number; -1 with an exception. */
static Py_ssize_t hashes_of(PyObject *packed, Py_buffer *buffer)
{
    if (PyObject_GetBuffer(packed, buffer, PyBUF_SIMPLE) < 0)
        return -1;
    if (buffer->len % 8 == 0)
        return buffer->len / 8;
    PyErr_Format(PyExc_ValueError, "%zd bytes are no whole number of hashes", buffer->len);
    PyBuffer_Release(buffer);
    return -1;
}

static uint64_t hash_at(const Py_buffer *buffer, Py_ssize_t number)
{
    uint64_t hash; /* the bytes may stand anywhere */
    memcpy(&hash, (const char *)buffer->buf + 8 * number, 8);
    return hash;
}

/* ---- methods -------------------------------------------------------------------------------- */

static PyObject *take(PyObject *self, PyObject *given)
{
    Table *table = (Table *)self;
    uint32_t owner = small(given, NONE - 1), number = table->clean;
    if (owner == NONE) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "owner %S is not from 0 to 2**32 - 2", given);
        return NULL;
    }
    if (number != NONE)
        table->clean = table->holders[number].next;
    else {
        if (table->holder_count == MAX_HOLDERS)
            return PyErr_Format(PyExc_OverflowError, "more than %d holders", MAX_HOLDERS);
        if (table->holder_count == table->holder_room) {
            uint32_t room = table->holder_room ? 2 * table->holder_room : 16;
            Holder *holders = PyMem_Realloc(table->holders, room * sizeof *holders);
            if (holders == NULL)
                return PyErr_NoMemory();
            table->holders = holders;
            uint32_t *matched = PyMem_Realloc(table->matched, room * sizeof *matched);
            if (matched == NULL)
                return PyErr_NoMemory();
            table->matched = matched;
            table->bytes += (room - table->holder_room) * (sizeof *holders + sizeof *matched);
            table->holder_room = room;
        }
        number = table->holder_count++;
    }
    table->holders[number] = (Holder){.live = 1, .owner = owner, .next = NONE};
    return PyLong_FromUnsignedLong(number);
}

static PyObject *retire(PyObject *self, PyObject *given)
{
    Table *table = (Table *)self;
    uint32_t number = live_holder(table, given);
    if (number == NONE)
        return NULL;
    table->holders[number].live = 0;
    table->holders[number].next = table->retired;
    table->retired = number;
    table->unswept++;
    Py_RETURN_NONE;
}

static PyObject *add(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Table *table = (Table *)self;
    Py_buffer buffer;
    if (arguments(count, 3) < 0)
        return NULL;
    uint32_t place = place_of(table, args[0], args[1]);
    Py_ssize_t hashes = place == NONE ? -1 : hashes_of(args[2], &buffer);
    if (hashes < 0)
        return NULL;
    size_t *held = &table->holders[place / TIERS].held[place % TIERS], before = *held;
    for (Py_ssize_t i = 0; i < hashes; i++) {
        if (i + AHEAD < hashes)
            prefetch(table, hash_at(&buffer, i + AHEAD));
        uint64_t hash = hash_at(&buffer, i);
        Shard *shard = shard_of(table, hash);
        if (shard->cells == NULL && resize(table, shard, FIRST_BITS) < 0)
            goto no_memory;
        Cell *cell = find(shard, hash);
        if (cell->holders == 0) {
            if (table->blocks >= table->max_blocks) {
                table->refused++;
                continue;
            }
            if ((shard->used + 1) * 4 > ((size_t)3 << shard->bits)) {
                if (resize(table, shard, shard->bits + 1) < 0)
                    goto no_memory;
                cell = find(shard, hash);
            }
            note(table, hash, cell);
            *cell = (Cell){hash, in_cell(&place, 1)};
            shard->used++;
            table->blocks++;
            ++*held;
            continue;
        }
        note(table, hash, cell);
        int added = add_place(table, cell, place);
        if (added < 0)
            goto no_memory;
        *held += (size_t)added;
    }
    PyBuffer_Release(&buffer);
    return PyLong_FromSize_t(*held - before);
no_memory:
    PyBuffer_Release(&buffer);
    return PyErr_NoMemory();
}

static PyObject *removed(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Table *table = (Table *)self;
    Py_buffer buffer;
    if (arguments(count, 3) < 0)
        return NULL;
    uint32_t place = place_of(table, args[0], args[1]);
    Py_ssize_t hashes = place == NONE ? -1 : hashes_of(args[2], &buffer);
    if (hashes < 0)
        return NULL;
    size_t *held = &table->holders[place / TIERS].held[place % TIERS], before = *held;
    for (Py_ssize_t i = 0; i < hashes; i++) {
        if (i + AHEAD < hashes)
            prefetch(table, hash_at(&buffer, i + AHEAD));
        uint64_t hash = hash_at(&buffer, i);
        Shard *shard = shard_of(table, hash);
        Cell *cell = shard->cells ? find(shard, hash) : NULL;
        if (cell == NULL || !cell->holders)
            continue;
        note(table, hash, cell);
        if (!remove_place(table, cell, place))
            continue;
        --*held;
        if (cell->holders == 1)
            erase(table, shard, cell);
    }
    PyBuffer_Release(&buffer);
    return PyLong_FromSize_t(before - *held);
}

/* Goes on with all live holders that have block `number`; false if there are none. */
static int go_on(Table *table, const Cell *cell, size_t number, uint32_t *matched)
{
    uint32_t room[INLINE];
    const uint32_t *places;
    uint32_t count = places_of(cell->holders, room, &places);
    int going = 0;
    for (uint32_t i = 0; i < count;) {
        uint32_t name = places[i] / TIERS, tiers = 0;
        while (i < count && places[i] / TIERS == name)
            tiers |= 1u << places[i++] % TIERS;
        Holder *holder = &table->holders[name];
        if (!holder->live || holder->total != number)
            continue;
        if (number == 0) {
            holder->tier = 0;
            memset(holder->found, 0, sizeof holder->found);
            table->matched[(*matched)++] = name;
        }
        while (holder->tier < TIERS && !(tiers >> holder->tier & 1))
            holder->tier++;
        if (holder->tier == TIERS)
            continue;
        holder->found[holder->tier]++;
        holder->total++;
        going = 1;
    }
    return going;
}

static PyObject *by_tier(const size_t counts[TIERS])
{
    PyObject *tuple = PyTuple_New(TIERS);
    for (Py_ssize_t tier = 0; tuple && tier < TIERS; tier++) {
        PyObject *count = PyLong_FromSize_t(counts[tier]);
        if (count == NULL || PyTuple_SetItem(tuple, tier, count) < 0) /* takes the reference */
            Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *matches(Table *table, uint32_t matched)
{
    PyObject *result = PyDict_New();
    for (uint32_t i = 0; i < matched; i++) {
        Holder *holder = &table->holders[table->matched[i]];
        holder->total = 0;
        if (result == NULL)
            continue; /* the totals must be put back all the same */
        PyObject *owner = PyLong_FromUnsignedLong(holder->owner);
        PyObject *found = by_tier(holder->found);
        if (owner == NULL || found == NULL || PyDict_SetItem(result, owner, found) < 0)
            Py_CLEAR(result);
        Py_XDECREF(owner);
        Py_XDECREF(found);
    }
    return result;
}

static PyObject *match(PyObject *self, PyObject *packed)
{
    Table *table = (Table *)self;
    Py_buffer buffer;
    uint32_t matched = 0;
    Py_ssize_t hashes = hashes_of(packed, &buffer);
    if (hashes < 0)
        return NULL;
    for (Py_ssize_t i = 0; i < hashes && i < AHEAD; i++)
        prefetch(table, hash_at(&buffer, i));
    for (Py_ssize_t i = 0; i < hashes; i++) {
        if (i + AHEAD < hashes)
            prefetch(table, hash_at(&buffer, i + AHEAD));
        uint64_t hash = hash_at(&buffer, i);
        Shard *shard = shard_of(table, hash);
        if (shard->cells == NULL || !go_on(table, find(shard, hash), (size_t)i, &matched))
            break;
    }
    PyBuffer_Release(&buffer);
    return matches(table, matched);
}

static PyObject *held(PyObject *self, PyObject *given)
{
    Table *table = (Table *)self;
    uint32_t number = live_holder(table, given);
    if (number == NONE)
        return NULL;
    return by_tier(table->holders[number].held);
}

/* Takes out the places of all holders that are not live. */
static void prune(Table *table, Cell *cell)
{
    uint32_t room[INLINE];
    const uint32_t *places;
    uint32_t count = places_of(cell->holders, room, &places), kept = 0;
    uint32_t *own = places == room ? room : ((List *)(uintptr_t)cell->holders)->places;
    for (uint32_t i = 0; i < count; i++)
        kept += table->holders[own[i] / TIERS].live != 0;
    if (kept == count)
        return;
    note(table, cell->hash, cell);
    kept = 0;
    for (uint32_t i = 0; i < count; i++)
        if (table->holders[own[i] / TIERS].live)
            own[kept++] = own[i];
    if (own != room && kept > INLINE) {
        ((List *)(uintptr_t)cell->holders)->count = kept;
        return;
    }
    uint64_t inside = in_cell(own, kept);
    free_list(table, cell->holders);
    cell->holders = inside;
}

static void sweep_shard(Table *table, Shard *shard)
{
    if (shard->cells == NULL)
        return;
    for (size_t i = 0; i < (size_t)1 << shard->bits; i++)
        while (shard->cells[i].holders) {
            prune(table, &shard->cells[i]);
            if (shard->cells[i].holders != 1)
                break;
            erase(table, shard, &shard->cells[i]); /* another may come into its place */
        }
    if (shard->used == 0) {
        PyMem_Free(shard->cells);
        table->bytes -= sizeof(Cell) << shard->bits;
        shard->cells = NULL;
        return;
    }
    uint32_t bits = shard->bits;
    while (bits > FIRST_BITS && shard->used * 4 < (size_t)1 << bits)
        bits--;
    if (bits < shard->bits)
        resize(table, shard, bits); /* without memory it stays large */
}

/* Ends a pass through all shards: what was retired before it began is clean. */
static int end_pass(Table *table, PyObject *swept)
{
    while (table->sweeping != NONE) {
        uint32_t number = table->sweeping;
        PyObject *holder = PyLong_FromUnsignedLong(number);
        if (holder == NULL || PyList_Append(swept, holder) < 0) {
            Py_XDECREF(holder);
            return -1;
        }
        Py_DECREF(holder);
        table->sweeping = table->holders[number].next;
        table->holders[number].next = table->clean;
        table->clean = number;
        table->unswept--;
    }
    return 0;
}

static PyObject *sweep(PyObject *self, PyObject *given)
{
    Table *table = (Table *)self;
    uint32_t budget = small(given, NONE - 1);
    if (budget == NONE) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "budget %S is not from 0 to 2**32 - 2", given);
        return NULL;
    }
    PyObject *swept = PyList_New(0);
    table->credit += budget;
    while (swept && table->credit > 0) {
        if (table->sweeping == NONE) {
            if (table->retired == NONE) {
                table->credit = 0;
                break;
            }
            table->sweeping = table->retired;
            table->retired = NONE;
            table->next_shard = 0;
        }
        if (table->next_shard < SHARDS) {
            Shard *shard = &table->shards[table->next_shard++];
            table->credit -= (Py_ssize_t)shard->used + 1;
            sweep_shard(table, shard);
        }
        if (table->next_shard == SHARDS && end_pass(table, swept) < 0)
            Py_CLEAR(swept);
    }
    return swept;
}

#include "_restore.h" /* cut, rows, restore and load, of what stands above */

/* ---- the type ------------------------------------------------------------------------------- */

static PyObject *new_table(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"max_blocks", NULL};
    Py_ssize_t max_blocks;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "n", names, &max_blocks))
        return NULL;
    Table *table = (Table *)PyType_GenericAlloc(type, 0); /* all zero */
    if (table == NULL)
        return NULL;
    table->max_blocks = max_blocks < 0 ? 0 : (size_t)max_blocks;
    table->clean = table->retired = table->sweeping = NONE;
    table->next_cut = SHARDS;
    table->bytes = sizeof *table;
    return (PyObject *)table;
}

static void free_table(PyObject *self)
{
    Table *table = (Table *)self;
    PyTypeObject *type = Py_TYPE(self);
    end_cut(table);
    for (const Shard *shard = table->shards; shard < table->shards + SHARDS; shard++) {
        for (size_t i = 0; shard->cells && i < (size_t)1 << shard->bits; i++)
            free_list(table, shard->cells[i].holders);
        PyMem_Free(shard->cells);
    }
    PyMem_Free(table->holders);
    PyMem_Free(table->matched);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *number(PyObject *self, void *offset)
{
    return PyLong_FromSize_t(*(size_t *)((char *)self + (size_t)offset));
}

#define NUMBER(name, field) {name, number, NULL, NULL, (void *)offsetof(Table, field)}
static PyGetSetDef numbers[] = {
    NUMBER("blocks", blocks), NUMBER("unswept", unswept), NUMBER("refused", refused),
    NUMBER("memory", bytes),  {NULL, NULL, NULL, NULL, NULL},
};

#define FAST(name, function) {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {
    {"take", take, METH_O, NULL},
    {"retire", retire, METH_O, NULL},
    FAST("add", add),
    FAST("remove", removed),
    {"match", match, METH_O, NULL},
    {"held", held, METH_O, NULL},
    {"sweep", sweep, METH_O, NULL},
    {"cut", cut, METH_NOARGS, NULL},
    {"rows", rows, METH_O, NULL},
    FAST("restore", restore),
    {"load", load, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, new_table},   {Py_tp_dealloc, free_table}, {Py_tp_methods, methods},
    {Py_tp_getset, numbers},  {0, NULL},
};

static PyType_Spec spec = {
    .name = "actors.router.index._native.NativeTable",
    .basicsize = sizeof(Table),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

static int fill(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec);
    int added = type ? PyModule_AddObjectRef(module, "NativeTable", type) : -1;
    Py_XDECREF(type);
    return added;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "actors.router.index._native",
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
