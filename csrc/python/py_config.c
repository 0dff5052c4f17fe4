/* py_config.c: a model's shape from the dict that Python made of config.json. */
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
