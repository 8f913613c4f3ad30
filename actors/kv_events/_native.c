/* All blocks of a rank in C, while they lie on one shelf of one source: what `table.py` does in
   Python. It reads batches in the form of today's vLLM, and of these only what it knows well;
   anything else it leaves alone, and says so. Runs no Python code while the table is not whole. */

#define Py_LIMITED_API 0x030B0000 /* one build for Python 3.11 and later */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_events.h"

#include "_bare.h"

/* ---- what has changed ----------------------------------------------------------------------- */

/* Packed names that are in this state now. */
static PyObject *changed_names(const Table *table, uint32_t state, size_t count)
{
    PyObject *packed = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(8 * count));
    char *at = packed ? PyBytes_AsString(packed) : NULL;
    for (size_t i = 0; count && at && i < table->changed; i++)
        if (table->changes[i].state == state) {
            memcpy(at, &table->changes[i].name, 8);
            at += 8;
        }
    return packed;
}

/* (removed, stored, further, given, passed): all since the last outcome. */
static PyObject *outcome(Table *table)
{
    size_t counts[] = {0, 0, 0}, passed = table->passed;
    for (size_t i = 0; i < table->changed; i++) {
        counts[table->changes[i].state]++;
        if (table->changes[i].state == REMOVED) {
            Name *name = name_of(table, table->changes[i].name);
            if (in_use(name))
                erase_name(table, name);
        }
    }
    PyObject *removed = changed_names(table, REMOVED, counts[REMOVED]);
    PyObject *stored = changed_names(table, STORED, counts[STORED]);
    PyObject *further = PyBytes_FromStringAndSize(
        (const char *)table->further, (Py_ssize_t)(table->furthers * sizeof *table->further));
    PyObject *given = PyBytes_FromStringAndSize(
        (const char *)table->given, (Py_ssize_t)(table->givens * sizeof *table->given));
    table->changed = table->furthers = table->givens = table->passed = 0;
    if (removed && stored && further && given)
        return Py_BuildValue("(NNNNn)", removed, stored, further, given, (Py_ssize_t)passed);
    Py_XDECREF(removed);
    Py_XDECREF(stored);
    Py_XDECREF(further);
    Py_XDECREF(given);
    return NULL;
}

/* ---- batches as they came ------------------------------------------------------------------- */

/* Looks ahead at the blocks that an event begins with. */
static void glance(const Table *table, size_t number)
{
    const Batch *batch = &table->batch;
    if (number >= batch->count || table->cells == NULL)
        return;
    const Event *event = &batch->events[number];
    if (event->blocks)
        __builtin_prefetch(
            &table->cells[home(batch->hashes[event->hashes], table->cell_bits)]);
    if (event->stored && !event->root)
        __builtin_prefetch(&table->cells[home(event->parent, table->cell_bits)]);
}

/* Returns how many events of the batch were taken in: less than all at an unknown parent. */
static uint32_t take_in(Table *table)
{
    const Batch *batch = &table->batch;
    for (uint32_t i = 0; i < batch->count; i++) {
        const Event *event = &batch->events[i];
        const uint8_t *hashes = (const uint8_t *)(batch->hashes + event->hashes);
        glance(table, i + 2);
        if (event->passed)
            table->passed += event->blocks;
        else if (!event->stored)
            take_away(table, hashes, event->blocks, i);
        else {
            Stored stored = {.hashes = hashes, .parent = event->parent, .seed = SEED,
                             .tokens = (const uint8_t *)(batch->tokens + event->tokens),
                             .number = i, .blocks = event->blocks, .root = event->root};
            if (store(table, &stored) < event->blocks) {
                table->shelf.other_count = event->others;
                return i;
            }
        }
    }
    return (uint32_t)batch->count;
}

/* Anything but READ, and nothing has changed. `done`: how many of its events were taken in. */
static int take_batch(Table *table, const char *data, Py_ssize_t bytes, uint32_t *done)
{
    Batch *batch = &table->batch;
    Shelf shelf = table->shelf;
    size_t size = table->size;
    Reader reader = {(const uint8_t *)data, (const uint8_t *)data + bytes};
    int read = bytes > MAX_PAYLOAD ? FOREIGN : read_batch(&reader, batch, &shelf, &size);
    if (read != READ)
        return read;
    if (batch->count == 0)
        return FOREIGN;
    table->size = size;
    if (reserve(table, batch->stored, batch->stored + batch->removed) < 0)
        return NO_MEMORY;
    table->shelf = shelf;
    *done = take_in(table);
    trim(batch);
    return READ;
}

/* apply(payloads): (batches taken, events in them, those of the last one that were left, outcome).
   It ends with the first batch of which not all goes on as it came, or before one that is FOREIGN;
   None, and nothing has changed, if that is the very first. */
static PyObject *apply(PyObject *self, PyObject *payloads)
{
    Table *table = (Table *)self;
    Py_ssize_t taken = 0, events = 0, left = 0;
    if (!PyList_Check(payloads))
        return PyErr_Format(PyExc_TypeError, "%S is no list", payloads);
    while (taken < PyList_Size(payloads) && left == 0 && table->furthers == 0) {
        char *data;
        Py_ssize_t bytes;
        uint32_t done;
        int read = NO_MEMORY;
        if (PyBytes_AsStringAndSize(PyList_GetItem(payloads, taken), &data, &bytes) == 0)
            read = take_batch(table, data, bytes, &done);
        if (read != READ && taken == 0)
            return read == FOREIGN   ? Py_NewRef(Py_None)
                   : PyErr_Occurred() ? NULL
                                      : PyErr_NoMemory();
        if (read != READ) {
            PyErr_Clear(); /* of the next call */
            break;
        }
        taken++;
        events += done;
        left = (Py_ssize_t)(table->batch.count - done);
    }
    return Py_BuildValue("(nnnN)", taken, events, left, outcome(table));
}

/* ---- events that Python has read ------------------------------------------------------------ */

/* begin(block_size, on the GPU, group or -1, kind): the shelf of an event; False if it is not that
   of the table, or cannot be. */
static PyObject *begin(PyObject *self, PyObject *args)
{
    Table *table = (Table *)self;
    Py_ssize_t size;
    int medium;
    long long group;
    const char *kind;
    if (!PyArg_ParseTuple(args, "npLz", &size, &medium, &group, &kind))
        return NULL;
    Shelf shelf = table->shelf;
    if (!shelf.known) {
        for (shelf.kind = 0; shelf.kind < KINDS; shelf.kind++)
            if (kind == NULL || (kinds[shelf.kind] && strcmp(kind, kinds[shelf.kind]) == 0))
                break;
        shelf.known = 1;
        shelf.medium = (uint32_t)medium;
        shelf.group = group < 0 ? NO_GROUP : (uint64_t)group;
    }
    if (size < (Py_ssize_t)MIN_SIZE || size > MAX_SIZE || group > MAX_GROUP || shelf.kind == KINDS
        || (table->size && (size_t)size != table->size) || shelf.medium != (uint32_t)medium
        || shelf.group != (group < 0 ? NO_GROUP : (uint64_t)group))
        Py_RETURN_FALSE;
    table->size = (size_t)size;
    table->shelf = shelf;
    Py_RETURN_TRUE;
}

/* store(number, start, parent or None, hashes, token hashes, tokens, seed, besides or None): the
   blocks of event `number` from `start` on, all packed. Returns which it came to: the first whose
   parent is not known, or has another seed. */
static PyObject *store_known(PyObject *self, PyObject *const *args, Py_ssize_t given)
{
    Table *table = (Table *)self;
    char *hashes, *own, *tokens;
    Py_ssize_t hash_bytes, own_bytes, token_bytes;
    if (given != 8)
        return PyErr_Format(PyExc_TypeError, "takes 8 arguments, not %zd", given);
    if (PyBytes_AsStringAndSize(args[3], &hashes, &hash_bytes) < 0
        || PyBytes_AsStringAndSize(args[4], &own, &own_bytes) < 0
        || PyBytes_AsStringAndSize(args[5], &tokens, &token_bytes) < 0)
        return NULL;
    size_t blocks = (size_t)hash_bytes / 8;
    PyObject *besides = Py_IsNone(args[7]) ? NULL : args[7];
    if (table->size == 0 || blocks > UINT32_MAX || (size_t)hash_bytes != 8 * blocks
        || own_bytes != hash_bytes || (size_t)token_bytes != 4 * table->size * blocks
        || (besides && (!PyList_Check(besides) || (size_t)PyList_Size(besides) != blocks)))
        return PyErr_Format(PyExc_ValueError, "of %zu blocks not all is there", blocks);
    Stored event = {.hashes = (const uint8_t *)hashes, .own = (const uint8_t *)own,
                    .tokens = (const uint8_t *)tokens, .blocks = (uint32_t)blocks,
                    .root = Py_IsNone(args[2]), .besides = besides};
    event.number = (uint32_t)PyLong_AsUnsignedLong(args[0]);
    event.start = (uint32_t)PyLong_AsUnsignedLong(args[1]);
    event.parent = event.root ? 0 : PyLong_AsUnsignedLongLong(args[2]);
    event.seed = PyLong_AsUnsignedLongLong(args[6]);
    if (PyErr_Occurred())
        return NULL;
    if (reserve(table, blocks, blocks) < 0)
        return PyErr_NoMemory();
    return PyLong_FromUnsignedLong(store(table, &event));
}

/* remove(number, hashes): the blocks that event `number` removes, packed. */
static PyObject *remove_known(PyObject *self, PyObject *const *args, Py_ssize_t given)
{
    Table *table = (Table *)self;
    char *hashes;
    Py_ssize_t bytes;
    if (given != 2)
        return PyErr_Format(PyExc_TypeError, "takes 2 arguments, not %zd", given);
    if (PyBytes_AsStringAndSize(args[1], &hashes, &bytes) < 0)
        return NULL;
    size_t blocks = (size_t)bytes / 8;
    if (blocks > UINT32_MAX || (size_t)bytes != 8 * blocks)
        return PyErr_Format(PyExc_ValueError, "%zd bytes are no whole number of hashes", bytes);
    uint32_t number = (uint32_t)PyLong_AsUnsignedLong(args[0]);
    if (PyErr_Occurred())
        return NULL;
    if (reserve(table, 0, blocks) < 0)
        return PyErr_NoMemory();
    take_away(table, (const uint8_t *)hashes, (uint32_t)blocks, number);
    Py_RETURN_NONE;
}

/* pass_over(group or -1, blocks): they make no prefix, and nor does the group. */
static PyObject *pass_over(PyObject *self, PyObject *args)
{
    Table *table = (Table *)self;
    Shelf *shelf = &table->shelf;
    long long group;
    Py_ssize_t blocks;
    if (!PyArg_ParseTuple(args, "Ln", &group, &blocks))
        return NULL;
    if (group >= 0 && !is_other(shelf, (uint64_t)group)) {
        if (shelf->other_count == OTHER_GROUPS)
            return PyErr_Format(PyExc_ValueError, "more than %d groups", OTHER_GROUPS);
        shelf->others[shelf->other_count++] = (uint64_t)group;
    }
    table->passed += (size_t)blocks;
    Py_RETURN_NONE;
}

/* The outcome of what was stored and removed so. */
static PyObject *take_changes(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return outcome((Table *)self);
}

/* seed(hash): that of the children of a block; None if it is not known. */
static PyObject *seed(PyObject *self, PyObject *given)
{
    unsigned long long hash = PyLong_AsUnsignedLongLong(given);
    if (hash == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    const Block *block = find((Table *)self, hash);
    return block ? PyLong_FromUnsignedLongLong(block->seed) : Py_NewRef(Py_None);
}

/* ---- what others ask ------------------------------------------------------------------------ */

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
        PyObject *row =
            parent ? Py_BuildValue("(KNy#KKIO)", block->hash, parent,
                                   (const char *)(table->tokens + i * table->size),
                                   (Py_ssize_t)(4 * table->size), block->name, block->seed,
                                   block->copies, block->beside ? block->beside : Py_None)
                   : NULL;
        if (row == NULL || PyList_Append(result, row) < 0)
            Py_CLEAR(result);
        Py_XDECREF(row);
    }
    return result;
}

/* cut(): this moment, which `rows` tells; returns how many places it has. Ends an earlier one. */
static PyObject *cut(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Table *table = (Table *)self;
    end_cut(table);
    table->to_tell = table->used;
    return PyLong_FromSize_t(table->to_tell);
}

/* rows(count): (rows, their tokens, what is beside by number) of the blocks at the next so many
   places. */
static PyObject *rows(PyObject *self, PyObject *given)
{
    Table *table = (Table *)self;
    size_t count = PyLong_AsSize_t(given), first = table->next_told, there = 0;
    if (count == (size_t)-1 && PyErr_Occurred())
        return NULL;
    if (table->cut_failed) {
        end_cut(table);
        return PyErr_NoMemory();
    }
    size_t end = table->to_tell - first < count ? table->to_tell : first + count;
    const uint32_t *tokens;
    for (size_t number = first; number < end; number++)
        there += block_at_cut(table, number, &tokens)->copies > 0;
    PyObject *packed = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(there * sizeof(Row)));
    PyObject *own = PyBytes_FromStringAndSize(
        NULL, (Py_ssize_t)(there * table->size * sizeof *table->tokens));
    PyObject *besides = PyDict_New();
    if (packed == NULL || own == NULL || besides == NULL
        || !tell(table, first, end, PyBytes_AsString(packed), PyBytes_AsString(own), besides)) {
        Py_XDECREF(packed);
        Py_XDECREF(own);
        Py_XDECREF(besides);
        return NULL;
    }
    table->next_told = end;
    if (end == table->to_tell)
        end_cut(table);
    return Py_BuildValue("(NNN)", packed, own, besides);
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
    for (size_t i = 0; i < table->used; i++)
        if (table->blocks[i].copies)
            Py_XDECREF(table->blocks[i].beside);
    end_cut(table);
    PyMem_Free(table->blocks);
    PyMem_Free(table->tokens);
    PyMem_Free(table->cells);
    PyMem_Free(table->names);
    PyMem_Free(table->changes);
    PyMem_Free(table->further);
    PyMem_Free(table->given);
    PyMem_Free(table->batch.events);
    PyMem_Free(table->batch.hashes);
    PyMem_Free(table->batch.tokens);
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

/* Groups that make no prefix, in the order in which they were seen. */
static PyObject *other_groups(PyObject *self, void *Py_UNUSED(closure))
{
    const Shelf *shelf = &((Table *)self)->shelf;
    PyObject *groups = PyList_New(0);
    for (uint32_t i = 0; groups && i < shelf->other_count; i++) {
        PyObject *group = PyLong_FromUnsignedLongLong(shelf->others[i]);
        if (group == NULL || PyList_Append(groups, group) < 0)
            Py_CLEAR(groups);
        Py_XDECREF(group);
    }
    return groups;
}

#define NUMBER(name, field) {name, number, NULL, NULL, (void *)offsetof(Table, field)}
static PyGetSetDef numbers[] = {
    NUMBER("blocks", held),
    NUMBER("named", named),
    NUMBER("block_size", size),
    {"shelf", shelf, NULL, NULL, NULL},
    {"other_groups", other_groups, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define FAST(name, function) {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {
    {"apply", apply, METH_O, NULL},
    {"begin", begin, METH_VARARGS, NULL},
    FAST("store", store_known),
    FAST("remove", remove_known),
    {"pass_over", pass_over, METH_VARARGS, NULL},
    {"take_changes", take_changes, METH_NOARGS, NULL},
    {"seed", seed, METH_O, NULL},
    {"dump", dump, METH_NOARGS, NULL},
    {"cut", cut, METH_NOARGS, NULL},
    {"rows", rows, METH_O, NULL},
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

static PyMethodDef functions[] = {{"bare", bare, METH_O, NULL}, {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "actors.kv_events._native",
    .m_methods = functions,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
