/* engine.c: opens the three parts in order, checks input, notices fork. */
#include "engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu/backend_cpu.h"
#include "cpu/equalise.h"
#include "cpu/threads.h"

struct adapter_node {
    struct qe_adapter adapter;
    struct adapter_node *next;
};

struct qe_engine {
    struct qe_model model;
    struct adapter_node *adapters;  /* owned; in the order of their numbers */
    struct qe_backend *backend;     /* owned; NULL once stopped */
    struct qe_scheduler *scheduler; /* owned                    */
    struct qe_engine_info info;
    pthread_mutex_t measuring; /* held while the backend is in use without a job */
    int vocab_size, max_length, hidden_size;
    pid_t pid; /* of the process whose threads these are */
};

/* Reads "cuda", "cuda:1" or "cuda:0,cuda:1". Returns the number of devices, or 0 for
 * another string. */
static int
cuda_indices(const char *device, int indices[QE_MAX_DEVICES])
{
    char *end;

    if (strcmp(device, "cuda") == 0) {
        indices[0] = 0;
        return 1;
    }
    for (int n = 0; n < QE_MAX_DEVICES; n++) {
        if (strncmp(device, "cuda:", 5) != 0 || device[5] < '0' || device[5] > '9') {
            return 0;
        }
        long index = strtol(device + 5, &end, 10);
        if (index >= 1024) {
            return 0;
        }
        indices[n] = (int)index;
        if (*end != ',') {
            return *end == '\0' ? n + 1 : 0;
        }
        device = end + 1;
    }
    return 0;
}

static int
open_cpu(struct qe_engine *e, const struct qe_engine_options *options,
         struct qe_error *err)
{
    struct qe_cpu_options cpu = {.isa = getenv("QWEN3_EMBED_ISA"),
                                 .dtype = options->dtype,
                                 .n_threads = options->n_threads,
                                 .batch_tokens = options->batch_tokens};
    if (options->dtype == QE_FLOAT8 || options->dtype == QE_INT8_WEIGHTS) {
        return qe_fail(err, QE_EDEVICE,
                       "dtype %s: not on device cpu; use 'bfloat16' or 'int8', or "
                       "an NVIDIA GPU",
                       options->dtype == QE_FLOAT8 ? "float8" : "int8-weights");
    }
    if (options->embedding != QE_EMBEDDING_AUTO) {
        return qe_fail(err, QE_EDEVICE,
                       "embedding %s: not on device cpu, which reads the table in "
                       "place; use 'auto', or an NVIDIA GPU",
                       options->embedding == QE_EMBEDDING_HOST ? "host" : "device");
    }
    if (e->model.is_int8 && options->dtype != QE_INT8) {
        return qe_fail(err, QE_EVALUE,
                       "dtype bfloat16: the model's weights are int8; use 'int8' or "
                       "'auto'");
    }
    if (options->dtype == QE_BFLOAT16 || e->model.is_int8) {
        qe_model_prefetch(&e->model);
    }
    return qe_backend_cpu_open(&e->model, &cpu, &e->backend, err);
}

static int
open_backend(struct qe_engine *e, const struct qe_engine_options *options,
             struct qe_error *err)
{
    if (options->n_threads < 0 || options->n_threads > QE_MAX_THREADS) {
        return qe_fail(err, QE_EVALUE, "num_threads=%d, expected 1 to %d",
                       options->n_threads, QE_MAX_THREADS);
    }
    if (strcmp(options->device, "cpu") == 0) {
        return open_cpu(e, options, err);
    }
    if (e->model.is_int8) {
        return qe_fail(err, QE_EDEVICE,
                       "device %s: the model's weights are int8 (W8A8), which is for "
                       "the CPU; use device cpu, or the model in bf16",
                       options->device);
    }
    if (options->dtype == QE_INT8) {
        return qe_fail(
            err, QE_EDEVICE,
            "dtype int8: not on device %s; use 'int8-weights', 'bfloat16' or "
            "'float8', or device cpu",
            options->device);
    }
    struct qe_cuda_options cuda = {.batch_tokens = options->batch_tokens,
                                   .dtype = options->dtype,
                                   .embedding = options->embedding,
                                   .cache_folder = options->cache_folder};
    cuda.n_devices = cuda_indices(options->device, cuda.devices);
    if (cuda.n_devices == 0) {
        return qe_fail(err, QE_EDEVICE,
                       "device: %s, expected cpu, cuda, cuda:1, or up to %d GPUs as "
                       "cuda:0,cuda:1",
                       options->device, QE_MAX_DEVICES);
    }
    const struct qe_cuda_table *table;
    float *equalisers = NULL;
    int status = qe_cuda_library_load(&options->cuda, &table, err);
    if (status == 0 && options->dtype == QE_INT8_WEIGHTS) {
        status = qe_equalise_model(
            &e->model, options->n_threads > 0 ? options->n_threads : qe_usable_cores(),
            &equalisers, err);
        cuda.equalisers = equalisers;
    }
    if (status == 0) {
        status = table->open(&cuda, &e->model, &e->backend, err);
    }
    free(equalisers);
    if (status == 0 &&
        (e->backend->abi != QE_BACKEND_ABI || e->backend->size != sizeof *e->backend)) {
        qe_fail(err, QE_EDEVICE,
                "device cuda: %s has backend version %u, expected %d; reinstall",
                options->cuda.library, (unsigned)e->backend->abi, QE_BACKEND_ABI);
        e->backend = NULL; /* its close() may lie elsewhere, so it stays open */
        return QE_EDEVICE;
    }
    return status;
}

int
qe_engine_open(const struct qe_config *config, const char *const *paths, int n_paths,
               const struct qe_engine_options *options, struct qe_engine **engine,
               struct qe_error *err)
{
    struct qe_engine *e = calloc(1, sizeof *e);
    int status;

    *engine = NULL;
    if (e == NULL) {
        return qe_fail(err, QE_ENOMEM, "engine: no memory");
    }
    e->pid = getpid();
    pthread_mutex_init(&e->measuring, NULL);
    status = options->places == NULL
                 ? qe_model_open(config, paths, n_paths, &e->model, err)
                 : qe_model_open_places(config, paths[0], options->places,
                                        options->n_places, &e->model, err);
    if (status < 0) {
        goto fail;
    }
    status = open_backend(e, options, err);
    if (status < 0) {
        goto fail;
    }
    status = qe_scheduler_open(e->backend, &e->scheduler, err);
    if (status < 0) {
        goto fail;
    }
    e->vocab_size = config->vocab_size;
    e->max_length = config->max_length;
    e->hidden_size = config->hidden_size;
    e->info = (struct qe_engine_info){
        .n_threads = e->backend->n_threads,
        .batch_tokens = e->backend->batch_tokens,
        .mapped_bytes = e->model.mapped_bytes,
        .owned_bytes = e->model.owned_bytes + e->backend->weight_bytes,
        .borrows = e->backend->add_adapter == NULL,
    };
    snprintf(e->info.device, sizeof e->info.device, "%s", e->backend->name);
    snprintf(e->info.kernels, sizeof e->info.kernels, "%s", e->backend->kernels);
    if (!e->backend->keeps_model) {
        qe_model_unload(&e->model);
    }
    *engine = e;
    return 0;
fail:
    qe_engine_close(e);
    return status;
}

const struct qe_engine_info *
qe_engine_info(const struct qe_engine *engine)
{
    return &engine->info;
}

/* Starts new threads at the first call in a forked child. */
static int
notice_fork(struct qe_engine *e, struct qe_error *err)
{
    pid_t pid = getpid();

    if (e->pid == pid) {
        return 0;
    }
    int status = e->backend->after_fork(e->backend, err);
    if (status == 0) {
        qe_scheduler_after_fork(e->scheduler);
        pthread_mutex_init(&e->measuring, NULL);
        e->pid = pid;
    }
    return status;
}

int
qe_engine_add_adapter(struct qe_engine *e, const struct qe_tensor *tensors,
                      int n_tensors, struct qe_error *err)
{
    struct adapter_node **last = &e->adapters;
    int number = 1;

    if (e->backend == NULL) {
        return qe_fail(err, QE_ECLOSED, "closed");
    }
    int status = notice_fork(e, err);
    if (status < 0) {
        return status;
    }
    struct adapter_node *node = calloc(1, sizeof *node);
    if (node == NULL) {
        return qe_fail(err, QE_ENOMEM, "adapter: no memory");
    }
    size_t before = e->backend->weight_bytes;
    status = qe_adapter_open(&e->model, tensors, n_tensors, &node->adapter, err);
    if (status == 0 && !e->info.borrows) {
        status = e->backend->add_adapter(e->backend, &node->adapter.weights, err);
    }
    if (status < 0) {
        qe_adapter_close(&node->adapter);
        free(node);
        return status;
    }
    for (; *last != NULL; last = &(*last)->next) {
        number++;
    }
    *last = node;
    e->info.owned_bytes += e->info.borrows || !e->backend->keeps_model
                               ? node->adapter.owned_bytes
                               : e->backend->weight_bytes - before;
    return number;
}

/* Returns NULL if there is no such adapter. */
static const struct qe_weights *
find_weights(const struct qe_engine *e, int adapter)
{
    if (adapter == 0) {
        return &e->model.weights;
    }
    for (const struct adapter_node *node = e->adapters; node != NULL;
         node = node->next) {
        if (--adapter == 0) {
            return &node->adapter.weights;
        }
    }
    return NULL;
}

static void
close_adapters(struct qe_engine *e)
{
    while (e->adapters != NULL) {
        struct adapter_node *node = e->adapters;
        e->adapters = node->next;
        qe_adapter_close(&node->adapter);
        free(node);
    }
}

static int
check_request(const struct qe_engine *e, const struct qe_request *request,
              size_t n_tokens, struct qe_error *err)
{
    const int32_t *cu = request->cu_seqlens;

    if (request->n_out < 1 || request->n_out > e->hidden_size) {
        return qe_fail(err, QE_EVALUE, "dim: %d, expected 1 to %d", request->n_out,
                       e->hidden_size);
    }
    if (request->weights == NULL) {
        return qe_fail(
            err, QE_EVALUE,
            "adapter: no such number; expected 0 or a result of add_adapter()");
    }
    if (cu[0] != 0 || cu[request->n_seqs] < 0 ||
        (size_t)cu[request->n_seqs] != n_tokens) {
        return qe_fail(err, QE_EVALUE,
                       "cu_seqlens: from %d to %d, expected from 0 to the number of "
                       "tokens, %zu",
                       cu[0], cu[request->n_seqs], n_tokens);
    }
    for (int i = 0; i < request->n_seqs; i++) {
        long n = (long)cu[i + 1] - cu[i];
        if (n < 1 || n > e->max_length) {
            qe_fail(err, QE_EVALUE, "%ld tokens, expected 1 to %d", n, e->max_length);
            err->index = i;
            return QE_EVALUE;
        }
        /* Later offsets are not checked yet, so stay within n_tokens. */
        for (int32_t t = cu[i]; t < cu[i + 1] && (size_t)t < n_tokens; t++) {
            int32_t token = request->tokens[t];
            if (token < 0 || token >= e->vocab_size) {
                qe_fail(err, QE_EVALUE, "token id %d, expected 0 to %d", token,
                        e->vocab_size - 1);
                err->index = i;
                return QE_EVALUE;
            }
        }
    }
    return 0;
}

int
qe_engine_submit(struct qe_engine *e, const struct qe_input *input, struct qe_job **job,
                 struct qe_error *err)
{
    size_t n_offsets = (size_t)input->n_seqs + 1;

    *job = NULL;
    if (e->backend == NULL) {
        return qe_fail(err, QE_ECLOSED, "closed");
    }
    int status = notice_fork(e, err);
    if (status < 0) {
        return status;
    }
    /* Check a copy: other threads may change the caller's arrays. */
    int32_t *tokens = malloc((input->n_tokens + n_offsets) * sizeof *tokens);
    if (tokens == NULL) {
        return qe_fail(err, QE_ENOMEM, "request: no memory for %zu tokens",
                       input->n_tokens);
    }
    struct qe_request request = {
        .tokens = tokens,
        .cu_seqlens = tokens + input->n_tokens,
        .n_seqs = input->n_seqs,
        .kind = input->kind,
        .weights = find_weights(e, input->adapter),
        .waits = input->waits,
        .n_out = input->n_out,
        .out = input->out,
    };
    if (input->n_tokens > 0) {
        memcpy(tokens, input->tokens, input->n_tokens * sizeof *tokens);
    }
    memcpy(request.cu_seqlens, input->cu_seqlens, n_offsets * sizeof *tokens);
    status = check_request(e, &request, input->n_tokens, err);
    if (status < 0) {
        free(tokens);
        return status;
    }
    return qe_scheduler_submit(e->scheduler, &request, job, err);
}

struct qe_counts
qe_engine_counts(struct qe_engine *e)
{
    /* In a forked child before its first call, jobs belong to the parent, and a thread
     * of the parent may have held the mutex. */
    return e->pid == getpid() ? qe_scheduler_counts(e->scheduler)
                              : (struct qe_counts){0};
}

void
qe_engine_note(struct qe_engine *e, char note[QE_NOTE_BYTES])
{
    note[0] = '\0';
    if (e->pid == getpid()) { /* as in qe_engine_counts() */
        qe_scheduler_note(e->scheduler, note);
    }
}

int
qe_engine_done_fd(struct qe_engine *e, struct qe_error *err)
{
    int status = notice_fork(e, err);

    return status < 0 ? status : qe_scheduler_done_fd(e->scheduler, err);
}

int
qe_engine_measure(struct qe_engine *e, struct qe_peak *peak, struct qe_error *err)
{
    pthread_mutex_lock(&e->measuring);
    int status = e->backend == NULL ? qe_fail(err, QE_ECLOSED, "closed")
                                    : e->backend->measure(e->backend, peak, err);
    pthread_mutex_unlock(&e->measuring);
    return status;
}

void
qe_engine_stop(struct qe_engine *e)
{
    if (e->pid == getpid()) {
        if (e->scheduler != NULL) {
            qe_scheduler_stop(e->scheduler);
        }
        pthread_mutex_lock(&e->measuring);
        if (e->backend != NULL) {
            e->backend->close(e->backend);
            e->backend = NULL;
        }
        pthread_mutex_unlock(&e->measuring);
    } else if (e->scheduler != NULL) {
        /* A forked child that never called: there are no threads to stop. */
        qe_scheduler_after_fork(e->scheduler);
        e->backend = NULL;
    }
    close_adapters(e);
    qe_model_close(&e->model);
}

void
qe_engine_close(struct qe_engine *e)
{
    if (e == NULL) {
        return;
    }
    qe_engine_stop(e);
    qe_scheduler_close(e->scheduler);
    pthread_mutex_destroy(&e->measuring);
    free(e);
}
