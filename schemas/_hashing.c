/* The hashes of a prompt in C: what `block_hash.py` does in Python without it. */

#define Py_LIMITED_API 0x030B0000 /* one build for Python 3.11 and later */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_xxh3.h"

/* 0, or -1 with an exception: the same as array("I") has for it. */
static int read_token(PyObject *given, uint32_t *token)
{
    unsigned long value = PyLong_AsUnsignedLong(given);
    if (value == (unsigned long)-1 && PyErr_Occurred()
        && PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear(); /* no int, but it may know which it stands for */
        PyObject *number = PyNumber_Index(given);
        value = number ? PyLong_AsUnsignedLong(number) : (unsigned long)-1;
        Py_XDECREF(number);
    }
    if (value == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    if (value > UINT32_MAX) {
        PyErr_Format(PyExc_OverflowError, "token id %lu is above 2**32 - 1", value);
        return -1;
    }
    *token = (uint32_t)value;
    return 0;
}

/* prefix_hashes(tokens, block_size, seed): packed sequence hashes of the full blocks. */
static PyObject *prefix_hashes(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *tokens;
    Py_ssize_t size;
    unsigned long long seed;
    if (!PyArg_ParseTuple(args, "O!nK", &PyList_Type, &tokens, &size, &seed))
        return NULL;
    Py_ssize_t count = PyList_Size(tokens);
    if (size < 1 || (size_t)size > PY_SSIZE_T_MAX / sizeof(uint32_t) || 4 * size < SHORTEST)
        return PyErr_Format(PyExc_ValueError, "blocks of %zd tokens; at least 3", size);
    if (size > count)
        size = count + 1; /* there is no full block, but all tokens are looked at */
    uint32_t *block = PyMem_Malloc(sizeof *block * (size_t)size);
    PyObject *packed = PyBytes_FromStringAndSize(NULL, 8 * (count / size));
    if (packed == NULL || block == NULL) {
        PyErr_NoMemory();
        goto failed;
    }
    char *hashes = PyBytes_AsString(packed);
    uint64_t hash = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *token = PyList_GetItem(tokens, i); /* an __index__ may have made it shorter */
        Py_XINCREF(token);
        int read = token ? read_token(token, &block[i % size]) : -1;
        Py_XDECREF(token);
        if (read < 0)
            goto failed;
        if (i % size != size - 1)
            continue;
        uint64_t own = xxh3((const uint8_t *)block, sizeof *block * (size_t)size, seed);
        hash = i < size ? own : sequence_hash(hash, own);
        memcpy(hashes + 8 * (i / size), &hash, 8);
    }
    PyMem_Free(block);
    return packed;
failed:
    PyMem_Free(block);
    Py_XDECREF(packed);
    return NULL;
}

/* chain_hashes(parent or None, token hashes): sequence hashes, as a list. */
static PyObject *chain_hashes(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *parent, *blocks;
    if (!PyArg_ParseTuple(args, "OO!", &parent, &PyList_Type, &blocks))
        return NULL;
    int root = Py_IsNone(parent);
    uint64_t hash = root ? 0 : PyLong_AsUnsignedLongLong(parent);
    Py_ssize_t count = PyList_Size(blocks);
    PyObject *hashes = PyErr_Occurred() ? NULL : PyList_New(count);
    for (Py_ssize_t i = 0; hashes && i < count; i++) {
        uint64_t own = PyLong_AsUnsignedLongLong(PyList_GetItem(blocks, i));
        hash = root && i == 0 ? own : sequence_hash(hash, own);
        PyObject *number = PyErr_Occurred() ? NULL : PyLong_FromUnsignedLongLong(hash);
        if (number == NULL || PyList_SetItem(hashes, i, number) < 0) /* takes the reference */
            Py_CLEAR(hashes);
    }
    return hashes;
}

static PyMethodDef functions[] = {
    {"chain_hashes", chain_hashes, METH_VARARGS, NULL},
    {"prefix_hashes", prefix_hashes, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "schemas._hashing",
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__hashing(void)
{
    return PyModuleDef_Init(&definition);
}
