/* py_tensors.c: where the tensors of a safetensors file lie, for Python; NumPy arrays
 * as tensors.
 *
 * Python reads single tensors (a reranker's head, an adapter, the inputs of a merge)
 * by these places, so that one strict parser, safetensors.c, stands before every file.
 */
#include "py_core.h"

#include <string.h>

#include "safetensors.h"

int
py_view_array(PyObject *name, PyObject *value, struct qe_tensor *tensor)
{
    PyArrayObject *array = (PyArrayObject *)value;

    tensor->name = PyUnicode_AsUTF8AndSize(name, NULL);
    if (tensor->name == NULL) {
        return -1;
    }
    if (!PyArray_Check(value) || !PyArray_IS_C_CONTIGUOUS(array) ||
        !PyArray_ISNOTSWAPPED(array) || PyArray_NDIM(array) < 1 ||
        PyArray_NDIM(array) > 2 ||
        (PyArray_TYPE(array) != NPY_UINT16 && PyArray_TYPE(array) != NPY_FLOAT32)) {
        PyErr_Format(PyExc_TypeError,
                     "%s: expected a C-contiguous array, uint16 (bf16) or float32 in "
                     "the machine's byte order",
                     tensor->name);
        return -1;
    }
    bool bf16 = PyArray_TYPE(array) == NPY_UINT16;
    tensor->dtype = bf16 ? QE_BF16 : QE_F32;
    tensor->dtype_name = bf16 ? "BF16" : "F32";
    tensor->n_dims = PyArray_NDIM(array);
    for (int i = 0; i < tensor->n_dims; i++) {
        tensor->shape[i] = (uint64_t)PyArray_DIM(array, i);
    }
    tensor->data = PyArray_DATA(array);
    tensor->n_bytes = (uint64_t)PyArray_NBYTES(array);
    return 0;
}

static PyObject *
decode_name(const char *name)
{
    return PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");
}

/* (dtype, shape, first byte in the file, bytes) */
static PyObject *
place_of(const struct qe_safetensors *file, const struct qe_tensor *tensor)
{
    PyObject *shape = PyTuple_New(tensor->n_dims);

    for (int i = 0; shape != NULL && i < tensor->n_dims; i++) {
        PyObject *size = PyLong_FromUnsignedLongLong(tensor->shape[i]);
        if (size == NULL || PyTuple_SetItem(shape, i, size) < 0) {
            Py_CLEAR(shape);
        }
    }
    if (shape == NULL) {
        return NULL;
    }
    return Py_BuildValue("(sNnn)", tensor->dtype_name, shape,
                         (Py_ssize_t)(tensor->data - file->map),
                         (Py_ssize_t)tensor->n_bytes);
}

PyObject *
py_tensor_places(PyObject *module, PyObject *path)
{
    struct qe_safetensors file;
    struct qe_error err;
    PyObject *bytes;
    int status;

    if (!PyUnicode_FSConverter(path, &bytes)) {
        return NULL;
    }
    const char *name = PyBytes_AsString(bytes);
    Py_BEGIN_ALLOW_THREADS;
    status = qe_safetensors_open(name, &file, &err);
    Py_END_ALLOW_THREADS;
    Py_DECREF(bytes);
    if (status < 0) {
        return py_raise(PyModule_GetState(module), &err, 0);
    }
    PyObject *places = PyDict_New();
    for (int i = 0; places != NULL && i < file.n_tensors; i++) {
        PyObject *key = decode_name(file.tensors[i].name);
        PyObject *place = place_of(&file, &file.tensors[i]);
        if (key == NULL || place == NULL || PyDict_SetItem(places, key, place) < 0) {
            Py_CLEAR(places);
        }
        Py_XDECREF(key);
        Py_XDECREF(place);
    }
    qe_safetensors_close(&file);
    return places;
}
