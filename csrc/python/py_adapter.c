/* py_adapter.c: Engine.add_adapter(): merged tensors from NumPy arrays.
 *
 * Where the engine multiplies by the arrays where they lie, the Engine object keeps
 * them.
 */
#include "py_core.h"

#include <string.h>

/* Adds the arrays to what the engine keeps until it is freed. */
static int
keep_arrays(EngineObject *self, PyObject *arrays)
{
    if (self->kept == NULL) {
        self->kept = PyList_New(0);
    }
    return self->kept == NULL ? -1 : PyList_Append(self->kept, arrays);
}

PyObject *
py_engine_add_adapter(PyObject *object, PyObject *dict)
{
    EngineObject *self = (EngineObject *)object;
    struct qe_error err;
    PyObject *name, *value, *result = NULL;
    Py_ssize_t at = 0;
    int n = 0;

    if (self->engine == NULL || self->closed) {
        PyErr_SetString(PyExc_ValueError, "closed");
        return NULL;
    }
    if (!PyDict_Check(dict)) {
        PyErr_SetString(PyExc_TypeError, "adapter: expected a dict of arrays");
        return NULL;
    }
    PyObject *arrays = PyDict_Copy(dict);
    if (arrays == NULL) {
        return NULL;
    }
    struct qe_tensor *tensors = PyMem_Calloc(PyDict_Size(arrays) + 1, sizeof *tensors);
    if (tensors == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    while (PyDict_Next(arrays, &at, &name, &value)) {
        if (py_view_array(name, value, &tensors[n++]) < 0) {
            goto done;
        }
    }
    /* Kept first, so that a failure to keep leaves the engine as it was. */
    if (keep_arrays(self, arrays) < 0) {
        goto done;
    }
    int number = qe_engine_add_adapter(self->engine, tensors, n, &err);
    if (number < 0 || !qe_engine_info(self->engine)->borrows) {
        Py_ssize_t n_kept = PyList_Size(self->kept);
        PyList_SetSlice(self->kept, n_kept - 1, n_kept, NULL);
    }
    if (number < 0) {
        py_raise(py_state_of(object), &err, 0);
        goto done;
    }
    result = PyLong_FromLong(number);
done:
    PyMem_Free(tensors);
    Py_DECREF(arrays);
    return result;
}
