/* py_core.h: what the py_*.c files share. Only they know Python. */
#ifndef QE_PY_CORE_H
#define QE_PY_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL qe_numpy_api
#ifndef QE_PY_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "engine.h"

struct py_state {
    PyTypeObject *engine_type;
    PyTypeObject *job_type;
    PyObject *model_file_error; /* of qwen3_embed.errors */
    PyObject *device_error;
    PyObject *device_memory_error;
    PyObject *non_finite_error;
};

struct orphan;

typedef struct {
    PyObject_HEAD
    struct qe_engine *engine; /* owned; NULL before __init__ */
    struct orphan *orphans;   /* owned: dropped jobs, see py_job.c                */
    PyObject *kept; /* owned list, or NULL: the arrays of adapters              */
    bool closed;
} EngineObject;

extern PyType_Spec py_engine_spec;
extern PyType_Spec py_job_spec;

/* The state of the module that defines self's type; self is an Engine or a Job. */
struct py_state *py_state_of(PyObject *self);

/* Sets the Python exception for err; what it says of a sequence counts from first_row.
 * Always returns NULL. */
PyObject *py_raise(const struct py_state *state, const struct qe_error *err,
                   Py_ssize_t first_row);

/* A float32 (n, dim) array over rows, not initialised. Takes ownership of rows, on
 * failure too: the array's base is a capsule that releases them. */
PyObject *py_rows_array(struct qe_rows *rows, npy_intp n, npy_intp dim);

/* Queues input and returns its Job, which holds out. */
PyObject *py_job_new(EngineObject *engine, const struct qe_input *input, PyObject *out,
                     Py_ssize_t first_row);

/* {name: (dtype, shape, first byte, bytes)} of a safetensors file; the function
 * tensor_places of the module. */
PyObject *py_tensor_places(PyObject *module, PyObject *path);

/* The method Engine.add_adapter. */
PyObject *py_engine_add_adapter(PyObject *engine, PyObject *arrays);

/* Frees the dropped jobs that are done by now. */
void py_job_reap(EngineObject *engine);

#endif
