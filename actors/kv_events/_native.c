/* All blocks of a rank in C, while they lie on one shelf of one source: what `table.py` does in
   Python. It reads batches in the form of today's vLLM, and of these only what it knows well;
   anything else it leaves alone, and says so. Runs no Python code while the table is not whole. */

#define Py_LIMITED_API 0x030B0000 /* one build for Python 3.11 and later */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_batch.h"

#define NONE UINT32_MAX
#define FIRST_BITS 10
#define MAX_BITS 30

/* `copies` is 0 in a free one; then `parent` is the next free one. `root`: it has no parent. */
typedef struct {
    uint64_t hash, parent, name;
    uint32_t copies, root;
} Block;

/* How many blocks have this name. `change`: its place among the changes of this batch, plus 1. */
typedef struct {
    uint64_t name;
    uint32_t blocks, change;
} Name;

typedef struct {
    uint64_t name;
    uint32_t stored;
} Change;

/* A further copy came, or went while others remain. */
typedef struct {
    uint32_t event, blocks, number;
} Further;

typedef struct {
    PyObject_HEAD
    Block *blocks;
    uint32_t *tokens; /* of each block, `size` */
    size_t room, used, free, held;
    uint32_t *cells; /* open addressing: number of the block plus 1 */
    Name *names;     /* open addressing; unused ones have neither blocks nor a change */
    uint32_t cell_bits, name_bits;
    size_t named;
    size_t size; /* tokens of a block; 0 while not known */
    Shelf shelf;
    Batch batch;
    Change *changes;
    Further *further;
    size_t scratch, changed, furthers;
} Table;

/* ---- open addressing ------------------------------------------------------------------------ */

static size_t home(uint64_t hash, uint32_t bits)
{
    return (size_t)(hash * P64_1 >> (64 - bits));
}

static size_t cell_of(const Table *table, uint64_t hash)
{
    size_t mask = ((size_t)1 << table->cell_bits) - 1, at = home(hash, table->cell_bits);
    while (table->cells[at] && table->blocks[table->cells[at] - 1].hash != hash)
        at = (at + 1) & mask;
    return at;
}

static Block *find(const Table *table, uint64_t hash)
{
    if (table->cells == NULL)
        return NULL;
    uint32_t number = table->cells[cell_of(table, hash)];
    return number ? &table->blocks[number - 1] : NULL;
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
        if (may_move(home(table->blocks[table->cells[at] - 1].hash, table->cell_bits), hole, at)) {
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
    uint32_t *cells = PyMem_Calloc((size_t)1 << bits, sizeof *cells), *old = table->cells;
    if (cells == NULL)
        return -1;
    table->cells = cells;
    table->cell_bits = bits;
    for (size_t i = 0; i < table->used; i++)
        if (table->blocks[i].copies)
            cells[cell_of(table, table->blocks[i].hash)] = (uint32_t)i + 1;
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

/* For a batch that names so many blocks. */
static int reserve(Table *table, size_t stored, size_t all)
{
    if (table->held + stored > (size_t)1 << (MAX_BITS - 1))
        return -1;
    if (all > table->scratch) {
        Change *changes = PyMem_Realloc(table->changes, all * sizeof *changes);
        if (changes == NULL)
            return -1;
        table->changes = changes;
        Further *further = PyMem_Realloc(table->further, all * sizeof *further);
        if (further == NULL)
            return -1;
        table->further = further;
        table->scratch = all;
    }
    if (stored == 0)
        return 0;
    if (reserve_blocks(table, table->held + stored) < 0)
        return -1;
    if (reserve_names(table, table->named + stored) < 0)
        return -1;
    return reserve_cells(table, table->held + stored);
}

/* ---- events --------------------------------------------------------------------------------- */

static void change(Table *table, Name *name, uint32_t stored)
{
    if (name->change == 0) {
        table->changes[table->changed] = (Change){name->name, stored};
        name->change = (uint32_t)++table->changed;
    }
    table->changes[name->change - 1].stored = stored;
}

static void add_block(Table *table, Block made, const uint32_t *tokens)
{
    size_t number = table->free != SIZE_MAX ? table->free : table->used++;
    if (number == table->free)
        table->free = (size_t)table->blocks[number].parent;
    table->blocks[number] = made;
    memcpy(table->tokens + number * table->size, tokens, table->size * sizeof *tokens);
    table->cells[cell_of(table, made.hash)] = (uint32_t)number + 1;
    table->held++;
    Name *name = name_of(table, made.name);
    if (!in_use(name)) {
        name->name = made.name;
        table->named++;
    }
    if (name->blocks++ == 0)
        change(table, name, 1);
}

static void drop_block(Table *table, Block *block)
{
    Name *name = name_of(table, block->name);
    if (--name->blocks == 0)
        change(table, name, 0);
    erase_cell(table, cell_of(table, block->hash));
    block->copies = 0;
    block->parent = table->free; /* SIZE_MAX ends the list */
    table->free = (size_t)(block - table->blocks);
    table->held--;
}

/* False if its parent is not known: then it has changed nothing. */
static int store(Table *table, const Event *event, uint32_t number, uint32_t *tokens)
{
    Reader hashes = event->hashes, ids = event->tokens;
    uint64_t hash = 0, parent = event->parent, name = 0;
    int root = event->root;
    for (uint32_t i = 0; i < event->blocks; i++) {
        read_unsigned(&hashes, &hash);
        for (size_t t = 0; t < table->size; t++) {
            uint64_t id = 0;
            read_unsigned(&ids, &id);
            tokens[t] = (uint32_t)id;
        }
        Block *block = find(table, hash);
        if (block) {
            block->copies++;
            name = block->name;
            table->further[table->furthers++] = (Further){number, event->blocks, i};
        } else {
            uint64_t own = xxh3((const uint8_t *)tokens, table->size * sizeof *tokens, SEED);
            if (i == 0 && !root) {
                Block *before = find(table, parent);
                if (before == NULL)
                    return 0;
                name = before->name;
            }
            name = root ? own : sequence_hash(name, own);
            add_block(table, (Block){hash, root ? 0 : parent, name, 1, (uint32_t)root}, tokens);
        }
        parent = hash;
        root = 0;
    }
    return 1;
}

static void take_away(Table *table, const Event *event, uint32_t number)
{
    Reader hashes = event->hashes;
    for (uint32_t i = 0; i < event->blocks; i++) {
        uint64_t hash = 0;
        read_unsigned(&hashes, &hash);
        Block *block = find(table, hash);
        if (block == NULL)
            continue; /* nobody is known to hold it: let the reader know too */
        if (--block->copies == 0) {
            block->copies = 1;
            drop_block(table, block);
        } else
            table->further[table->furthers++] = (Further){number, event->blocks, i};
    }
}

/* Packed names that were stored, or removed. */
static PyObject *changed_names(const Table *table, uint32_t stored)
{
    size_t count = 0;
    for (size_t i = 0; i < table->changed; i++)
        count += table->changes[i].stored == stored;
    PyObject *packed = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(8 * count));
    char *at = packed ? PyBytes_AsString(packed) : NULL;
    for (size_t i = 0; at && i < table->changed; i++)
        if (table->changes[i].stored == stored) {
            memcpy(at, &table->changes[i].name, 8);
            at += 8;
        }
    return packed;
}

static PyObject *outcome(Table *table, uint32_t done)
{
    PyObject *removed = changed_names(table, 0), *stored = changed_names(table, 1);
    PyObject *further = PyBytes_FromStringAndSize(
        (const char *)table->further, (Py_ssize_t)(table->furthers * sizeof *table->further));
    for (size_t i = 0; i < table->changed; i++) {
        Name *name = name_of(table, table->changes[i].name);
        name->change = 0;
        if (name->blocks == 0)
            erase_name(table, name);
    }
    table->changed = table->furthers = 0;
    PyObject *result = NULL;
    if (removed && stored && further)
        result = Py_BuildValue("(nIOOO)", (Py_ssize_t)table->batch.count, done, removed, stored,
                               further);
    Py_XDECREF(removed);
    Py_XDECREF(stored);
    Py_XDECREF(further);
    return result;
}

/* ---- methods -------------------------------------------------------------------------------- */

static PyObject *apply(PyObject *self, PyObject *payload)
{
    Table *table = (Table *)self;
    Py_buffer buffer;
    if (PyObject_GetBuffer(payload, &buffer, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *result = NULL;
    uint32_t *tokens = NULL, done = 0;
    Batch *batch = &table->batch;
    Shelf shelf = table->shelf;
    size_t size = table->size;
    Reader reader = {buffer.buf, (const uint8_t *)buffer.buf + buffer.len};
    int read = read_batch(&reader, batch, &shelf, &size);
    if (read == FOREIGN) {
        result = Py_NewRef(Py_None);
        goto end;
    }
    tokens = PyMem_Malloc((size + 1) * sizeof *tokens);
    if (read == NO_MEMORY || tokens == NULL)
        goto no_memory;
    table->size = size;
    if (reserve(table, batch->stored, batch->stored + batch->removed) < 0)
        goto no_memory;
    table->shelf = shelf;
    for (; done < batch->count; done++) {
        const Event *event = &batch->events[done];
        if (!event->stored)
            take_away(table, event, done);
        else if (!store(table, event, done, tokens))
            break;
    }
    result = outcome(table, done);
    goto end;
no_memory:
    PyErr_NoMemory();
end:
    PyMem_Free(tokens);
    PyBuffer_Release(&buffer);
    return result;
}

static PyObject *dump(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const Table *table = (Table *)self;
    PyObject *result = PyList_New(0);
    for (size_t i = 0; result && i < table->used; i++) {
        const Block *block = &table->blocks[i];
        if (block->copies == 0)
            continue;
        PyObject *parent =
            block->root ? Py_NewRef(Py_None) : PyLong_FromUnsignedLongLong(block->parent);
        PyObject *row = parent ? Py_BuildValue("(KNy#KI)", block->hash, parent,
                                               (const char *)(table->tokens + i * table->size),
                                               (Py_ssize_t)(4 * table->size), block->name,
                                               block->copies)
                               : NULL;
        if (row == NULL || PyList_Append(result, row) < 0)
            Py_CLEAR(result);
        Py_XDECREF(row);
    }
    return result;
}

static PyObject *packed_names(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const Table *table = (Table *)self;
    PyObject *packed = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(8 * table->named));
    char *at = packed ? PyBytes_AsString(packed) : NULL;
    for (size_t i = 0; at && table->names && i < (size_t)1 << table->name_bits; i++)
        if (in_use(&table->names[i])) {
            memcpy(at, &table->names[i].name, 8);
            at += 8;
        }
    return packed;
}

static PyObject *has(PyObject *self, PyObject *given)
{
    const Table *table = (Table *)self;
    unsigned long long name = PyLong_AsUnsignedLongLong(given);
    if (name == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(table->names && in_use(name_of(table, name)));
}

/* ---- the type ------------------------------------------------------------------------------- */

static PyObject *new_table(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"block_size", NULL};
    Py_ssize_t size;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "n", names, &size))
        return NULL;
    if (size < 0 || size > MAX_SIZE)
        return PyErr_Format(PyExc_ValueError, "blocks of %zd tokens; 0 to %d", size, MAX_SIZE);
    Table *table = (Table *)PyType_GenericAlloc(type, 0); /* all zero */
    if (table == NULL)
        return NULL;
    table->size = (size_t)size;
    table->free = SIZE_MAX;
    return (PyObject *)table;
}

static void free_table(PyObject *self)
{
    Table *table = (Table *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(table->blocks);
    PyMem_Free(table->tokens);
    PyMem_Free(table->cells);
    PyMem_Free(table->names);
    PyMem_Free(table->changes);
    PyMem_Free(table->further);
    PyMem_Free(table->batch.events);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *number(PyObject *self, void *offset)
{
    return PyLong_FromSize_t(*(size_t *)((char *)self + (size_t)offset));
}

static PyObject *shelf(PyObject *self, void *Py_UNUSED(closure))
{
    const Shelf *shelf = &((Table *)self)->shelf;
    if (!shelf->known)
        Py_RETURN_NONE;
    PyObject *group = shelf->group == NO_GROUP ? Py_NewRef(Py_None)
                                               : PyLong_FromLongLong((long long)shelf->group);
    return Py_BuildValue("(zNz)", shelf->medium ? "GPU" : NULL, group, kinds[shelf->kind]);
}

#define NUMBER(name, field) {name, number, NULL, NULL, (void *)offsetof(Table, field)}
static PyGetSetDef numbers[] = {
    NUMBER("blocks", held),
    NUMBER("named", named),
    NUMBER("block_size", size),
    {"shelf", shelf, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    {"apply", apply, METH_O, NULL},
    {"dump", dump, METH_NOARGS, NULL},
    {"names", packed_names, METH_NOARGS, NULL},
    {"has", has, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, new_table},  {Py_tp_dealloc, free_table}, {Py_tp_methods, methods},
    {Py_tp_getset, numbers}, {0, NULL},
};

static PyType_Spec spec = {
    .name = "actors.kv_events._native.NativeShelf",
    .basicsize = sizeof(Table),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

static int fill(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec);
    int added = type ? PyModule_AddObjectRef(module, "NativeShelf", type) : -1;
    Py_XDECREF(type);
    return added;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "actors.kv_events._native",
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
