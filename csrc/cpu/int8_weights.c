/* int8_weights.c: one reservation of memory per table; layer by layer, equalise, round,
 * let go. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, madvise */
#include "int8_weights.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "int8_scales.h"
#include "vec.h"

typedef int8_t bytes __attribute__((vector_size(QE_LANES)));

#define ALIGN_BYTES 64
#define TASK_ROWS 8
#define PART_K 256 /* columns of a row that are scaled at a time */
#define N_MATRICES 7
#define N_NORMS 2

/* A matrix on its way to int8. */
struct rounding {
    const unsigned char *from; /* (n, k) bf16                                      */
    const float *columns;      /* (k) what columns are multiplied by, or NULL      */
    const float *rows;         /* (n) what rows are divided by, or NULL            */
    int n, k;
    int int8_zero;
    int8_t *values;   /* (n, k)                                                    */
    float *scales;    /* (n)                                                       */
    int32_t *offsets; /* (n, n_groups), or NULL                                    */
};

static int
n_groups(int k)
{
    return (k + QE_GROUP - 1) / QE_GROUP;
}

/* part (PART_K) fp32 <- n columns of row i from k0 on, scaled, then zeros. Raises top
 * to the bits of the largest magnitude in each lane, NaN being the largest of all. */
static void
load_part(const struct rounding *r, int i, int k0, int n, float part[PART_K], ivec *top)
{
    const unsigned char *from = r->from + 2 * ((size_t)i * r->k + k0);
    qe_bf16 padded[PART_K] = {0};
    float columns[PART_K] = {0};
    ivec largest = *top;

    if (n < PART_K) {
        memcpy(padded, from, (size_t)n * sizeof *padded);
        from = (const unsigned char *)padded;
    }
    if (r->columns != NULL) {
        memcpy(columns, r->columns + k0, (size_t)n * sizeof *columns);
    }
    for (int j = 0; j < PART_K; j += QE_LANES) {
        vec x = vec_load_bf16(from + 2 * j);
        x = r->columns == NULL ? x : x * vec_load(columns + j);
        vec_store(part + j, x);
        ivec magnitude = (ivec)x & 0x7fffffff;
        ivec larger = magnitude > largest;
        largest = (magnitude & larger) | (largest & ~larger);
    }
    *top = largest;
}

/* values (n) <- x (PART_K) times inverse, to nearest, ties to even, for results below
 * 2^22: adding 1.5 * 2^23 leaves no fraction. */
static void
round_part(int8_t *values, const float *x, float inverse, int n)
{
    const vec magic = vec_all(12582912.0f);
    int8_t rounded[PART_K];

    for (int j = 0; j < PART_K; j += QE_LANES) {
        ivec whole = (ivec)(vec_load(x + j) * inverse + magic) - (ivec)magic;
        bytes low = __builtin_convertvector(whole, bytes);
        memcpy(rounded + j, &low, sizeof low);
    }
    memcpy(values, rounded, (size_t)n);
}

static void
sum_groups(const struct rounding *r, int i)
{
    const int8_t *values = r->values + (size_t)i * r->k;

    for (int g = 0; g < n_groups(r->k); g++) {
        int end = (g + 1) * QE_GROUP < r->k ? (g + 1) * QE_GROUP : r->k;
        int32_t sum = 0;
        for (int j = g * QE_GROUP; j < end; j++) {
            sum += values[j];
        }
        r->offsets[(size_t)i * n_groups(r->k) + g] = -r->int8_zero * sum;
    }
}

static void
round_row(const struct rounding *r, int i)
{
    float part[PART_K], largest;
    ivec top = {0};
    int32_t bits = 0;

    for (int k0 = 0; k0 < r->k; k0 += PART_K) {
        int n = r->k - k0 < PART_K ? r->k - k0 : PART_K;
        load_part(r, i, k0, n, part, &top);
    }
    for (int j = 0; j < QE_LANES; j++) {
        bits = top[j] > bits ? top[j] : bits;
    }
    memcpy(&largest, &bits, sizeof largest);
    struct qe_int8_scale scale = qe_int8_scale_of(largest);
    r->scales[i] = r->rows == NULL ? scale.scale : scale.scale / r->rows[i];
    for (int k0 = 0; k0 < r->k; k0 += PART_K) {
        int n = r->k - k0 < PART_K ? r->k - k0 : PART_K;
        load_part(r, i, k0, n, part, &top);
        round_part(r->values + (size_t)i * r->k + k0, part, scale.inverse, n);
    }
    if (r->offsets != NULL) {
        sum_groups(r, i);
    }
}

static void
round_rows_task(void *context, int task, int worker)
{
    const struct rounding *r = context;
    int end = (task + 1) * TASK_ROWS < r->n ? (task + 1) * TASK_ROWS : r->n;
    (void)worker;

    for (int i = task * TASK_ROWS; i < end; i++) {
        round_row(r, i);
    }
}

/* ---- one table ---- */

/* A matrix of a layer: where it is in bf16, and where it goes. */
struct part {
    size_t member; /* of struct qe_layer */
    struct qe_matrix *to;
    int k;
    const float *columns, *rows; /* as in struct rounding */
};

static const void *
find_matrix(const struct qe_layer *layer, size_t member)
{
    const void *matrix;

    memcpy(&matrix, (const unsigned char *)layer + member, sizeof matrix);
    return matrix;
}

static void
list_parts(const struct qe_config *c, const struct qe_equaliser *e,
           struct qe_cpu_layer *layer, struct part parts[N_MATRICES])
{
    const int C = c->hidden_size, q_width = c->n_heads * c->head_dim;
    const struct part list[N_MATRICES] = {
        {offsetof(struct qe_layer, q_proj), &layer->qkv[0], C, e->attention_input,
         NULL},
        {offsetof(struct qe_layer, k_proj), &layer->qkv[1], C, e->attention_input,
         NULL},
        {offsetof(struct qe_layer, v_proj), &layer->qkv[2], C, e->attention_input,
         e->value},
        {offsetof(struct qe_layer, o_proj), &layer->o[0], q_width, e->output, NULL},
        {offsetof(struct qe_layer, gate_proj), &layer->gate_up[0], C, e->mlp_input,
         NULL},
        {offsetof(struct qe_layer, up_proj), &layer->gate_up[1], C, e->mlp_input,
         e->activation},
        {offsetof(struct qe_layer, down_proj), &layer->down[0], c->intermediate_size,
         e->activation, NULL},
    };

    memcpy(parts, list, sizeof list);
}

/* Hands out the next n_bytes; with base NULL only counts. */
static void *
carve(unsigned char *base, size_t *used, size_t n_bytes)
{
    size_t at = *used;

    *used += (n_bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    return base == NULL ? NULL : base + at;
}

static size_t
padded_floats(int n)
{
    return ((size_t)n + QE_K_STEP - 1) / QE_K_STEP * QE_K_STEP;
}

/* Where the matrices and norms of a table go that are not those of `own`, the model's
 * table, whose members the others have; NULL: it is the model's. */
struct building {
    const struct qe_config *config;
    const struct qe_int8_weights *weights;
    const struct qe_weights *from;
    struct qe_int8_table *table;
    const struct qe_int8_table *own;
    int int8_zero;
};

static void
lay_out_layer(const struct building *b, int l, unsigned char *base, size_t *used)
{
    const struct qe_config *c = b->config;
    const struct qe_layer *from = &b->from->layers[l];
    struct qe_cpu_layer *to = &b->table->layers[l];
    const struct qe_layer *model = &b->weights->model->weights.layers[l];
    struct part parts[N_MATRICES], own[N_MATRICES];
    size_t norm_bytes = padded_floats(c->hidden_size) * sizeof(float);

    *to = qe_cpu_layer(c, from);
    list_parts(c, &b->weights->equalisers[l], to, parts);
    if (b->own != NULL) {
        list_parts(c, &b->weights->equalisers[l], &b->own->layers[l], own);
    }
    for (int i = 0; i < N_MATRICES; i++) {
        struct qe_matrix *matrix = parts[i].to;
        if (b->own != NULL &&
            find_matrix(from, parts[i].member) == find_matrix(model, parts[i].member)) {
            *matrix = *own[i].to;
            continue;
        }
        size_t n_offsets = (size_t)matrix->n * n_groups(parts[i].k);
        matrix->rows = carve(base, used, (size_t)matrix->n * parts[i].k);
        matrix->scales = carve(base, used, matrix->n * sizeof(float));
        matrix->offsets =
            b->int8_zero == 0 ? NULL : carve(base, used, n_offsets * sizeof(int32_t));
    }
    to->input_layernorm = carve(base, used, norm_bytes);
    to->post_attention_layernorm = carve(base, used, norm_bytes);
}

/* Returns the bytes. */
static size_t
lay_out(const struct building *b, unsigned char *base)
{
    const struct qe_config *c = b->config;
    size_t used = 0;

    for (int l = 0; l < c->n_layers; l++) {
        lay_out_layer(b, l, base, &used);
    }
    b->table->embed_tokens = b->from->embed_tokens;
    if (b->own != NULL && b->from->embed_tokens != b->own->embed_tokens) {
        b->table->embed_tokens =
            carve(base, &used, (size_t)c->vocab_size * c->hidden_size * 2);
    }
    return used;
}

static void
divide_norm(const float *to, const float *from, const float *scales, int n)
{
    float *norm = (float *)to; /* of this table's memory, so far not const */

    for (int i = 0; i < n; i++) {
        norm[i] = from[i] / scales[i];
    }
}

static void
round_layer(const struct building *b, int l, struct qe_threads *threads)
{
    const struct qe_equaliser *e = &b->weights->equalisers[l];
    const struct qe_layer *from = &b->from->layers[l];
    struct qe_cpu_layer *to = &b->table->layers[l];
    const unsigned char *memory = b->table->memory;
    struct part parts[N_MATRICES];

    list_parts(b->config, e, to, parts);
    for (int i = 0; i < N_MATRICES; i++) {
        struct qe_matrix *matrix = parts[i].to;
        const unsigned char *rows = matrix->rows;
        if (rows < memory || rows >= memory + b->table->memory_bytes) {
            continue; /* the model's */
        }
        struct rounding r = {
            .from = find_matrix(from, parts[i].member),
            .columns = parts[i].columns,
            .rows = parts[i].rows,
            .n = matrix->n,
            .k = parts[i].k,
            .int8_zero = b->int8_zero,
            .values = (int8_t *)matrix->rows,
            .scales = (float *)matrix->scales,
            .offsets = (int32_t *)matrix->offsets,
        };
        qe_threads_run(threads, (r.n + TASK_ROWS - 1) / TASK_ROWS, round_rows_task, &r,
                       NULL);
    }
    divide_norm(to->input_layernorm, from->input_layernorm, e->attention_input,
                b->config->hidden_size);
    divide_norm(to->post_attention_layernorm, from->post_attention_layernorm,
                e->mlp_input, b->config->hidden_size);
}

/* The pages that lie in a matrix whole need not stay in memory: a file's are read again
 * where they are needed, others are not needed again. */
static void
release_pages(const void *matrix, size_t n_bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)matrix + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)matrix + n_bytes) / page * page;

    if (begin < end) {
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
    }
}

static void
release_layer(const struct building *b, int l)
{
    struct part parts[N_MATRICES];

    list_parts(b->config, &b->weights->equalisers[l], &b->table->layers[l], parts);
    for (int i = 0; i < N_MATRICES; i++) {
        release_pages(find_matrix(&b->from->layers[l], parts[i].member),
                      (size_t)parts[i].to->n * parts[i].k * 2);
    }
}

static void
close_table(struct qe_int8_table *table)
{
    if (table->memory != NULL) {
        munmap(table->memory, table->memory_bytes);
    }
    free(table->layers);
    free(table);
}

/* Allocates the table and lays it out; it is the caller's until it is in the list. */
static int
open_table(struct building *b, struct qe_error *err)
{
    struct qe_int8_table *table = calloc(1, sizeof *table);

    if (table != NULL) {
        table->layers = calloc((size_t)b->config->n_layers, sizeof *table->layers);
    }
    if (table == NULL || table->layers == NULL) {
        free(table);
        return qe_fail(err, QE_ENOMEM, "int8: no memory for %d layers",
                       b->config->n_layers);
    }
    table->weights = b->from;
    b->table = table;
    table->memory_bytes = lay_out(b, NULL);
    table->memory = mmap(NULL, table->memory_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table->memory == MAP_FAILED) {
        table->memory = NULL;
        qe_fail(err, QE_ENOMEM, "int8: no memory for %zu bytes of weights",
                table->memory_bytes);
        close_table(table);
        return err->status;
    }
    (void)madvise(table->memory, table->memory_bytes, MADV_HUGEPAGE);
    lay_out(b, table->memory);
    return 0;
}

/* ---- all tables ---- */

static int
alloc_equalisers(struct qe_int8_weights *weights, struct qe_error *err)
{
    const struct qe_config *c = &weights->model->config;
    size_t n_floats = qe_equaliser_floats(c);

    weights->equalisers = calloc((size_t)c->n_layers, sizeof *weights->equalisers);
    weights->equaliser_floats = calloc(c->n_layers * n_floats, sizeof(float));
    if (weights->equalisers == NULL || weights->equaliser_floats == NULL) {
        return qe_fail(err, QE_ENOMEM, "int8: no memory for the scales of %d layers",
                       c->n_layers);
    }
    for (int l = 0; l < c->n_layers; l++) {
        weights->equalisers[l] =
            qe_equaliser_at(c, weights->equaliser_floats + l * n_floats);
    }
    return 0;
}

int
qe_int8_weights_open(const struct qe_model *model, int int8_zero,
                     struct qe_threads *threads, struct qe_int8_weights *weights,
                     struct qe_error *err)
{
    const struct qe_config *c = &model->config;
    struct building b = {.config = c,
                         .weights = weights,
                         .from = &model->weights,
                         .int8_zero = int8_zero};

    *weights = (struct qe_int8_weights){.int8_zero = int8_zero, .model = model};
    double *doubles = malloc(qe_moments_doubles(c) * sizeof *doubles);
    if (doubles == NULL) {
        return qe_fail(err, QE_ENOMEM, "int8: no memory to equalise channels");
    }
    if (alloc_equalisers(weights, err) < 0 || open_table(&b, err) < 0) {
        free(doubles);
        return err->status;
    }
    struct qe_moments moments = qe_moments_at(c, doubles);
    qe_equalise_begin(c, model->weights.embed_tokens, &moments);
    if (model->rounded == NULL) { /* the table is a file's, and read there again */
        release_pages(model->weights.embed_tokens,
                      (size_t)c->vocab_size * c->hidden_size * 2);
    }
    for (int l = 0; l < c->n_layers; l++) {
        qe_equalise_layer(c, &model->weights.layers[l], &moments,
                          &weights->equalisers[l], threads);
        round_layer(&b, l, threads);
        release_layer(&b, l);
    }
    free(doubles);
    weights->tables = b.table;
    weights->n_bytes = b.table->memory_bytes;
    return 0;
}

int
qe_int8_weights_add(struct qe_int8_weights *weights, const struct qe_weights *from,
                    int n_threads, struct qe_error *err)
{
    const struct qe_config *c = &weights->model->config;
    struct qe_threads *threads;
    struct building b = {.config = c,
                         .weights = weights,
                         .from = from,
                         .own = weights->tables,
                         .int8_zero = weights->int8_zero};

    if (open_table(&b, err) < 0) {
        return err->status;
    }
    if (qe_threads_open(n_threads, &threads, err) < 0) {
        close_table(b.table);
        return err->status;
    }
    for (int l = 0; l < c->n_layers; l++) {
        round_layer(&b, l, threads);
    }
    qe_threads_close(threads);
    if (b.table->embed_tokens != weights->tables->embed_tokens) {
        memcpy((void *)b.table->embed_tokens, from->embed_tokens,
               (size_t)c->vocab_size * c->hidden_size * 2);
    }
    weights->n_bytes += b.table->memory_bytes;
    atomic_store(&b.table->next, atomic_load(&weights->tables->next));
    atomic_store(&weights->tables->next, b.table);
    return 0;
}

const struct qe_int8_table *
qe_int8_weights_find(const struct qe_int8_weights *weights,
                     const struct qe_weights *table)
{
    const struct qe_int8_table *found = weights->tables;

    while (found != NULL && found->weights != table) {
        found = atomic_load(&found->next);
    }
    return found;
}

void
qe_int8_weights_close(struct qe_int8_weights *weights)
{
    while (weights->tables != NULL) {
        struct qe_int8_table *table = weights->tables;
        weights->tables = atomic_load(&table->next);
        close_table(table);
    }
    free(weights->equalisers);
    free(weights->equaliser_floats);
    *weights = (struct qe_int8_weights){0};
}
