/* weights.cu: uploads weights to the device.
 *
 * Tensors are cut into pieces of at most one slot. Several threads take pieces, read
 * them with pread into two pinned slots of their own and copy them on streams of their
 * own, so that reading and copying overlap. */
#include "weights.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arithmetic.h"
#include "cuda_error.h"

#define MAX_THREADS 8
#define SLOT_BYTES ((size_t)4 << 20)

/* n_rows rows of row_bytes, contiguous in host memory, to_bytes apart where they go: on
 * the device, or in pinned host memory. */
struct piece {
    unsigned char *to;
    float *scales; /* (n_rows) if the rows, of bf16, become e4m3 or int8; else NULL */
    const unsigned char *from;
    size_t row_bytes;
    size_t to_bytes; /* while they are bf16 */
    size_t n_rows;
    struct equalising equalising; /* of rows that become int8; or a vector's divisor */
};

struct upload {
    const struct qe_model *model;
    enum qe_compute_dtype dtype;
    int device;
    int *files; /* (model->n_files) descriptors, -1 where not open */
    struct piece *pieces;
    size_t n_pieces;
    std::atomic<size_t> next;
    std::atomic<int> n_failed;
};

struct worker {
    struct upload *upload;
    pthread_t thread;
    struct qe_error err; /* status 0 while all is well */
};

/* ---- layout ---- */

template <typename T>
static void
point_at(T **pointer, unsigned char *base, size_t offset)
{
    *pointer = reinterpret_cast<T *>(base + offset);
}

static struct operand
matrix_at(unsigned char *base, struct matrix_place place, enum qe_compute_dtype dtype)
{
    struct operand matrix = {base + place.values, NULL};

    if (has_scales(dtype)) {
        point_at(&matrix.scales, base, place.scales);
    }
    return matrix;
}

static struct device_layer
layer_at(unsigned char *base, const struct layer_places *p, enum qe_compute_dtype dtype)
{
    struct device_layer layer;

    layer.qkv_proj = matrix_at(base, p->qkv_proj, dtype);
    layer.o_proj = matrix_at(base, p->o_proj, dtype);
    layer.gate_up_proj = matrix_at(base, p->gate_up_proj, dtype);
    layer.down_proj = matrix_at(base, p->down_proj, dtype);
    point_at(&layer.input_layernorm, base, p->input_layernorm);
    point_at(&layer.post_attention_layernorm, base, p->post_attention_layernorm);
    point_at(&layer.q_norm, base, p->q_norm);
    point_at(&layer.k_norm, base, p->k_norm);
    return layer;
}

int
host_table_open(const struct device_shape *s, struct device_weights *w,
                struct qe_error *err)
{
    w->host_bytes = place_weights(s).host_bytes;
    cudaError_t status = cudaHostAlloc(&w->host_memory, w->host_bytes,
                                       cudaHostAllocMapped | cudaHostAllocPortable);
    if (status != cudaSuccess) {
        cudaGetLastError(); /* or the next launch would report this error */
        return qe_fail(err, QE_ENOMEM,
                       "embedding host: no %.2f GB of pinned host memory for the "
                       "table: %s",
                       w->host_bytes * 1e-9, cudaGetErrorString(status));
    }
    if (s->C != s->n_columns) {
        memset(w->host_memory, 0, w->host_bytes);
    }
    w->embed_tokens = reinterpret_cast<bf16 *>(w->host_memory);
    return 0;
}

int
device_weights_open(const struct device_shape *s, struct device_weights *w,
                    struct qe_error *err)
{
    const struct weight_places p = place_weights(s);
    const size_t table_bytes = s->L * sizeof *w->layers;

    w->layers = static_cast<struct device_layer *>(malloc(table_bytes));
    if (w->layers == NULL) {
        return qe_fail(err, QE_ENOMEM, "weights: no memory for %zu bytes", table_bytes);
    }
    w->n_bytes = p.n_bytes;
    CUDA_TRY(err, cudaMalloc(&w->memory, w->n_bytes));
    point_at(&w->norm, w->memory, p.norm);
    point_at(&w->inv_freq, w->memory, p.inv_freq);
    point_at(&w->equalisers, w->memory, p.equalisers);
    for (int l = 0; l < s->L; l++) {
        w->layers[l] =
            layer_at(w->memory + p.layers + l * p.layer.n_bytes, &p.layer, s->dtype);
    }
    if (s->host_table) {
        return host_table_open(s, w, err);
    }
    if (s->embeds) {
        point_at(&w->embed_tokens, w->memory, p.embed_tokens);
    }
    return 0;
}

void
device_weights_close(struct device_weights *weights)
{
    cudaFree(weights->memory);
    cudaFreeHost(weights->host_memory);
    free(weights->layers);
    *weights = {};
}

/* ---- pieces ---- */

/* Cuts a piece of any size into pieces that fit a slot. Without a source it adds none.
 */
static void
add_pieces(struct upload *u, struct piece rest)
{
    const size_t n_fitting = SLOT_BYTES / rest.to_bytes;

    rest.n_rows = rest.from == NULL ? 0 : rest.n_rows;
    while (rest.n_rows > 0) {
        struct piece piece = rest;
        piece.n_rows = rest.n_rows < n_fitting ? rest.n_rows : n_fitting;
        if (u->pieces != NULL) {
            u->pieces[u->n_pieces] = piece;
        }
        u->n_pieces++;
        rest.to +=
            piece.n_rows * (rest.scales == NULL ? rest.to_bytes : rest.to_bytes / 2);
        rest.scales += rest.scales == NULL ? 0 : piece.n_rows;
        rest.equalising.rows += rest.equalising.rows == NULL ? 0 : piece.n_rows;
        rest.from += piece.n_rows * piece.row_bytes;
        rest.n_rows -= piece.n_rows;
    }
}

/* A tensor (n_rows, n_columns), if there is one, to rows to_columns elements apart. */
template <typename T>
static void
add_tensor(struct upload *u, T *to, const void *from, size_t n_rows, size_t n_columns,
           size_t to_columns)
{
    add_pieces(u, {reinterpret_cast<unsigned char *>(to),
                   NULL,
                   static_cast<const unsigned char *>(from),
                   n_columns * sizeof(T),
                   to_columns * sizeof(T),
                   n_rows,
                   {}});
}

/* A norm's weights (n), divided by the scales (n) of the channels that they give. */
static void
add_norm(struct upload *u, float *to, const void *from, size_t n, const float *scales)
{
    add_pieces(u, {reinterpret_cast<unsigned char *>(to),
                   NULL,
                   static_cast<const unsigned char *>(from),
                   n * sizeof(float),
                   n * sizeof(float),
                   1,
                   {NULL, scales, 0}});
}

/* columns (n_columns), rows (n_rows): as of struct equalising. */
static void
add_matrix(struct upload *u, struct operand to, const void *from, size_t n_rows,
           size_t n_columns, size_t to_columns, const float *columns, const float *rows)
{
    add_pieces(u, {static_cast<unsigned char *>(to.values),
                   to.scales,
                   static_cast<const unsigned char *>(from),
                   n_columns * sizeof(bf16),
                   to_columns * sizeof(bf16),
                   n_rows,
                   {columns, rows, (int)n_columns}});
}

/* On the device; all NULL if weights are not equalised. */
static struct qe_equaliser
equaliser_of(const struct upload *u, const struct device_shape *s,
             const struct device_weights *w, int l)
{
    return s->equaliser_floats == 0
               ? qe_equaliser{}
               : qe_equaliser_at(&u->model->config,
                                 w->equalisers + l * s->equaliser_floats);
}

/* If u->pieces is NULL it only counts pieces. */
static void
add_tensors(struct upload *u, const struct device_shape *s,
            const struct device_weights *w)
{
    const struct qe_model *model = u->model;
    const size_t C = s->C, c = s->n_columns, i = model->config.intermediate_size;

    u->n_pieces = 0;
    if (s->embeds) {
        add_tensor(u, w->embed_tokens, model->weights.embed_tokens, s->V, c, C);
    }
    add_tensor(u, w->norm, model->weights.norm, 1, c, C);
    add_tensor(u, w->inv_freq, model->config.rope_inv_freq, 1, s->HS / 2, s->HS / 2);
    for (int l = 0; l < s->L; l++) {
        const struct qe_layer *from = &model->weights.layers[s->first_layer + l];
        const struct device_layer *to = &w->layers[l];
        const struct operand k_proj = rows_from(to->qkv_proj, s->q_width, C);
        const struct operand v_proj = rows_from(k_proj, s->kv_width, C);
        const struct operand up_proj = rows_from(to->gate_up_proj, s->I, C);
        const struct qe_equaliser e = equaliser_of(u, s, w, l);

        add_matrix(u, to->qkv_proj, from->q_proj, s->q_width, c, C, e.attention_input,
                   NULL);
        add_matrix(u, k_proj, from->k_proj, s->kv_width, c, C, e.attention_input, NULL);
        add_matrix(u, v_proj, from->v_proj, s->kv_width, c, C, e.attention_input,
                   e.value);
        add_matrix(u, to->o_proj, from->o_proj, c, s->q_width, s->q_width, e.output,
                   NULL);
        add_matrix(u, to->gate_up_proj, from->gate_proj, i, c, C, e.mlp_input, NULL);
        add_matrix(u, up_proj, from->up_proj, i, c, C, e.mlp_input, e.activation);
        add_matrix(u, to->down_proj, from->down_proj, c, i, s->I, e.activation, NULL);
        add_norm(u, to->input_layernorm, from->input_layernorm, c, e.attention_input);
        add_norm(u, to->post_attention_layernorm, from->post_attention_layernorm, c,
                 e.mlp_input);
        add_tensor(u, to->q_norm, from->q_norm, 1, s->HS, s->HS);
        add_tensor(u, to->k_norm, from->k_norm, 1, s->HS, s->HS);
    }
}

/* ---- workers ---- */

/* Reads a file with pread rather than through its mapping, because page faults cost
 * more than the copy. Weights that the model rounded are in plain memory. */
static int
read_bytes(const struct upload *u, unsigned char *to, const unsigned char *from,
           size_t n_bytes, struct qe_error *err)
{
    for (int i = 0; i < u->model->n_files; i++) {
        const struct qe_safetensors *file = &u->model->files[i];
        if (from < file->map || from >= file->map + file->map_bytes ||
            u->files[i] < 0) {
            continue;
        }
        off_t offset = from - file->map;
        while (n_bytes > 0) {
            ssize_t n = pread(u->files[i], to, n_bytes, offset);
            if (n < 0 && errno == EINTR) {
                continue;
            }
            if (n <= 0) {
                errno = n == 0 ? EIO : errno; /* shorter than when it was mapped */
                return qe_fail_errno(err, "%s: read at byte %lld", file->path,
                                     (long long)offset);
            }
            to += n;
            offset += n;
            n_bytes -= n;
        }
        return 0;
    }
    memcpy(to, from, n_bytes);
    return 0;
}

/* One thread's staging: while one slot is copied, the other is filled. */
struct staging {
    unsigned char *slots;      /* (2, SLOT_BYTES) pinned                      */
    unsigned char *bf16_slots; /* (2, SLOT_BYTES) device, if rows become bytes */
    cudaEvent_t copied[2];
    struct stream stream;
};

static int
open_staging(const struct upload *u, struct staging *s, struct qe_error *err)
{
    CUDA_TRY(err, cudaSetDevice(u->device));
    CUDA_TRY(err, stream_open(&s->stream));
    CUDA_TRY(err, cudaHostAlloc(&s->slots, 2 * SLOT_BYTES, cudaHostAllocDefault));
    if (has_scales(u->dtype)) {
        CUDA_TRY(err, cudaMalloc(&s->bf16_slots, 2 * SLOT_BYTES));
    }
    for (cudaEvent_t &event : s->copied) {
        CUDA_TRY(err, cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    }
    return 0;
}

static void
close_staging(struct staging *s)
{
    if (s->stream.handle != NULL) {
        cudaStreamSynchronize(s->stream.handle);
    }
    for (cudaEvent_t event : s->copied) {
        if (event != NULL) {
            cudaEventDestroy(event);
        }
    }
    stream_close(&s->stream);
    cudaFreeHost(s->slots);
    cudaFree(s->bf16_slots);
}

static cudaError_t
round_rows(enum qe_compute_dtype dtype, const struct piece *piece, const bf16 *rows,
           struct stream stream)
{
    const int n_rows = (int)piece->n_rows, n = (int)(piece->to_bytes / sizeof(bf16));
    const struct operand to = {piece->to, piece->scales};

    return dtype == QE_FLOAT8
               ? launch_quantize(to, rows, n_rows, n, n, stream)
               : launch_quantize_int8(to, rows, piece->equalising, n_rows, n, stream);
}

/* Queues the copy of a piece that lies in a slot. */
static cudaError_t
copy_piece(enum qe_compute_dtype dtype, const struct piece *piece, struct staging *s,
           int slot)
{
    const int n_rows = (int)piece->n_rows;
    unsigned char *to =
        piece->scales == NULL ? piece->to : s->bf16_slots + slot * SLOT_BYTES;
    cudaError_t status = cudaSuccess;

    if (piece->scales != NULL && piece->row_bytes < piece->to_bytes) {
        status = cudaMemsetAsync(to, 0, n_rows * piece->to_bytes, s->stream.handle);
    }
    if (status == cudaSuccess) {
        status = cudaMemcpy2DAsync(to, piece->to_bytes, s->slots + slot * SLOT_BYTES,
                                   piece->row_bytes, piece->row_bytes, n_rows,
                                   cudaMemcpyDefault, s->stream.handle);
    }
    if (status == cudaSuccess && piece->scales != NULL) {
        status =
            round_rows(dtype, piece, reinterpret_cast<const bf16 *>(to), s->stream);
    }
    if (status == cudaSuccess && piece->scales == NULL &&
        piece->equalising.rows != NULL) {
        status = launch_divide(reinterpret_cast<float *>(to), piece->equalising.rows,
                               (int)(piece->row_bytes / sizeof(float)), s->stream);
    }
    return status;
}

static int
copy_pieces(struct upload *u, struct staging *s, struct qe_error *err)
{
    size_t i;

    for (int slot = 0; u->n_failed == 0 && (i = u->next++) < u->n_pieces; slot ^= 1) {
        const struct piece *piece = &u->pieces[i];
        unsigned char *host = s->slots + slot * SLOT_BYTES;

        CUDA_TRY(err, cudaEventSynchronize(s->copied[slot]));
        int status =
            read_bytes(u, host, piece->from, piece->n_rows * piece->row_bytes, err);
        if (status < 0) {
            return status;
        }
        CUDA_TRY(err, copy_piece(u->dtype, piece, s, slot));
        CUDA_TRY(err, cudaEventRecord(s->copied[slot], s->stream.handle));
    }
    CUDA_TRY(err, cudaStreamSynchronize(s->stream.handle));
    return 0;
}

static void *
work(void *argument)
{
    struct worker *worker = static_cast<struct worker *>(argument);
    struct staging staging = {};
    int status = open_staging(worker->upload, &staging, &worker->err);

    if (status == 0) {
        status = copy_pieces(worker->upload, &staging, &worker->err);
    }
    if (status < 0) {
        worker->upload->n_failed++;
    }
    close_staging(&staging);
    return NULL;
}

/* The calling thread is one of the workers, so that there is at least one. */
static int
run_workers(struct upload *u, int n_threads, struct qe_error *err)
{
    struct worker workers[MAX_THREADS] = {};
    int n_started = 1;

    workers[0].upload = u;
    for (; n_started < n_threads; n_started++) {
        workers[n_started].upload = u;
        if (pthread_create(&workers[n_started].thread, NULL, work,
                           &workers[n_started])) {
            break;
        }
    }
    work(&workers[0]);
    for (int i = 1; i < n_started; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    for (int i = 0; i < n_started; i++) {
        if (workers[i].err.status < 0) {
            *err = workers[i].err;
            return err->status;
        }
    }
    return 0;
}

int
device_weights_upload(const struct qe_model *model, const struct device_shape *shape,
                      int device, const struct device_weights *weights,
                      struct qe_error *err)
{
    struct upload u = {};
    long n_cores = sysconf(_SC_NPROCESSORS_ONLN);
    int status = 0;

    u.model = model;
    u.dtype = shape->dtype;
    u.device = device;
    add_tensors(&u, shape, weights);
    u.pieces = static_cast<struct piece *>(malloc((u.n_pieces + 1) * sizeof *u.pieces));
    u.files = static_cast<int *>(malloc((model->n_files + 1) * sizeof *u.files));
    if (u.pieces == NULL || u.files == NULL) {
        status =
            qe_fail(err, QE_ENOMEM, "weights: no memory for %zu pieces", u.n_pieces);
    }
    for (int i = 0; u.files != NULL && i < model->n_files; i++) {
        /* If it can't be opened again, its mapping is read. */
        u.files[i] = open(model->files[i].path, O_RDONLY | O_CLOEXEC);
    }
    if (status == 0) {
        add_tensors(&u, shape, weights);
        int n_threads = n_cores > MAX_THREADS ? MAX_THREADS
                        : n_cores < 1         ? 1
                                              : (int)n_cores;
        status = run_workers(&u, n_threads, err);
    }
    for (int i = 0; u.files != NULL && i < model->n_files; i++) {
        if (u.files[i] >= 0) {
            close(u.files[i]);
        }
    }
    free(u.files);
    free(u.pieces);
    return status;
}
