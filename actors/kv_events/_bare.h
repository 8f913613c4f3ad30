/* A batch without its tokens, as bare.py makes it, byte for byte: all fields of today in their
   order, zeros for token ids. Of a batch that is not plain nothing is made: of one with adapters'
   or salts' keys, other fields, another order, or values written longer than need be. */

#include "../../schemas/_put.h"

enum { LIST, HASH, ZEROS, COUNT, WHOLE, WORD, NILS };

typedef struct {
    const char *name;
    int form;
} Column;

static const Column of_stored[] = {
    {"block_hashes", LIST}, {"parent_block_hash", HASH}, {"token_ids", ZEROS},
    {"block_size", COUNT}, {"lora_id", WHOLE}, {"medium", WORD}, {"lora_name", WORD},
    {"extra_keys", NILS}, {"group_idx", WHOLE}, {"kv_cache_spec_kind", WORD},
    {"kv_cache_spec_sliding_window", WHOLE}, {"locality", WORD}, {"ownership", WORD},
};
static const Column of_removed[] = {
    {"block_hashes", LIST}, {"medium", WORD}, {"group_idx", WHOLE}, {"locality", WORD},
    {"ownership", WORD},
};
#define COLUMNS(of) (int)(sizeof(of) / sizeof *(of))
#define LEAST 23 /* bytes of an event: {"type": "AllBlocksCleared"} */
#define NAMES 256 /* bytes of the names of all fields, and more */

static uint8_t *put_word(uint8_t *to, const char *word)
{
    size_t size = strlen(word);
    *to++ = (uint8_t)(0xa0 | size);
    memcpy(to, word, size);
    return to + size;
}

static int pass_unsigned(Reader *reader)
{
    const uint8_t *start = reader->at;
    uint64_t value;
    if (!read_unsigned(reader, &value))
        return 0;
    size_t size = (size_t)(reader->at - start);
    return size == (value < 0x80 ? 1u : value < 0x100 ? 2u : value < 0x10000 ? 3u
                    : value >> 32 == 0 ? 5u : 9u);
}

/* An unsigned integer, or 1 to 64 bytes. */
static int pass_hash(Reader *reader)
{
    uint64_t size;
    if (reader->at == reader->end || *reader->at != 0xc4)
        return pass_unsigned(reader);
    reader->at++;
    if (!read_bytes(reader, 1, &size) || size < 1 || size > 64
        || size > (uint64_t)(reader->end - reader->at))
        return 0;
    reader->at += size;
    return 1;
}

static int pass_word(Reader *reader)
{
    Text text;
    int wide = reader->at != reader->end && *reader->at == 0xd9;
    return read_text(reader, &text) && (!wide || text.size >= 32);
}

/* The value of a field, as far as it is kept; NULL if it is not plain. */
static uint8_t *put_value(uint8_t *to, Reader *reader, int form)
{
    const uint8_t *start = reader->at;
    uint64_t count, token;
    if (form != LIST && form != ZEROS && form != COUNT && read_nil(reader)) {
        *to++ = 0xc0;
        return to;
    }
    if (form == LIST || form == ZEROS || form == NILS) {
        if (!read_count(reader, &count))
            return NULL;
        to = put_array(to, count);
        for (; count > 0; count--) {
            const uint8_t *hash = reader->at;
            if (form == LIST) {
                if (!pass_hash(reader))
                    return NULL;
                to = put_copy(to, hash, reader->at);
            } else if (form == ZEROS) {
                if (!read_unsigned(reader, &token) || token > UINT32_MAX)
                    return NULL;
                *to++ = 0;
            } else {
                if (!read_nil(reader))
                    return NULL;
                *to++ = 0xc0;
            }
        }
        return to;
    }
    int plain = form == HASH ? pass_hash(reader) : form == WORD ? pass_word(reader)
                                                                : pass_unsigned(reader);
    return plain ? put_copy(to, start, reader->at) : NULL;
}

/* The fields that are there, in their order, and for those that are not what stands for nothing. */
static uint8_t *put_fields(uint8_t *to, Reader *reader, uint64_t count, const Column *columns,
                           int of)
{
    for (int i = 0; i < of; i++) {
        Reader ahead = *reader;
        Text text;
        to = put_word(to, columns[i].name);
        if (count > 0 && read_text(&ahead, &text) && is(text, columns[i].name)) {
            *reader = ahead;
            count--;
            to = put_value(to, reader, columns[i].form);
            if (to == NULL)
                return NULL;
        } else if (columns[i].form == LIST)
            return NULL; /* it must be there */
        else
            *to++ = columns[i].form == ZEROS ? 0x90 : columns[i].form == COUNT ? 0 : 0xc0;
    }
    return count == 0 ? to : NULL;
}

static uint8_t *put_event(uint8_t *to, Reader *reader)
{
    uint64_t count;
    Text text;
    if (!read_map(reader, &count) || count == 0 || !read_text(reader, &text) || !is(text, "type")
        || !read_text(reader, &text))
        return NULL;
    const char *name = is(text, "BlockStored")    ? "BlockStored"
                       : is(text, "BlockRemoved") ? "BlockRemoved"
                       : is(text, "AllBlocksCleared") ? "AllBlocksCleared" : NULL;
    if (name == NULL)
        return NULL;
    int of = *name == 'A' ? 0 : name[5] == 'S' ? COLUMNS(of_stored) : COLUMNS(of_removed);
    *to++ = (uint8_t)(0x80 | (of + 1));
    to = put_word(put_word(to, "type"), name);
    return put_fields(to, reader, count - 1, name[5] == 'S' ? of_stored : of_removed, of);
}

static uint8_t *put_batch(uint8_t *to, Reader *reader, uint64_t fields, uint64_t count)
{
    to = put_array(to, count);
    for (; count > 0 && to != NULL; count--)
        to = put_event(to, reader);
    for (; fields > 2 && to != NULL; fields--)
        if (!skip(reader))
            return NULL;
    return reader->at == reader->end ? to : NULL;
}

/* bare(payload): such a batch, or None. */
static PyObject *bare(PyObject *Py_UNUSED(module), PyObject *payload)
{
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(payload, &bytes, &size) < 0)
        return NULL;
    Reader reader = {(const uint8_t *)bytes, (const uint8_t *)bytes + size};
    uint64_t fields, time, count;
    if (size > MAX_PAYLOAD || !read_array(&reader, &fields) || fields < 2)
        Py_RETURN_NONE;
    const uint8_t *ts = reader.at;
    if (ts == reader.end || *reader.at++ != 0xcb || !read_bytes(&reader, 8, &time))
        Py_RETURN_NONE;
    const uint8_t *ts_end = reader.at;
    if (!read_array(&reader, &count) || count > (uint64_t)size / LEAST)
        Py_RETURN_NONE;
    uint8_t small[4096], *start = small;
    size_t room = (size_t)size + 16 + (size_t)count * NAMES;
    if (room > sizeof small && (start = PyMem_Malloc(room)) == NULL)
        return PyErr_NoMemory();
    uint8_t *to = put_copy(put_array(start, 2), ts, ts_end);
    uint8_t *end = put_batch(to, &reader, fields, count);
    PyObject *made = end == NULL ? Py_NewRef(Py_None)
                                 : PyBytes_FromStringAndSize((const char *)start, end - start);
    if (start != small)
        PyMem_Free(start);
    return made;
}
