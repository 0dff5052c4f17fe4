/* py_rows.c: engine rows -> a NumPy array that owns them. */
#include "py_core.h"

#define CAPSULE_NAME "qwen3_embed.rows"

static void
release_rows(PyObject *capsule)
{
    struct qe_rows *rows = PyCapsule_GetPointer(capsule, CAPSULE_NAME);

    rows->release(rows->data, rows->n_bytes);
    PyMem_Free(rows);
}

PyObject *
py_rows_array(struct qe_rows *rows, npy_intp n, npy_intp dim)
{
    npy_intp shape[2] = {n, dim};
    struct qe_rows *owned = PyMem_Malloc(sizeof *owned);

    if (owned == NULL) {
        rows->release(rows->data, rows->n_bytes);
        return PyErr_NoMemory();
    }
    *owned = *rows;
    PyObject *capsule = PyCapsule_New(owned, CAPSULE_NAME, release_rows);
    if (capsule == NULL) {
        rows->release(rows->data, rows->n_bytes);
        PyMem_Free(owned);
        return NULL;
    }
    PyObject *array = PyArray_SimpleNewFromData(2, shape, NPY_FLOAT32, owned->data);
    if (array == NULL) {
        Py_DECREF(capsule);
        return NULL;
    }
    /* Steals the capsule, on failure too. */
    if (PyArray_SetBaseObject((PyArrayObject *)array, capsule) < 0) {
        Py_DECREF(array);
        return NULL;
    }
    return array;
}
