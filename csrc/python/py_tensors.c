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

/* Its n_bytes must be those of its dtype and shape. */
static int
get_place(PyObject *name, PyObject *value, struct qe_place *place)
{
    static const struct {
        const char *name;
        enum qe_dtype dtype;
        uint64_t block, block_bytes;
    } dtypes[] = {{"BF16", QE_BF16, 1, 2},
                  {"F16", QE_F16, 1, 2},
                  {"F32", QE_F32, 1, 4},
                  {"Q8_0", QE_Q8_0, 32, 34}};
    struct qe_tensor *tensor = &place->tensor;
    unsigned long long rows, columns = 1, offset, n_bytes;
    const char *dtype;
    PyObject *shape;
    size_t i = 0;

    tensor->name = PyUnicode_AsUTF8AndSize(name, NULL);
    if (tensor->name == NULL || !PyTuple_Check(value) ||
        !PyArg_ParseTuple(value, "sO!KK", &dtype, &PyTuple_Type, &shape, &offset,
                          &n_bytes) ||
        !PyArg_ParseTuple(shape, "K|K", &rows, &columns)) {
        return -1;
    }
    tensor->n_dims = (int)PyTuple_Size(shape);
    tensor->shape[0] = rows;
    tensor->shape[1] = columns;
    tensor->n_bytes = n_bytes;
    place->offset = offset;
    while (i < sizeof dtypes / sizeof *dtypes && strcmp(dtypes[i].name, dtype) != 0) {
        i++;
    }
    if (i == sizeof dtypes / sizeof *dtypes || rows > 1ULL << 30 ||
        columns > 1ULL << 30 ||
        (tensor->n_dims == 2 ? columns : rows) % dtypes[i].block != 0 ||
        rows * columns / dtypes[i].block * dtypes[i].block_bytes != n_bytes) {
        PyErr_Format(PyExc_ValueError, "%s: no place of a tensor", tensor->name);
        return -1;
    }
    tensor->dtype = dtypes[i].dtype;
    tensor->dtype_name = dtypes[i].name;
    return 0;
}

struct qe_place *
py_places_of(PyObject *dict)
{
    PyObject *name, *value;
    Py_ssize_t at = 0;
    int n = 0;

    if (!PyDict_Check(dict)) {
        PyErr_SetString(PyExc_TypeError, "places: expected a dict or None");
        return NULL;
    }
    struct qe_place *places = PyMem_Calloc(PyDict_Size(dict) + 1, sizeof *places);
    if (places == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    while (PyDict_Next(dict, &at, &name, &value)) {
        if (get_place(name, value, &places[n++]) < 0) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_TypeError, "places: expected tuples");
            }
            PyMem_Free(places);
            return NULL;
        }
    }
    return places;
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
