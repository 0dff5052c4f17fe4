/* py_job.c: the type Job. Its wait() is the one place that releases the GIL while the
 * engine computes.
 *
 * A Job holds its Engine and the array that the worker writes to. A Job that is freed
 * before it is done is cancelled and added to its Engine's list of orphans, which keeps
 * the array alive until the worker no longer writes to it. */
#include "py_core.h"

/* The longest time between two checks for signals. */
#define WAIT_MS 50

struct orphan {
    struct qe_job *job; /* owned */
    PyObject *out;      /* owned */
    struct orphan *next;
};

typedef struct {
    PyObject_HEAD
    EngineObject *engine; /* owned */
    struct qe_job *job;   /* owned                                                */
    PyObject *out;        /* owned: what the worker writes to                     */
    Py_ssize_t first_row;
} JobObject;

/* Warns once per engine of a pass that was slower than it should be. */
static int
warn_of_note(EngineObject *engine)
{
    char note[QE_NOTE_BYTES];

    if (engine->warned || engine->engine == NULL) {
        return 0;
    }
    qe_engine_note(engine->engine, note);
    if (note[0] == '\0') {
        return 0;
    }
    engine->warned = true;
    return PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "device %s: %s",
                            qe_engine_info(engine->engine)->device, note);
}

static PyObject *
job_wait(PyObject *object, PyObject *unused)
{
    JobObject *self = (JobObject *)object;
    struct qe_error err;
    int status;
    (void)unused;

    do {
        Py_BEGIN_ALLOW_THREADS;
        status = qe_job_wait(self->job, WAIT_MS, &err);
        Py_END_ALLOW_THREADS;
        if (status == 1 && PyErr_CheckSignals() < 0) {
            qe_job_cancel(self->job);
            return NULL;
        }
    } while (status == 1);
    if (status < 0) {
        return py_raise(py_state_of(object), &err, self->first_row);
    }
    if (warn_of_note(self->engine) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
job_cancel(PyObject *object, PyObject *unused)
{
    (void)unused;
    qe_job_cancel(((JobObject *)object)->job);
    Py_RETURN_NONE;
}

static PyObject *
job_done(PyObject *object, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(qe_job_done(((JobObject *)object)->job));
}

void
py_job_reap(EngineObject *engine)
{
    struct orphan **link = &engine->orphans;
    struct orphan *done = NULL;

    while (*link != NULL) {
        struct orphan *orphan = *link;
        if (!qe_job_done(orphan->job)) {
            link = &orphan->next;
            continue;
        }
        *link = orphan->next;
        orphan->next = done;
        done = orphan;
    }
    /* Freeing an array may run Python code, which may call this function again. */
    while (done != NULL) {
        struct orphan *orphan = done;
        done = orphan->next;
        qe_job_free(orphan->job);
        Py_DECREF(orphan->out);
        PyMem_Free(orphan);
    }
}

/* Leaves the job to its engine, because the worker may still write to out. */
static void
leave_orphan(JobObject *self)
{
    struct orphan *orphan = PyMem_Malloc(sizeof *orphan);

    qe_job_cancel(self->job);
    if (orphan == NULL) {
        /* No memory for an orphan: wait, at most for one step of a forward pass. */
        struct qe_error err;
        Py_BEGIN_ALLOW_THREADS;
        while (qe_job_wait(self->job, WAIT_MS, &err) == 1) {
        }
        Py_END_ALLOW_THREADS;
        qe_job_free(self->job);
        Py_DECREF(self->out);
        return;
    }
    *orphan = (struct orphan){self->job, self->out, self->engine->orphans};
    self->engine->orphans = orphan;
}

static void
job_dealloc(PyObject *object)
{
    JobObject *self = (JobObject *)object;
    PyTypeObject *type = Py_TYPE(object);

    PyObject_GC_UnTrack(object);
    if (self->job != NULL && !qe_job_done(self->job)) {
        leave_orphan(self);
    } else {
        qe_job_free(self->job);
        Py_XDECREF(self->out);
    }
    Py_XDECREF((PyObject *)self->engine);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

static int
job_traverse(PyObject *object, visitproc visit, void *arg)
{
    JobObject *self = (JobObject *)object;

    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->engine);
    Py_VISIT(self->out);
    return 0;
}

static PyMethodDef job_methods[] = {
    {"wait", job_wait, METH_NOARGS, "Waits until every row is written."},
    {"cancel", job_cancel, METH_NOARGS, "Cancels the job; returns at once."},
    {"done", job_done, METH_NOARGS, "True if wait() would return at once."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot job_slots[] = {
    {Py_tp_dealloc, job_dealloc},
    {Py_tp_traverse, job_traverse},
    {Py_tp_methods, job_methods},
    {Py_tp_doc, "Sequences that wait for a forward pass, or are in one."},
    {0, NULL},
};

PyType_Spec py_job_spec = {
    .name = "qwen3_embed._core.Job",
    .basicsize = sizeof(JobObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = job_slots,
};

PyObject *
py_job_new(EngineObject *self, const struct qe_input *input, PyObject *out,
           Py_ssize_t first_row)
{
    struct py_state *state = py_state_of((PyObject *)self);
    struct qe_error err;
    JobObject *job = PyObject_GC_New(JobObject, state->job_type);

    if (job == NULL) {
        return NULL;
    }
    job->engine = NULL;
    job->out = NULL;
    job->first_row = first_row;
    if (qe_engine_submit(self->engine, input, &job->job, &err) < 0) {
        PyObject_GC_Track(job);
        Py_DECREF(job);
        return py_raise(state, &err, first_row);
    }
    job->engine = (EngineObject *)Py_NewRef((PyObject *)self);
    job->out = Py_NewRef(out);
    PyObject_GC_Track(job);
    return (PyObject *)job;
}
