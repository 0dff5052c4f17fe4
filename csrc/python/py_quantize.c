/* py_quantize.c: a layer's weights to int8, from NumPy arrays to NumPy arrays. */
#include "py_core.h"

#include <stdio.h>
#include <string.h>

#include "config.h"
#include "cpu/quantize_layer.h"
#include "weight_table.h"

/* ---- input ---- */

/* The config of a dict, checked. Its rope_inv_freq, which nobody needs, is released. */
static int
get_checked_config(PyObject *module, PyObject *dict, struct qe_config *config)
{
    struct qe_error err;
    Py_buffer inv_freq;

    if (py_config_of(dict, config, &inv_freq) < 0) {
        return -1;
    }
    int status = qe_config_check(config, &err);
    PyBuffer_Release(&inv_freq);
    config->rope_inv_freq = NULL;
    if (status < 0) {
        py_raise(PyModule_GetState(module), &err, 0);
        return -1;
    }
    return 0;
}

/* A view of tensors[name], a vector of float32 or a matrix of bf16 of this shape. */
static int
get_tensor(PyObject *tensors, const struct qe_weight *weight,
           const uint64_t sizes[QE_N_SIZES], struct qe_tensor *tensor)
{
    const bool is_vector = qe_weight_is_vector(weight);
    PyObject *array = PyDict_GetItemString(tensors, weight->name);
    PyObject *name = PyUnicode_FromString(weight->name);

    if (array == NULL || name == NULL) {
        PyErr_Format(PyExc_KeyError, "%s", weight->name);
        Py_XDECREF(name);
        return -1;
    }
    int status = py_view_array(name, array, tensor);
    Py_DECREF(name);
    if (status < 0) {
        return -1;
    }
    if (tensor->n_dims != (is_vector ? 1 : 2) ||
        tensor->dtype != (is_vector ? QE_F32 : QE_BF16) ||
        tensor->shape[0] != sizes[weight->shape[0]] ||
        (!is_vector && tensor->shape[1] != sizes[weight->shape[1]])) {
        PyErr_Format(PyExc_ValueError, "%s: expected %s of the config's shape",
                     weight->name,
                     is_vector ? "a float32 vector" : "a matrix of bf16 (uint16)");
        return -1;
    }
    return 0;
}

/* Pointers into the arrays of tensors. */
static int
get_layer(const struct qe_config *config, PyObject *tensors, struct qe_layer *layer)
{
    uint64_t sizes[QE_N_SIZES];

    qe_weight_sizes(config, sizes);
    *layer = (struct qe_layer){0};
    for (int i = 0; i < QE_N_LAYER_WEIGHTS; i++) {
        const struct qe_weight *weight = &qe_layer_weights[i];
        struct qe_tensor tensor;
        if (get_tensor(tensors, weight, sizes, &tensor) < 0) {
            return -1;
        }
        memcpy((unsigned char *)layer + weight->member, &tensor.data,
               sizeof tensor.data);
    }
    return 0;
}

/* Its (C) doubles, or NULL. */
static double *
get_stream(PyObject *object, const struct qe_config *config)
{
    PyArrayObject *array = (PyArrayObject *)object;

    if (!PyArray_Check(object) || PyArray_TYPE(array) != NPY_DOUBLE ||
        PyArray_NDIM(array) != 1 || PyArray_DIM(array, 0) != config->hidden_size ||
        !PyArray_ISCARRAY(array)) {
        PyErr_SetString(PyExc_TypeError,
                        "stream: expected a result of equalise_begin()");
        return NULL;
    }
    return PyArray_DATA(array);
}

/* ---- output ---- */

/* A new array in dict; its data, or NULL. */
static void *
add_array(PyObject *dict, const char *name, int type, npy_intp n, npy_intp k)
{
    npy_intp shape[2] = {n, k};
    PyObject *array = PyArray_SimpleNew(k > 0 ? 2 : 1, shape, type);

    if (array == NULL || PyDict_SetItemString(dict, name, array) < 0) {
        Py_XDECREF(array);
        return NULL;
    }
    Py_DECREF(array); /* dict has it */
    return PyArray_DATA((PyArrayObject *)array);
}

static int
add_arrays(const struct qe_config *c, PyObject *dict, struct qe_quantized_layer *out)
{
    static const char *const names[QE_N_MATRICES] = {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
    const struct qe_layer none = {0};
    const int C = c->hidden_size, kv = c->n_kv_heads * c->head_dim;
    struct qe_equaliser *e = &out->equaliser;
    struct qe_rounding list[QE_N_MATRICES];
    char name[QE_WEIGHT_NAME_BYTES];
    bool ok = true;

    qe_int8_list(c, &none, e, list);
    for (int i = 0; i < QE_N_MATRICES && ok; i++) {
        snprintf(name, sizeof name, "%s.weight", names[i]);
        out->values[i] = add_array(dict, name, NPY_INT8, list[i].n, list[i].k);
        snprintf(name, sizeof name, "%s.weight_scale", names[i]);
        out->scales[i] = add_array(dict, name, NPY_FLOAT, list[i].n, 1);
        ok = out->values[i] != NULL && out->scales[i] != NULL;
    }
    const struct {
        const char *name;
        float **floats;
        int n;
    } vectors[] = {
        {"input_layernorm.weight", &out->input_layernorm, C},
        {"post_attention_layernorm.weight", &out->post_attention_layernorm, C},
        {"attention_input", &e->attention_input, C},
        {"value", &e->value, kv},
        {"output", &e->output, c->n_heads * c->head_dim},
        {"mlp_input", &e->mlp_input, C},
        {"activation", &e->activation, c->intermediate_size},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors && ok; i++) {
        *vectors[i].floats =
            add_array(dict, vectors[i].name, NPY_FLOAT, vectors[i].n, 0);
        ok = *vectors[i].floats != NULL;
    }
    return ok ? 0 : -1;
}

/* ---- functions ---- */

PyObject *
py_equalise_begin(PyObject *module, PyObject *args)
{
    PyObject *dict, *embed, *result = NULL, *tensors = PyDict_New();
    uint64_t sizes[QE_N_SIZES];
    struct qe_config config;
    struct qe_tensor tensor;
    struct qe_error err;
    npy_intp width;

    if (tensors == NULL ||
        !PyArg_ParseTuple(args, "O!O", &PyDict_Type, &dict, &embed) ||
        get_checked_config(module, dict, &config) < 0 ||
        PyDict_SetItemString(tensors, qe_embed_tokens.name, embed) < 0) {
        goto done;
    }
    qe_weight_sizes(&config, sizes);
    if (get_tensor(tensors, &qe_embed_tokens, sizes, &tensor) < 0) {
        goto done;
    }
    width = config.hidden_size;
    result = PyArray_SimpleNew(1, &width, NPY_DOUBLE);
    if (result != NULL &&
        qe_quantize_begin(&config, tensor.data, PyArray_DATA((PyArrayObject *)result),
                          &err) < 0) {
        Py_CLEAR(result);
        py_raise(PyModule_GetState(module), &err, 0);
    }
done:
    Py_XDECREF(tensors);
    return result;
}

PyObject *
py_quantize_layer(PyObject *module, PyObject *args)
{
    PyObject *dict, *tensors, *stream_array;
    struct qe_quantized_layer out = {0};
    struct qe_config config;
    struct qe_layer layer;
    struct qe_error err;
    int n_threads, status;

    if (!PyArg_ParseTuple(args, "O!O!Oi", &PyDict_Type, &dict, &PyDict_Type, &tensors,
                          &stream_array, &n_threads) ||
        get_checked_config(module, dict, &config) < 0 ||
        get_layer(&config, tensors, &layer) < 0) {
        return NULL;
    }
    double *stream = get_stream(stream_array, &config);
    PyObject *result = PyDict_New();
    if (stream == NULL || result == NULL || add_arrays(&config, result, &out) < 0) {
        Py_XDECREF(result);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    status = qe_quantize_layer(&config, &layer, stream, n_threads, &out, &err);
    Py_END_ALLOW_THREADS;
    if (status < 0) {
        Py_DECREF(result);
        return py_raise(PyModule_GetState(module), &err, 0);
    }
    return result;
}
