/* py_module.c: the module qwen3_embed._core: its state and its exceptions. */
#define QE_PY_IMPORTS_NUMPY
#include "py_core.h"

#include <stdio.h>
#include <string.h>

#include "cpu/isa.h"

struct py_state *
py_state_of(PyObject *self)
{
    /* The types can't be subclassed, so self's type is the one the module made. */
    return PyType_GetModuleState(Py_TYPE(self));
}

/* A message may end inside a character of a file's name, so decoding must not fail. */
static PyObject *
decode(const char *message)
{
    return PyUnicode_DecodeUTF8(message, (Py_ssize_t)strlen(message), "replace");
}

/* Sets an exception of type with text, and index if that is not negative. Takes
 * ownership of text, which may be NULL. */
static void
raise(PyObject *type, PyObject *text, Py_ssize_t index)
{
    if (text == NULL) {
        return;
    }
    PyObject *error = PyObject_CallFunctionObjArgs(type, text, NULL);
    PyObject *number = PyLong_FromSsize_t(index);
    if (error != NULL && number != NULL &&
        (index < 0 || PyObject_SetAttrString(error, "index", number) == 0)) {
        PyErr_SetObject(type, error);
    }
    Py_XDECREF(error);
    Py_XDECREF(number);
    Py_DECREF(text);
}

static void
raise_os_error(const struct qe_error *err)
{
    PyObject *arguments = Py_BuildValue("(iN)", err->os_errno, decode(err->message));

    if (arguments != NULL) {
        PyErr_SetObject(PyExc_OSError, arguments);
        Py_DECREF(arguments);
    }
}

static PyObject *
type_of(const struct py_state *state, enum qe_status status)
{
    switch (status) {
    case QE_EVALUE:
    case QE_ECLOSED:
        return PyExc_ValueError;
    case QE_ENOMEM:
        return PyExc_MemoryError;
    case QE_EIO:
        return PyExc_OSError;
    case QE_EFORMAT:
        return state->model_file_error;
    case QE_ENONFINITE:
        return state->non_finite_error;
    case QE_EDEVICE:
        return state->device_error;
    case QE_EDEVICEMEM:
        return state->device_memory_error;
    case QE_ECANCELLED:
    case QE_OK:
        break;
    }
    return PyExc_RuntimeError;
}

PyObject *
py_raise(const struct py_state *state, const struct qe_error *err, Py_ssize_t first_row)
{
    char message[sizeof err->message + 32];
    Py_ssize_t index = err->index < 0 ? -1 : first_row + err->index;

    if (err->status == QE_EIO) {
        raise_os_error(err);
        return NULL;
    }
    snprintf(message, sizeof message, "texts[%zd]: ", index);
    snprintf(message + (index < 0 ? 0 : strlen(message)), sizeof err->message, "%s",
             err->message);
    raise(type_of(state, (enum qe_status)err->status), decode(message),
          err->status == QE_ENONFINITE ? index : -1);
    return NULL;
}

static PyObject *
instruction_sets(PyObject *module, PyObject *unused)
{
    const char *names[QE_MAX_SETS];
    int n = qe_isa_list(names);
    PyObject *list = PyList_New(0);
    (void)module;
    (void)unused;

    for (int i = 0; list != NULL && i < n; i++) {
        PyObject *name = PyUnicode_FromString(names[i]);
        if (name == NULL || PyList_Append(list, name) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(name);
    }
    return list;
}

/* [(name, major, minor, memory_bytes), ...] of at most n devices. */
static PyObject *
device_list(const struct qe_cuda_device *devices, int n)
{
    PyObject *list = PyList_New(0);

    for (int i = 0; list != NULL && i < n; i++) {
        PyObject *item =
            Py_BuildValue("siin", devices[i].name, devices[i].major, devices[i].minor,
                          (Py_ssize_t)devices[i].memory_bytes);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *
cuda_devices(PyObject *module, PyObject *args)
{
    struct qe_cuda_paths paths;
    struct qe_cuda_device devices[64];
    const struct qe_cuda_table *table;
    struct qe_error err = {0};
    int n;

    if (!PyArg_ParseTuple(args, "zz", &paths.library, &paths.cublas_folder)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    n = qe_cuda_library_load(&paths, &table, &err);
    if (n == 0) {
        n = table->list_devices(devices, 64, &err);
    }
    Py_END_ALLOW_THREADS;
    if (n < 0) {
        return py_raise(PyModule_GetState(module), &err, 0);
    }
    return device_list(devices, n < 64 ? n : 64);
}

static int
add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

static int
get_error(PyObject *errors, const char *name, PyObject **error)
{
    *error = PyObject_GetAttrString(errors, name);
    return *error == NULL ? -1 : 0;
}

static int
module_exec(PyObject *module)
{
    struct py_state *state = PyModule_GetState(module);

    if (PyArray_ImportNumPyAPI() < 0) {
        return -1;
    }
    PyObject *errors = PyImport_ImportModule("qwen3_embed.errors");
    if (errors == NULL) {
        return -1;
    }
    int failed =
        get_error(errors, "ModelFileError", &state->model_file_error) < 0 ||
        get_error(errors, "DeviceError", &state->device_error) < 0 ||
        get_error(errors, "DeviceMemoryError", &state->device_memory_error) < 0 ||
        get_error(errors, "NonFiniteError", &state->non_finite_error) < 0;
    Py_DECREF(errors);
    if (failed || add_type(module, &py_engine_spec, &state->engine_type) < 0 ||
        add_type(module, &py_job_spec, &state->job_type) < 0) {
        return -1;
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct py_state *state = PyModule_GetState(module);

    Py_VISIT(state->engine_type);
    Py_VISIT(state->job_type);
    Py_VISIT(state->model_file_error);
    Py_VISIT(state->device_error);
    Py_VISIT(state->device_memory_error);
    Py_VISIT(state->non_finite_error);
    return 0;
}

static int
module_clear(PyObject *module)
{
    struct py_state *state = PyModule_GetState(module);

    Py_CLEAR(state->engine_type);
    Py_CLEAR(state->job_type);
    Py_CLEAR(state->model_file_error);
    Py_CLEAR(state->device_error);
    Py_CLEAR(state->device_memory_error);
    Py_CLEAR(state->non_finite_error);
    return 0;
}

static PyMethodDef module_methods[] = {
    {"instruction_sets", instruction_sets, METH_NOARGS,
     "CPU kernels this machine can run, best first."},
    {"tensor_places", py_tensor_places, METH_O,
     "Where the tensors of a safetensors file lie."},
    {"equalise_begin", py_equalise_begin, METH_VARARGS,
     "Mean squares of the embeddings' channels, for quantize_layer()."},
    {"quantize_layer", py_quantize_layer, METH_VARARGS,
     "A layer's weights in int8, equalised."},
    {"cuda_memory", py_cuda_memory, METH_VARARGS,
     "The memory that a model of a shape would take on a GPU."},
    {"cuda_devices", cuda_devices, METH_VARARGS,
     "(name, major, minor, memory_bytes) of each GPU."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "qwen3_embed._core",
    .m_doc = "The C engine. Private: qwen3_embed.Embedder is the interface.",
    .m_size = sizeof(struct py_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&module_def);
}
