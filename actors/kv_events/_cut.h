/* A *cut* is the table of one moment, told place by place while the table goes on changing: of a
   block that changes before it was told, it is noted what it was. */

#include "_blocks.h"

/* What is told of a block, beside its tokens. */
typedef struct {
    uint64_t hash, parent, name, seed;
    uint32_t copies, root;
} Row;

static const Note *note_of(const Table *table, size_t number)
{
    size_t note = table->blocks[number].note;
    return note && note <= table->noted && table->notes[note - 1].number == number
               ? &table->notes[note - 1]
               : NULL;
}

static int reserve_note(Table *table)
{
    if (table->noted < table->note_room)
        return 0;
    size_t room = table->note_room ? 2 * table->note_room : 256;
    Note *notes = PyMem_Realloc(table->notes, room * sizeof *notes);
    if (notes == NULL)
        return -1;
    table->notes = notes;
    uint32_t *tokens = PyMem_Realloc(table->noted_tokens, room * table->size * sizeof *tokens);
    if (tokens == NULL)
        return -1;
    table->noted_tokens = tokens;
    table->note_room = room;
    return 0;
}

/* Before the block of this place changes, goes or comes. */
static void note(Table *table, size_t number)
{
    if (number < table->next_told || number >= table->to_tell || note_of(table, number))
        return;
    if (reserve_note(table) < 0) {
        table->cut_failed = 1;
        return;
    }
    Block *block = &table->blocks[number];
    Py_XINCREF(block->beside);
    table->notes[table->noted] = (Note){*block, number};
    memcpy(table->noted_tokens + table->noted * table->size, table->tokens + number * table->size,
           table->size * sizeof *table->tokens);
    block->note = (uint32_t)++table->noted & 0x7FFFFFFF;
}

static void end_cut(Table *table)
{
    for (size_t i = 0; i < table->noted; i++)
        Py_XDECREF(table->notes[i].block.beside);
    PyMem_Free(table->notes);
    PyMem_Free(table->noted_tokens);
    table->notes = NULL;
    table->noted_tokens = NULL;
    table->noted = table->note_room = table->next_told = table->to_tell = 0;
    table->cut_failed = 0;
}

/* What was at this place at the cut: a block with no copies if there was none. */
static const Block *block_at_cut(const Table *table, size_t number, const uint32_t **tokens)
{
    const Note *note = note_of(table, number);
    if (note) {
        *tokens = table->noted_tokens + (size_t)(note - table->notes) * table->size;
        return &note->block;
    }
    *tokens = table->tokens + number * table->size;
    return &table->blocks[number];
}

/* Writes what stood at places `first` to before `end`; 0, with an exception, without memory. */
static int tell(const Table *table, size_t first, size_t end, char *rows, char *tokens,
                PyObject *besides)
{
    size_t width = table->size * sizeof *table->tokens;
    Py_ssize_t told = 0;
    for (size_t number = first; number < end; number++) {
        const uint32_t *own;
        const Block *block = block_at_cut(table, number, &own);
        if (block->copies == 0)
            continue;
        Row row = {block->hash, block->parent, block->name, block->seed, block->copies, block->root};
        memcpy(rows, &row, sizeof row);
        memcpy(tokens, own, width);
        rows += sizeof row;
        tokens += width;
        if (block->beside) {
            PyObject *key = PyLong_FromSsize_t(told);
            int put = key ? PyDict_SetItem(besides, key, block->beside) : -1;
            Py_XDECREF(key);
            if (put < 0)
                return 0;
        }
        told++;
    }
    return 1;
}
