/* Methods that tell a table, and make one of what was told. A row is the hash of a block, 8 bytes,
   and its places, 4 bytes each, ascending; the last one has the highest bit. */

/* Numbers of the holders in a list, from its head on. */
static PyObject *listed(const Table *table, uint32_t number)
{
    PyObject *list = PyList_New(0);
    for (; list && number != NONE; number = table->holders[number].next) {
        PyObject *holder = PyLong_FromUnsignedLong(number);
        if (holder == NULL || PyList_Append(list, holder) < 0)
            Py_CLEAR(list);
        Py_XDECREF(holder);
    }
    return list;
}

static PyObject *cut(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Table *table = (Table *)self;
    PyObject *owners = PyList_New((Py_ssize_t)table->holder_count);
    for (uint32_t i = 0; owners && i < table->holder_count; i++) {
        PyObject *owner = PyLong_FromUnsignedLong(table->holders[i].owner);
        if (owner == NULL || PyList_SetItem(owners, (Py_ssize_t)i, owner) < 0)
            Py_CLEAR(owners);
    }
    PyObject *clean = listed(table, table->clean), *retired = listed(table, table->retired);
    PyObject *sweeping = listed(table, table->sweeping), *head = NULL;
    if (owners && clean && retired && sweeping)
        head = Py_BuildValue("(OOOOnnn)", owners, clean, retired, sweeping,
                             (Py_ssize_t)table->next_shard, (Py_ssize_t)table->credit,
                             (Py_ssize_t)table->refused);
    Py_XDECREF(owners);
    Py_XDECREF(clean);
    Py_XDECREF(retired);
    Py_XDECREF(sweeping);
    if (head) {
        end_cut(table);
        table->next_cut = 0;
        table->places_at_cut = TIERS * table->holder_count;
        table->cut_failed = 0;
    }
    return head;
}

static PyObject *rows(PyObject *self, PyObject *given)
{
    Table *table = (Table *)self;
    uint32_t shards = small(given, SHARDS), there = table->places_at_cut;
    Buffer told = {0};
    int failed = table->cut_failed;
    if (shards == NONE)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "%S shards", given);
    while (!failed && shards-- && table->next_cut < SHARDS) {
        Shard *shard = &table->shards[table->next_cut++];
        failed = tell_shard(&told, there, shard) < 0;
        empty(&shard->notes);
    }
    PyObject *packed = NULL;
    if (failed) {
        end_cut(table);
        PyErr_NoMemory();
    } else
        packed = PyBytes_FromStringAndSize(told.data, (Py_ssize_t)told.size);
    empty(&told);
    return packed;
}

/* Puts these holders into a list, the last one at its end; its head, or NONE - 1 with an exception. */
static uint32_t put_in_list(Table *table, PyObject *numbers)
{
    uint32_t head = NONE;
    for (Py_ssize_t i = PyList_Size(numbers); i-- > 0;) {
        uint32_t number = live_holder(table, PyList_GetItem(numbers, i));
        if (number == NONE)
            return NONE - 1;
        table->holders[number].live = 0;
        table->holders[number].next = head;
        head = number;
    }
    return head;
}

static PyObject *restore(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Table *table = (Table *)self;
    if (arguments(count, 7) < 0)
        return NULL;
    for (int i = 0; i < 4; i++)
        if (!PyList_Check(args[i]))
            return PyErr_Format(PyExc_TypeError, "%S is no list", args[i]);
    if (table->holder_count)
        return PyErr_Format(PyExc_ValueError, "the table is in use");
    for (Py_ssize_t i = 0; i < PyList_Size(args[0]); i++) {
        PyObject *taken = take(self, PyList_GetItem(args[0], i));
        if (taken == NULL)
            return NULL;
        Py_DECREF(taken);
    }
    uint32_t clean = put_in_list(table, args[1]);
    uint32_t retired = clean == NONE - 1 ? clean : put_in_list(table, args[2]);
    uint32_t sweeping = retired == NONE - 1 ? retired : put_in_list(table, args[3]);
    if (sweeping == NONE - 1)
        return NULL;
    Py_ssize_t next_shard = PyLong_AsSsize_t(args[4]), credit = PyLong_AsSsize_t(args[5]);
    Py_ssize_t refused = PyLong_AsSsize_t(args[6]);
    if (PyErr_Occurred())
        return NULL;
    if (next_shard < 0 || next_shard > (Py_ssize_t)SHARDS || refused < 0)
        return PyErr_Format(PyExc_ValueError, "shard %zd, %zd refused", next_shard, refused);
    table->clean = clean;
    table->retired = retired;
    table->sweeping = sweeping;
    table->next_shard = (uint32_t)next_shard;
    table->credit = credit;
    table->refused = (size_t)refused;
    table->unswept = (size_t)(PyList_Size(args[2]) + PyList_Size(args[3]));
    Py_RETURN_NONE;
}

/* This block has no places from now on, and is out of the table. */
static void forget(Table *table, Shard *shard, Cell *cell)
{
    uint32_t room[INLINE];
    const uint32_t *places;
    uint32_t count = places_of(cell->holders, room, &places);
    for (uint32_t i = 0; i < count; i++)
        table->holders[places[i] / TIERS].held[places[i] % TIERS]--;
    free_list(table, cell->holders);
    erase(table, shard, cell);
}

/* One row at `at`; where the next begins, or NULL with an exception. */
static const char *load_row(Table *table, const char *at, const char *end)
{
    uint64_t hash;
    uint32_t word = ABSENT;
    if (end - at < 12)
        goto bad;
    memcpy(&hash, at, 8);
    at += 8;
    Shard *shard = shard_of(table, hash);
    if (shard->cells == NULL && resize(table, shard, FIRST_BITS) < 0)
        goto no_memory;
    if ((shard->used + 1) * 4 > ((size_t)3 << shard->bits) &&
        resize(table, shard, shard->bits + 1) < 0)
        goto no_memory;
    Cell *cell = find(shard, hash);
    if (cell->holders)
        forget(table, shard, cell);
    for (int first = 1; first || !(word & LAST); first = 0, at += 4) {
        if (end - at < 4)
            goto bad;
        memcpy(&word, at, 4);
        uint32_t place = word & ~LAST;
        if (first && word == ABSENT)
            return at + 4;
        if (place / TIERS >= table->holder_count)
            goto bad;
        if (first) {
            cell = find(shard, hash);
            *cell = (Cell){hash, in_cell(&place, 1)};
            shard->used++;
            table->blocks++;
        } else {
            int added = add_place(table, cell, place);
            if (added < 0)
                goto no_memory;
            if (!added)
                goto bad;
        }
        table->holders[place / TIERS].held[place % TIERS]++;
    }
    return at;
bad:
    PyErr_SetString(PyExc_ValueError, "these are no rows of this table");
    return NULL;
no_memory:
    PyErr_NoMemory();
    return NULL;
}

static PyObject *load(PyObject *self, PyObject *packed)
{
    Table *table = (Table *)self;
    Py_buffer buffer;
    if (PyObject_GetBuffer(packed, &buffer, PyBUF_SIMPLE) < 0)
        return NULL;
    const char *at = buffer.buf, *end = at + buffer.len;
    while (at && at < end)
        at = load_row(table, at, end);
    PyBuffer_Release(&buffer);
    if (at == NULL)
        return NULL;
    Py_RETURN_NONE;
}
