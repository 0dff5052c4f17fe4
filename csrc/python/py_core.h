/* py_core.h: shared by the py_*.c files, the only ones that include Python.h. */
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
    struct orphan *orphans;   /* owned: dropped jobs, see py_job.c */
    PyObject *kept;           /* owned list of adapters' arrays, or NULL */
    bool closed;
    bool warned; /* of the engine's note */
} EngineObject;

extern PyType_Spec py_engine_spec;
extern PyType_Spec py_job_spec;

/* The module state of self, an Engine or a Job. */
struct py_state *py_state_of(PyObject *self);

/* Sets the Python exception for err and returns NULL. An error of one sequence names
 * it by first_row + err->index. */
PyObject *py_raise(const struct py_state *state, const struct qe_error *err,
                   Py_ssize_t first_row);

/* Returns an uninitialised float32 array (n, dim), 64-byte aligned, which owns its
 * memory through a capsule. n * dim floats must fit a Py_ssize_t of bytes. */
PyObject *py_rows_array(npy_intp n, npy_intp dim);

/* Queues input and returns its Job, which holds out. */
PyObject *py_job_new(EngineObject *engine, const struct qe_input *input, PyObject *out,
                     Py_ssize_t first_row);

/* By the names of Python's arguments. */
int py_get_dtype(const char *name, enum qe_compute_dtype *dtype);
int py_get_embedding(const char *name, enum qe_embedding *embedding);

/* The module's function cuda_memory(config, indices, dtype, embedding, batch_tokens,
 * cuda_library, cublas_folder): per device a dict, the fields of struct qe_cuda_memory.
 */
PyObject *py_cuda_memory(PyObject *module, PyObject *args);

/* The module's function tensor_places(path): {name: (dtype, shape, first byte, bytes)}
 * for the tensors of a safetensors file. */
PyObject *py_tensor_places(PyObject *module, PyObject *path);

/* *tensor is a view of an array of bf16 (uint16) or float32 as the engine takes
 * tensors; both objects must outlive it. */
int py_view_array(PyObject *name, PyObject *array, struct qe_tensor *tensor);

/* A C-contiguous one-dimensional buffer of 4-byte elements of the given kind; `what`
 * and `type` are for messages. */
int py_get_buffer(PyObject *object, const char *what, char kind, const char *type,
                  Py_buffer *view);

/* The places of a dict {name: (dtype, shape, first byte, bytes)}, which holds the
 * names; the caller's to PyMem_Free(). NULL: an exception is set. */
struct qe_place *py_places_of(PyObject *dict);

/* Fills *config from a dict; inv_freq holds its rope_inv_freq until it is released. */
int py_config_of(PyObject *dict, struct qe_config *config, Py_buffer *inv_freq);

/* The module's functions equalise_begin(config, embed_tokens) and
 * quantize_layer(config, tensors, stream, num_threads), see _core.pyi. */
PyObject *py_equalise_begin(PyObject *module, PyObject *args);
PyObject *py_quantize_layer(PyObject *module, PyObject *args);

/* The method Engine.add_adapter. */
PyObject *py_engine_add_adapter(PyObject *engine, PyObject *arrays);

/* Frees dropped jobs that are done. */
void py_job_reap(EngineObject *engine);

#endif
