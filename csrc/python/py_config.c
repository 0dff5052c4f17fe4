/* py_config.c: a model's shape from the dict that Python made of config.json, an
 * engine's options from their names; and what a model of a shape needs on a GPU. */
#include "py_core.h"

#include <limits.h>
#include <string.h>

static int
get_int(PyObject *config, const char *name, int *value)
{
    PyObject *item = PyDict_GetItemString(config, name);

    if (item == NULL) {
        PyErr_Format(PyExc_TypeError, "config: '%s' is missing", name);
        return -1;
    }
    long number = PyLong_AsLong(item);
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (number < 0 || number > INT_MAX) {
        PyErr_Format(PyExc_ValueError, "config: %s is %ld, expected 0 to %d", name,
                     number, INT_MAX);
        return -1;
    }
    *value = (int)number;
    return 0;
}

static int
get_float(PyObject *config, const char *name, float *value)
{
    PyObject *item = PyDict_GetItemString(config, name);

    if (item == NULL) {
        PyErr_Format(PyExc_TypeError, "config: '%s' is missing", name);
        return -1;
    }
    double number = PyFloat_AsDouble(item);
    if (number == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    *value = (float)number;
    return 0;
}

int
py_get_buffer(PyObject *object, const char *what, char kind, const char *type,
              Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) {
        return -1;
    }
    const char *format = view->format == NULL ? "B" : view->format;
    if (*format == '=' || *format == '<' || *format == '@') {
        format++;
    }
    bool right = view->ndim == 1 && view->itemsize == 4 && format[1] == '\0' &&
                 (*format == kind || (kind == 'i' && *format == 'l'));
    if (!right) {
        PyErr_Format(PyExc_TypeError, "%s: expected a one-dimensional %s buffer", what,
                     type);
        PyBuffer_Release(view);
        return -1;
    }
    return 0;
}

int
py_config_of(PyObject *dict, struct qe_config *c, Py_buffer *inv_freq)
{
    const struct {
        const char *name;
        int *value;
    } ints[] = {
        {"hidden_size", &c->hidden_size}, {"intermediate_size", &c->intermediate_size},
        {"n_layers", &c->n_layers},       {"n_heads", &c->n_heads},
        {"n_kv_heads", &c->n_kv_heads},   {"head_dim", &c->head_dim},
        {"vocab_size", &c->vocab_size},   {"max_length", &c->max_length},
    };

    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        if (get_int(dict, ints[i].name, ints[i].value) < 0) {
            return -1;
        }
    }
    if (get_float(dict, "rms_norm_eps", &c->rms_norm_eps) < 0 ||
        get_float(dict, "rope_scale", &c->rope_scale) < 0) {
        return -1;
    }
    PyObject *item = PyDict_GetItemString(dict, "rope_inv_freq");
    if (item == NULL) {
        PyErr_SetString(PyExc_TypeError, "config: 'rope_inv_freq' is missing");
        return -1;
    }
    if (py_get_buffer(item, "rope_inv_freq", 'f', "float32", inv_freq) < 0) {
        return -1;
    }
    if (inv_freq->shape[0] != c->head_dim / 2) {
        PyErr_Format(PyExc_ValueError,
                     "rope_inv_freq: %zd elements, expected head_dim / 2, %d",
                     inv_freq->shape[0], c->head_dim / 2);
        PyBuffer_Release(inv_freq);
        return -1;
    }
    c->rope_inv_freq = inv_freq->buf;
    return 0;
}

/* Finds name among n names and sets *found to its place. */
static int
find_name(const char *what, const char *name, const char *const *names, int n,
          const char *expected, int *found)
{
    for (int i = 0; i < n; i++) {
        if (strcmp(name, names[i]) == 0) {
            *found = i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "%s: '%s', expected %s", what, name, expected);
    return -1;
}

int
py_get_dtype(const char *name, enum qe_compute_dtype *dtype)
{
    static const char *const names[] = {[QE_BFLOAT16] = "bfloat16",
                                        [QE_FLOAT8] = "float8",
                                        [QE_INT8] = "int8",
                                        [QE_INT8_WEIGHTS] = "int8-weights"};
    int found;
    int status = find_name("dtype", name, names, sizeof names / sizeof *names,
                           "'bfloat16', 'float8', 'int8' or 'int8-weights'", &found);

    if (status == 0) {
        *dtype = (enum qe_compute_dtype)found;
    }
    return status;
}

int
py_get_embedding(const char *name, enum qe_embedding *embedding)
{
    static const char *const names[] = {[QE_EMBEDDING_AUTO] = "auto",
                                        [QE_EMBEDDING_DEVICE] = "device",
                                        [QE_EMBEDDING_HOST] = "host"};
    int found;
    int status = find_name("embedding", name, names, sizeof names / sizeof *names,
                           "'auto', 'device' or 'host'", &found);

    if (status == 0) {
        *embedding = (enum qe_embedding)found;
    }
    return status;
}

/* ---- cuda_memory ---- */

/* Sets options->devices from a tuple of int. */
static int
get_devices(PyObject *tuple, struct qe_cuda_options *options)
{
    Py_ssize_t n = PyTuple_Size(tuple);

    if (n < 1 || n > QE_MAX_DEVICES) {
        PyErr_Format(PyExc_ValueError, "indices: %zd, expected 1 to %d", n,
                     QE_MAX_DEVICES);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        options->devices[i] = (int)PyLong_AsLong(PyTuple_GetItem(tuple, i));
    }
    options->n_devices = (int)n;
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *
memory_list(const struct qe_cuda_memory *memory, int n)
{
    PyObject *list = PyList_New(0);

    for (int i = 0; list != NULL && i < n; i++) {
        const struct qe_cuda_memory *m = &memory[i];
        PyObject *item = Py_BuildValue(
            "{s:n,s:n,s:n,s:n,s:n,s:n,s:i,s:i}", "weights", (Py_ssize_t)m->weights,
            "activations", (Py_ssize_t)m->activations, "spare", (Py_ssize_t)m->spare,
            "host", (Py_ssize_t)m->host, "free", (Py_ssize_t)m->free, "total",
            (Py_ssize_t)m->total, "batch_tokens", m->batch_tokens, "n_layers",
            m->n_layers);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

PyObject *
py_cuda_memory(PyObject *module, PyObject *args)
{
    struct qe_cuda_options options = {0};
    struct qe_cuda_paths paths;
    struct qe_config config = {0};
    struct qe_cuda_memory memory[QE_MAX_DEVICES];
    const struct qe_cuda_table *table;
    const char *dtype, *embedding;
    Py_buffer inv_freq;
    PyObject *dict, *indices;
    struct qe_error err;

    if (!PyArg_ParseTuple(args, "O!O!ssizz", &PyDict_Type, &dict, &PyTuple_Type,
                          &indices, &dtype, &embedding, &options.batch_tokens,
                          &paths.library, &paths.cublas_folder) ||
        get_devices(indices, &options) < 0 || py_get_dtype(dtype, &options.dtype) < 0 ||
        py_get_embedding(embedding, &options.embedding) < 0 ||
        py_config_of(dict, &config, &inv_freq) < 0) {
        return NULL;
    }
    int status = qe_cuda_library_load(&paths, &table, &err);
    if (status == 0) {
        status = table->memory(&options, &config, memory, &err);
    }
    PyBuffer_Release(&inv_freq);
    if (status < 0) {
        return py_raise(PyModule_GetState(module), &err, 0);
    }
    return memory_list(memory, options.n_devices);
}
