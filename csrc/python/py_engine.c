/* py_engine.c: the type Engine: argument checks at the border, then the C engine. */
#include "py_core.h"

#include <string.h>

/* ---- __init__ ---- */

/* The paths as C strings; *keep owns what they point into. NULL on failure. */
static const char **
get_paths(PyObject *sequence, PyObject **keep, int *n_paths)
{
    PyObject *tuple = PySequence_Tuple(sequence);
    const char **paths = NULL;

    *keep = NULL;
    if (tuple == NULL) {
        return NULL;
    }
    Py_ssize_t n = PyTuple_Size(tuple);
    if (n < 1 || n > 10000) {
        PyErr_Format(PyExc_ValueError, "paths: %zd files, expected 1 to 10000", n);
        goto fail;
    }
    PyObject *bytes = PyList_New(0);
    paths = PyMem_Malloc(n * sizeof *paths);
    if (bytes == NULL || paths == NULL) {
        PyErr_NoMemory();
        Py_XDECREF(bytes);
        goto fail;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *path;
        if (!PyUnicode_FSConverter(PyTuple_GetItem(tuple, i), &path)) {
            Py_DECREF(bytes);
            goto fail;
        }
        paths[i] = PyBytes_AsString(path);
        int failed = PyList_Append(bytes, path);
        Py_DECREF(path);
        if (failed) {
            Py_DECREF(bytes);
            goto fail;
        }
    }
    Py_DECREF(tuple);
    *keep = bytes;
    *n_paths = (int)n;
    return paths;
fail:
    Py_DECREF(tuple);
    PyMem_Free(paths);
    return NULL;
}

static int
engine_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {
        "",       "",          "device",       "num_threads",   "batch_tokens",
        "dtype",  "embedding", "cuda_library", "cublas_folder", "cache_folder",
        "places", NULL};
    EngineObject *self = (EngineObject *)object;
    struct qe_engine_options options = {.device = "cpu"};
    struct qe_config config = {0};
    struct qe_error err;
    Py_buffer inv_freq;
    PyObject *sequence, *dict, *keep, *table = Py_None;
    struct qe_place *places = NULL;
    const char *dtype = "bfloat16", *embedding = "auto";
    int n_paths;

    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OO!|$siisszzzO", names, &sequence, &PyDict_Type, &dict,
            &options.device, &options.n_threads, &options.batch_tokens, &dtype,
            &embedding, &options.cuda.library, &options.cuda.cublas_folder,
            &options.cache_folder, &table) ||
        py_get_dtype(dtype, &options.dtype) < 0 ||
        py_get_embedding(embedding, &options.embedding) < 0) {
        return -1;
    }
    if (self->engine != NULL) {
        PyErr_SetString(PyExc_TypeError, "Engine.__init__ was called before");
        return -1;
    }
    if (py_config_of(dict, &config, &inv_freq) < 0) {
        return -1;
    }
    const char **paths = get_paths(sequence, &keep, &n_paths);
    if (paths != NULL && table != Py_None) {
        places = py_places_of(table);
        options.places = places;
        options.n_places = places == NULL ? 0 : (int)PyDict_Size(table);
    }
    if (paths == NULL || (table != Py_None && places == NULL)) {
        PyMem_Free(paths);
        PyBuffer_Release(&inv_freq);
        return -1;
    }
    int status;
    Py_BEGIN_ALLOW_THREADS;
    status = qe_engine_open(&config, paths, n_paths, &options, &self->engine, &err);
    Py_END_ALLOW_THREADS;
    PyMem_Free(places);
    PyMem_Free(paths);
    Py_DECREF(keep);
    PyBuffer_Release(&inv_freq);
    if (status < 0) {
        py_raise(py_state_of(object), &err, 0);
        return -1;
    }
    return 0;
}

/* ---- methods ---- */

static int
check_open(const EngineObject *self)
{
    if (self->engine == NULL || self->closed) {
        PyErr_SetString(PyExc_ValueError, "closed");
        return -1;
    }
    return 0;
}

static PyObject *
engine_rows(PyObject *object, PyObject *args)
{
    EngineObject *self = (EngineObject *)object;
    Py_ssize_t n, dim;

    if (!PyArg_ParseTuple(args, "nn", &n, &dim) || check_open(self) < 0) {
        return NULL;
    }
    if (n < 0 || dim < 1 ||
        n > (PY_SSIZE_T_MAX - 64) / (Py_ssize_t)sizeof(float) / dim) {
        PyErr_Format(PyExc_ValueError, "rows: shape (%zd, %zd)", n, dim);
        return NULL;
    }
    return py_rows_array(n, dim);
}

static int
check_out(PyObject *object, Py_ssize_t first_row, Py_ssize_t n_seqs)
{
    PyArrayObject *out = (PyArrayObject *)object;

    if (!PyArray_Check(object) || PyArray_NDIM(out) != 2 ||
        PyArray_TYPE(out) != NPY_FLOAT32 || !PyArray_IS_C_CONTIGUOUS(out) ||
        !PyArray_ISBEHAVED(out)) {
        PyErr_SetString(
            PyExc_TypeError,
            "out: expected a writeable C-contiguous float32 array (n, dim)");
        return -1;
    }
    if (first_row < 0 || first_row > PyArray_DIM(out, 0) - n_seqs) {
        PyErr_Format(PyExc_ValueError, "out: %zd rows from row %zd, but it has %zd",
                     n_seqs, first_row, (Py_ssize_t)PyArray_DIM(out, 0));
        return -1;
    }
    return 0;
}

static PyObject *
engine_submit(PyObject *object, PyObject *args)
{
    EngineObject *self = (EngineObject *)object;
    PyObject *tokens_object, *offsets_object, *out, *job = NULL;
    Py_ssize_t first_row;
    int normalize, adapter = 0, waits = 0;
    Py_buffer tokens, offsets;

    if (!PyArg_ParseTuple(args, "OOOnp|ip", &tokens_object, &offsets_object, &out,
                          &first_row, &normalize, &adapter, &waits) ||
        check_open(self) < 0) {
        return NULL;
    }
    py_job_reap(self);
    if (py_get_buffer(tokens_object, "tokens", 'i', "int32", &tokens) < 0) {
        return NULL;
    }
    if (py_get_buffer(offsets_object, "cu_seqlens", 'i', "int32", &offsets) < 0) {
        PyBuffer_Release(&tokens);
        return NULL;
    }
    Py_ssize_t n_seqs = offsets.shape[0] - 1;
    if (n_seqs < 0 || n_seqs >= INT_MAX || tokens.shape[0] >= INT_MAX) {
        PyErr_Format(PyExc_ValueError,
                     "cu_seqlens: %zd offsets for %zd tokens, expected 1 to %d of each",
                     n_seqs + 1, tokens.shape[0], INT_MAX);
    } else if (check_out(out, first_row, n_seqs) == 0) {
        npy_intp dim = PyArray_DIM((PyArrayObject *)out, 1);
        struct qe_input input = {
            .tokens = tokens.buf,
            .n_tokens = (size_t)tokens.shape[0],
            .cu_seqlens = offsets.buf,
            .n_seqs = (int)n_seqs,
            .kind = normalize ? QE_UNIT : QE_RAW,
            .adapter = adapter,
            .waits = waits,
            .n_out = dim > INT_MAX ? INT_MAX : (int)dim,
            .out = (float *)PyArray_DATA((PyArrayObject *)out) + first_row * dim,
        };
        job = py_job_new(self, &input, out, first_row);
    }
    PyBuffer_Release(&tokens);
    PyBuffer_Release(&offsets);
    return job;
}

static PyObject *
engine_pending_tokens(PyObject *object, PyObject *unused)
{
    EngineObject *self = (EngineObject *)object;
    (void)unused;

    return check_open(self) < 0
               ? NULL
               : PyLong_FromLong(qe_engine_counts(self->engine).pending_tokens);
}

static PyObject *
engine_counts(PyObject *object, PyObject *unused)
{
    EngineObject *self = (EngineObject *)object;
    (void)unused;

    if (check_open(self) < 0) {
        return NULL;
    }
    struct qe_counts counts = qe_engine_counts(self->engine);
    return Py_BuildValue("{s:l,s:l,s:l,s:d}", "batches", counts.n_batches, "texts",
                         counts.n_texts, "tokens", counts.n_tokens, "forward_s",
                         counts.forward_s);
}

static PyObject *
engine_done_fd(PyObject *object, PyObject *unused)
{
    EngineObject *self = (EngineObject *)object;
    struct qe_error err;
    (void)unused;

    if (check_open(self) < 0) {
        return NULL;
    }
    int fd = qe_engine_done_fd(self->engine, &err);
    return fd < 0 ? py_raise(py_state_of(object), &err, 0) : PyLong_FromLong(fd);
}

static PyObject *
engine_measure(PyObject *object, PyObject *unused)
{
    EngineObject *self = (EngineObject *)object;
    struct qe_peak peak;
    struct qe_error err;
    int status;
    (void)unused;

    if (check_open(self) < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    status = qe_engine_measure(self->engine, &peak, &err);
    Py_END_ALLOW_THREADS;
    if (status < 0) {
        return py_raise(py_state_of(object), &err, 0);
    }
    return Py_BuildValue("dd", peak.flops, peak.bytes_per_s);
}

static PyObject *
engine_close(PyObject *object, PyObject *unused)
{
    EngineObject *self = (EngineObject *)object;
    (void)unused;

    if (self->engine != NULL && !self->closed) {
        self->closed = true;
        Py_BEGIN_ALLOW_THREADS;
        qe_engine_stop(self->engine);
        Py_END_ALLOW_THREADS;
        py_job_reap(self);
        Py_CLEAR(self->kept);
    }
    Py_RETURN_NONE;
}

static PyObject *
engine_info(PyObject *object, void *unused)
{
    EngineObject *self = (EngineObject *)object;
    (void)unused;

    if (self->engine == NULL) {
        PyErr_SetString(PyExc_ValueError, "closed");
        return NULL;
    }
    char note[QE_NOTE_BYTES];
    const struct qe_engine_info *info = qe_engine_info(self->engine);
    qe_engine_note(self->engine, note);
    return Py_BuildValue("{s:s,s:s,s:i,s:i,s:n,s:n,s:s,s:O}", "device", info->device,
                         "kernels", info->kernels, "num_threads", info->n_threads,
                         "batch_tokens", info->batch_tokens, "mapped_bytes",
                         (Py_ssize_t)info->mapped_bytes, "owned_bytes",
                         (Py_ssize_t)info->owned_bytes, "note", note, "closed",
                         self->closed ? Py_True : Py_False);
}

static void
engine_dealloc(PyObject *object)
{
    EngineObject *self = (EngineObject *)object;
    PyTypeObject *type = Py_TYPE(object);

    PyObject_GC_UnTrack(object);
    if (self->engine != NULL) {
        struct qe_engine *engine = self->engine;
        /* Orphans were cancelled, so this takes one step of a forward pass. */
        Py_BEGIN_ALLOW_THREADS;
        qe_engine_stop(engine);
        Py_END_ALLOW_THREADS;
        py_job_reap(self);
        qe_engine_close(engine);
    }
    Py_XDECREF(self->kept);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

static int
engine_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((EngineObject *)object)->kept);
    return 0;
}

static PyMethodDef engine_methods[] = {
    {"rows", engine_rows, METH_VARARGS,
     "A new (n, dim) float32 array, not yet written."},
    {"submit", engine_submit, METH_VARARGS, "Queues sequences; returns their Job."},
    {"done_fd", engine_done_fd, METH_NOARGS,
     "A descriptor that becomes readable when jobs are done."},
    {"pending_tokens", engine_pending_tokens, METH_NOARGS,
     "Tokens submitted and not yet done."},
    {"counts", engine_counts, METH_NOARGS,
     "What it has done so far: batches, texts, tokens, forward_s."},
    {"measure", engine_measure, METH_NOARGS,
     "What the device can do at most: (FLOP/s, bytes/s)."},
    {"add_adapter", py_engine_add_adapter, METH_O,
     "Adds weights that stand in for some of the model's; returns their number."},
    {"close", engine_close, METH_NOARGS,
     "Finishes the running batch and lets go of all."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef engine_getset[] = {
    {"info", engine_info, NULL, "What runs where, as a dict.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot engine_slots[] = {
    {Py_tp_init, engine_init},
    {Py_tp_dealloc, engine_dealloc},
    {Py_tp_traverse, engine_traverse},
    {Py_tp_methods, engine_methods},
    {Py_tp_getset, engine_getset},
    {Py_tp_doc, "Weights, a device and the worker thread that runs forward passes."},
    {0, NULL},
};

PyType_Spec py_engine_spec = {
    .name = "qwen3_embed._core.Engine",
    .basicsize = sizeof(EngineObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = engine_slots,
};
