/* Messages without tokens and text, from bytes to bytes: what redact.py does in Python without it.

   A delta is read as schemas.generate has it: fields that were appended since are left out, as they
   might hold text. For what is not such a delta, or not as it is said to be, None is returned, and
   Python's way is gone. */

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

static uint8_t *put_step(uint8_t *to, Reader *r)
{
    static const char tag[] = "\x92\xa4Step";
    const size_t length = sizeof tag - 1;
    if ((size_t)(r->end - r->at) < length || memcmp(r->at, tag, length) != 0)
        return NULL;
    to = put_copy(to, r->at, r->at + length);
    r->at += length;
    return put_deltas(to, r, 0);
}

/* A list of tokens, or of texts, or nil for nil; NULL if it is neither. */
static uint8_t *put_list(uint8_t *to, const uint8_t *from, const uint8_t *end, int texts)
{
    Reader r = {from, end};
    Head list = read_head(&r);
    if (list.kind == NIL) {
        *to++ = 0xc0;
        return to;
    }
    if (list.kind != ARRAY)
        return NULL;
    to = put_array(to, list.size);
    if (!texts) {
        memset(to, 0, list.size);
        return to + list.size;
    }
    while (r.at < end) {
        const uint8_t *text = r.at;
        pass(&r);
        to = put_text(to, text, r.at);
    }
    return to;
}

typedef struct {
    const char *of;
    Py_ssize_t count;
} Roles;

/* A struct with as many fields as there are roles, see `message`; NULL if it is none. */
static uint8_t *put_fields(uint8_t *to, Reader *r, Roles roles, Roles inner)
{
    Head head = read_head(r);
    if (head.kind != ARRAY || head.size != (uint64_t)roles.count)
        return NULL;
    to = put_array(to, head.size);
    for (Py_ssize_t i = 0; i < roles.count && to != NULL; i++) {
        const uint8_t *from = r->at;
        if (roles.of[i] == 's') {
            to = put_fields(to, r, inner, (Roles){NULL, 0});
            continue;
        }
        if (!pass(r))
            return NULL;
        switch (roles.of[i]) {
        case 'n':
            *to++ = 0xc0;
            break;
        case 'x':
            to = put_text(to, from, r->at);
            break;
        case 't':
        case 'l':
            to = put_list(to, from, r->at, roles.of[i] == 'l');
            break;
        default:
            to = put_copy(to, from, r->at);
        }
    }
    return to;
}

typedef struct {
    Py_buffer given;
    Reader from;
    uint8_t *start, small[4096];
} Work;

/* Room for what is made of what is given. 0 and an exception if there is none. */
static int begin(Work *work)
{
    size_t size = (size_t)work->given.len;
    const uint8_t *at = work->given.buf;
    work->from = (Reader){at, at + size};
    work->start = size <= sizeof work->small ? work->small : PyMem_Malloc(size);
    if (work->start != NULL)
        return 1;
    PyBuffer_Release(&work->given);
    PyErr_NoMemory();
    return 0;
}

/* What was made, up to `to`; None if that is NULL, or if something of what was given is left. */
static PyObject *made(Work *work, const uint8_t *to)
{
    PyObject *bytes;
    if (to == NULL || work->from.at != work->from.end)
        bytes = Py_NewRef(Py_None);
    else
        bytes = PyBytes_FromStringAndSize((const char *)work->start, to - work->start);
    if (work->start != work->small)
        PyMem_Free(work->start);
    PyBuffer_Release(&work->given);
    return bytes;
}

/* step(body): of a `Step`, as it is on the wire. */
static PyObject *step(PyObject *Py_UNUSED(module), PyObject *body)
{
    Work work;
    if (PyObject_GetBuffer(body, &work.given, PyBUF_SIMPLE) < 0 || !begin(&work))
        return NULL;
    return made(&work, put_step(work.start, &work.from));
}

/* keyed(data): of an array of pairs of a key and a delta. */
static PyObject *keyed(PyObject *Py_UNUSED(module), PyObject *data)
{
    Work work;
    if (PyObject_GetBuffer(data, &work.given, PyBUF_SIMPLE) < 0 || !begin(&work))
        return NULL;
    return made(&work, put_deltas(work.start, &work.from, 1));
}

/* message(body, roles, inner): of a struct, a letter for each of its fields: t for a list of tokens,
   x for a text, l for a list of texts, n for what becomes nil, s for a struct with the roles `inner`;
   what has another letter is as it was. */
static PyObject *message(PyObject *Py_UNUSED(module), PyObject *args)
{
    Work work;
    Roles roles, inner;
    if (!PyArg_ParseTuple(args, "y*y#y#", &work.given, &roles.of, &roles.count, &inner.of,
                          &inner.count)
        || !begin(&work))
        return NULL;
    return made(&work, put_fields(work.start, &work.from, roles, inner));
}

static PyMethodDef functions[] = {
    {"keyed", keyed, METH_O, NULL},
    {"message", message, METH_VARARGS, NULL},
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
