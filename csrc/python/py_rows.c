/* py_rows.c: memory for result rows, owned by the NumPy array over it.
 *
 * Every device writes its rows to plain host memory, which outlives the engine and is
 * freed with the array. */
#define _DEFAULT_SOURCE /* madvise */

#include "py_core.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "arithmetic.h"

#define CAPSULE_NAME "qwen3_embed.rows"
#define ALIGN_BYTES ((size_t)64)
#define LARGE_PAGE_BYTES ((size_t)2 << 20)

/* Returns NULL if there is no memory. Large blocks lie in large pages if the system has
 * them: one page fault per row would cost more than writing the row, and a GPU would
 * wait for it. */
static void *
alloc_rows(size_t n_bytes)
{
    void *data;

    n_bytes = n_bytes == 0 ? ALIGN_BYTES : round_up(n_bytes, ALIGN_BYTES);
    if (n_bytes < LARGE_PAGE_BYTES) {
        return aligned_alloc(ALIGN_BYTES, n_bytes);
    }
    if (posix_memalign(&data, LARGE_PAGE_BYTES, n_bytes) != 0) {
        return NULL;
    }
    (void)madvise(data, n_bytes, MADV_HUGEPAGE); /* a hint: failure costs nothing */
    return data;
}

static void
free_rows(PyObject *capsule)
{
    free(PyCapsule_GetPointer(capsule, CAPSULE_NAME));
}

PyObject *
py_rows_array(npy_intp n, npy_intp dim)
{
    npy_intp shape[2] = {n, dim};
    void *data = alloc_rows((size_t)n * (size_t)dim * sizeof(float));

    if (data == NULL) {
        return PyErr_Format(PyExc_MemoryError,
                            "result: no memory for %zd rows of %zd floats",
                            (Py_ssize_t)n, (Py_ssize_t)dim);
    }
    PyObject *capsule = PyCapsule_New(data, CAPSULE_NAME, free_rows);
    if (capsule == NULL) {
        free(data);
        return NULL;
    }
    PyObject *array = PyArray_SimpleNewFromData(2, shape, NPY_FLOAT32, data);
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
