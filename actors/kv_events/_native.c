/* All blocks of a rank in C, while they lie on one shelf of one source: what `table.py` does in
   Python. It reads batches in the form of today's vLLM, and of these only what it knows well;
   anything else it leaves alone, and says so. Runs no Python code while the table is not whole. */

#define Py_LIMITED_API 0x030B0000 /* one build for Python 3.11 and later */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_blocks.h"

#define AHEAD 8 /* hashes */

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
    table->cells[cell_of(table, made.hash)] = mark_of(made.hash) | (number + 1);
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

/* Hashes of an event, with an eye on those that come next: their cells are far apart in memory. */
typedef struct {
    Reader now, ahead;
    uint32_t left;
} Hashes;

static void look_ahead(const Table *table, Hashes *hashes)
{
    uint64_t hash = 0;
    if (hashes->left == 0 || table->cells == NULL)
        return;
    hashes->left--;
    read_unsigned(&hashes->ahead, &hash);
    __builtin_prefetch(&table->cells[home(hash, table->cell_bits)]);
}

static Hashes hashes_of(const Table *table, const Event *event)
{
    Hashes hashes = {event->hashes, event->hashes, event->blocks};
    for (int i = 0; i < AHEAD; i++)
        look_ahead(table, &hashes);
    return hashes;
}

static uint64_t next_hash(const Table *table, Hashes *hashes)
{
    uint64_t hash = 0;
    look_ahead(table, hashes);
    read_unsigned(&hashes->now, &hash);
    return hash;
}

/* False if its parent is not known: then it has changed nothing. */
static int store(Table *table, const Event *event, uint32_t number, uint32_t *tokens)
{
    Hashes hashes = hashes_of(table, event);
    Reader ids = event->tokens;
    uint64_t parent = event->parent, name = 0;
    int root = event->root;
    for (uint32_t i = 0; i < event->blocks; i++) {
        uint64_t hash = next_hash(table, &hashes);
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
    Hashes hashes = hashes_of(table, event);
    for (uint32_t i = 0; i < event->blocks; i++) {
        Block *block = find(table, next_hash(table, &hashes));
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
