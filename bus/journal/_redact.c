/* Deltas without tokens and text, from bytes to bytes: what redact.py does in Python without it.

   A delta is read as schemas.generate has it: fields that were appended since are left out, as they
   might hold text. For what is not such a delta None is returned, and Python's way is gone. */

#define Py_LIMITED_API 0x030B0000 /* one build for Python 3.11 and later */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../../schemas/_put.h"

enum { STREAM, TOKENS, FINISH, STOP, LOGPROBS, PROMPT_LOGPROBS, PROMPT, CACHED, TEXT, ERROR,
       TRANSFER, FIELDS };
enum { NIL, NUMBER, STR, BYTES, ARRAY, MAP, BAD };
#define IS_NIL(at) (*(at) == 0xc0)

typedef struct {
    const uint8_t *at, *end;
} Reader;

typedef struct {
    int kind;
    uint64_t size; /* of strings in bytes, of arrays and maps in elements */
} Head;

static uint64_t big_endian(Reader *r, int bytes)
{
    uint64_t value = 0;
    while (bytes--)
        value = value << 8 | *r->at++;
    return value;
}

/* Of the value that comes next, which is passed over unless it has more to it than its head. */
static Head read_head(Reader *r)
{
    /* From 0xc0 to 0xdf: the kind, bytes that tell the size, bytes that belong to it besides. */
    static const struct { uint8_t kind, sized, more; } heads[32] = {
        {NIL, 0, 0}, {BAD, 0, 0}, {NUMBER, 0, 0}, {NUMBER, 0, 0},
        {BYTES, 1, 0}, {BYTES, 2, 0}, {BYTES, 4, 0},
        {BYTES, 1, 1}, {BYTES, 2, 1}, {BYTES, 4, 1},
        {NUMBER, 0, 4}, {NUMBER, 0, 8},
        {NUMBER, 0, 1}, {NUMBER, 0, 2}, {NUMBER, 0, 4}, {NUMBER, 0, 8},
        {NUMBER, 0, 1}, {NUMBER, 0, 2}, {NUMBER, 0, 4}, {NUMBER, 0, 8},
        {NUMBER, 0, 2}, {NUMBER, 0, 3}, {NUMBER, 0, 5}, {NUMBER, 0, 9}, {NUMBER, 0, 17},
        {STR, 1, 0}, {STR, 2, 0}, {STR, 4, 0},
        {ARRAY, 2, 0}, {ARRAY, 4, 0}, {MAP, 2, 0}, {MAP, 4, 0},
    };
    Head bad = {BAD, 0};
    if (r->at == r->end)
        return bad;
    uint8_t first = *r->at++;
    if (first < 0x80 || first >= 0xe0)
        return (Head){NUMBER, 0};
    if (first < 0x90)
        return (Head){MAP, first & 0x0f};
    if (first < 0xa0)
        return (Head){ARRAY, first & 0x0f};
    if (first < 0xc0)
        return (Head){STR, first & 0x1f};
    int sized = heads[first - 0xc0].sized, more = heads[first - 0xc0].more;
    if (r->end - r->at < sized + more)
        return bad;
    Head head = {heads[first - 0xc0].kind, big_endian(r, sized)};
    r->at += more;
    return head;
}

/* Past one value with all that is in it; 0 if it is none. */
static int pass(Reader *r)
{
    for (uint64_t left = 1; left > 0; left--) {
        Head head = read_head(r);
        uint64_t there = (uint64_t)(r->end - r->at);
        if (head.kind == BAD || head.size > there)
            return 0;
        if (head.kind == STR || head.kind == BYTES)
            r->at += head.size;
        else if (head.kind == ARRAY || head.kind == MAP)
            left += head.kind == MAP ? 2 * head.size : head.size;
        if (left > there + 1) /* each takes a byte at least */
            return 0;
    }
    return 1;
}

/* What is written is never longer than what was read for it. */

/* As many letters as the text has, nil for nil and 0 for all else. */
static uint8_t *put_text(uint8_t *to, const uint8_t *from, const uint8_t *end)
{
    Reader r = {from, end};
    Head head = read_head(&r);
    if (head.kind != STR) {
        *to++ = head.kind == NIL ? 0xc0 : 0;
        return to;
    }
    uint64_t letters = 0;
    for (; r.at < end; r.at++)
        letters += (*r.at & 0xc0) != 0x80; /* what begins a character in UTF-8 */
    if (letters < 32)
        *to++ = (uint8_t)(0xa0 | letters);
    else {
        int wide = letters < 1 << 8 ? 0 : letters < 1 << 16 ? 1 : 2;
        *to++ = (uint8_t)(0xd9 + wide);
        to = put_size(to, letters, 1 << wide);
    }
    memset(to, 'x', letters);
    return to + letters;
}

/* Past a delta that is one token and nothing else, as most are; where its stream ends, or NULL. */
static const uint8_t *pass_plain(Reader *r)
{
    static const uint8_t nils[FIELDS - FINISH] = {
        0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0,
    };
    Reader ahead = *r;
    if (ahead.at == ahead.end || *ahead.at++ != (0x90 | FIELDS)
        || read_head(&ahead).kind != NUMBER)
        return NULL;
    const uint8_t *end = ahead.at;
    if (ahead.at == ahead.end || *ahead.at++ != 0x91 || read_head(&ahead).kind != NUMBER
        || (size_t)(ahead.end - ahead.at) < sizeof nils
        || memcmp(ahead.at, nils, sizeof nils) != 0)
        return NULL;
    r->at = ahead.at + sizeof nils;
    return end;
}

/* One delta, from `r`; NULL if it is none. One that is a token and nothing else is short. */
static uint8_t *put_delta(uint8_t *to, Reader *r)
{
    const uint8_t *start = r->at + 1, *end = pass_plain(r);
    if (end != NULL) {
        *to++ = 0x92;
        to = put_copy(to, start, end);
        *to++ = 0x91;
        *to++ = 0;
        return to;
    }
    const uint8_t *fields[FIELDS + 1];
    Head head = read_head(r);
    if (head.kind != ARRAY || head.size < FIELDS)
        return NULL;
    for (uint64_t i = 0; i < head.size; i++) {
        if (i <= FIELDS)
            fields[i] = r->at;
        if (!pass(r))
            return NULL;
    }
    if (head.size == FIELDS)
        fields[FIELDS] = r->at;
    Reader tokens = {fields[TOKENS], fields[TOKENS + 1]};
    Head list = read_head(&tokens);
    if (list.kind != ARRAY)
        return NULL;
    int plain = list.size == 1 && IS_NIL(fields[FINISH]) && IS_NIL(fields[PROMPT])
        && IS_NIL(fields[TEXT]);
    *to++ = (uint8_t)(0x90 | (plain ? 2 : FIELDS));
    to = put_copy(to, fields[STREAM], fields[STREAM + 1]);
    to = put_array(to, list.size);
    memset(to, 0, list.size);
    to += list.size;
    if (plain)
        return to;
    to = put_copy(to, fields[FINISH], fields[FINISH + 1]);
    to = put_text(to, fields[STOP], fields[STOP + 1]);
    *to++ = 0xc0; /* LOGPROBS */
    *to++ = 0xc0; /* PROMPT_LOGPROBS */
    to = put_copy(to, fields[PROMPT], fields[CACHED + 1]);
    to = put_text(to, fields[TEXT], fields[TEXT + 1]);
    return put_copy(to, fields[ERROR], fields[TRANSFER + 1]);
}

/* A list of deltas, or of pairs of a key and a delta; NULL if it is none. */
static uint8_t *put_deltas(uint8_t *to, Reader *r, int keyed)
{
    Head list = read_head(r);
    if (list.kind != ARRAY)
        return NULL;
    to = put_array(to, list.size);
    for (uint64_t i = 0; i < list.size && to != NULL; i++) {
        if (keyed) {
            Head pair = read_head(r);
            const uint8_t *key = r->at;
            if (pair.kind != ARRAY || pair.size != 2 || !pass(r))
                return NULL;
            *to++ = 0x92;
            to = put_copy(to, key, r->at);
        }
        to = put_delta(to, r);
    }
    return to;
}

static PyObject *shown(PyObject *object, int keyed)
{
    static const char step[] = "\x92\xa4Step";
    Py_buffer given;
    if (PyObject_GetBuffer(object, &given, PyBUF_SIMPLE) < 0)
        return NULL;
    uint8_t small[4096], *start = small;
    if ((size_t)given.len > sizeof small)
        start = PyMem_Malloc((size_t)given.len);
    if (start == NULL) {
        PyBuffer_Release(&given);
        return PyErr_NoMemory();
    }
    Reader r = {given.buf, (const uint8_t *)given.buf + given.len};
    uint8_t *to = start;
    size_t tag = keyed ? 0 : sizeof step - 1;
    if ((size_t)given.len < tag || memcmp(r.at, step, tag) != 0)
        to = NULL;
    else {
        to = put_copy(to, r.at, r.at + tag);
        r.at += tag;
        to = put_deltas(to, &r, keyed);
    }
    PyObject *bytes;
    if (to == NULL || r.at != r.end)
        bytes = Py_NewRef(Py_None);
    else
        bytes = PyBytes_FromStringAndSize((const char *)start, to - start);
    if (start != small)
        PyMem_Free(start);
    PyBuffer_Release(&given);
    return bytes;
}

/* step(body): of a `Step`, as it is on the wire. */
static PyObject *step(PyObject *Py_UNUSED(module), PyObject *body)
{
    return shown(body, 0);
}

/* keyed(data): of an array of pairs of a key and a delta. */
static PyObject *keyed(PyObject *Py_UNUSED(module), PyObject *data)
{
    return shown(data, 1);
}

static PyMethodDef functions[] = {
    {"keyed", keyed, METH_O, NULL},
    {"step", step, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "bus.journal._redact",
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__redact(void)
{
    return PyModuleDef_Init(&definition);
}
